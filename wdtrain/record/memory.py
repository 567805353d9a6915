"""How much memory this process uses, for the console, the log and the report."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class Memory:
    """used_bytes of `what` ("RSS" of the process, or "CUDA" held by the allocator).

    budget_bytes: what may be used, None where nobody set it.
    """

    used_bytes: int
    budget_bytes: int | None
    what: str


def measure_memory(
    device: torch.device | str = "cpu", *, budget_bytes: int | None = None
) -> Memory:
    """What is used now: on CUDA what the allocator holds (budget: the device if not given)."""
    device = torch.device(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return Memory(torch.cuda.memory_reserved(device), budget_bytes or total, "CUDA")
    return Memory(psutil.Process(os.getpid()).memory_info().rss, budget_bytes, "RSS")
