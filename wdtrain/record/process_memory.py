"""How much memory this process uses, for the console, the log and the report."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch


@dataclass(frozen=True)
class ProcessMemory:
    """used_bytes of `what` ("RSS" of the process, or "CUDA" held by the allocator).

    budget_bytes: what may be used, None where nobody set it; peak_bytes: the most that was used so
    far; retries: how often the allocator had to give back what it kept before a request fitted.
    """

    used_bytes: int
    budget_bytes: int | None
    what: str
    peak_bytes: int = 0
    retries: int = 0


def measure_memory(
    device: torch.device | str = "cpu", *, budget_bytes: int | None = None
) -> ProcessMemory:
    """What is used now: on CUDA what the allocator holds (budget: what it may hold).

    device: a GPU with its index ("cuda:0"), as the accelerator has it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = torch.cuda.get_per_process_memory_fraction(device)
        stats = torch.cuda.memory_stats(device)
        return ProcessMemory(
            used_bytes=stats["reserved_bytes.all.current"],
            budget_bytes=budget_bytes or int(share * total),
            what="CUDA",
            peak_bytes=stats["reserved_bytes.all.peak"],
            retries=stats["num_alloc_retries"],
        )
    used = psutil.Process(os.getpid()).memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ProcessMemory(used, budget_bytes, "RSS", max(used, peak))


def save_snapshot(folder: Path, device: torch.device) -> Path | None:
    """What the CUDA allocator holds, with its history where that was recorded, is in the folder,
    as https://pytorch.org/memory_viz reads it. None without a GPU."""
    if device.type != "cuda":
        return None
    path = folder / f"memory-rank-{os.environ.get('RANK', '0')}.pickle"
    dump: Any = torch.cuda.memory._dump_snapshot
    dump(str(path))
    return path
