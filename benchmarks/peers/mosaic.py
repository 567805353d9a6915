"""MosaicML Streaming (MDS); options: `raw` stores uint8 arrays, else the JPEG and the PNGs.

Settings: shards of 64 MB without compression (its zstd keeps a decompressed copy beside each shard,
so that only the first epoch pays), `shuffle=True` with its default algorithm, `predownload` of
everything, so that the thread that prepares shards is done early and leaves the lock alone; whole
batches decoded by the fast decoders where PyTorch's DataLoader collates.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from peers.decoders import decode_batch, join_raw, split_raw
from peers.job import Batch, Job, Loader
from peers.shared import MEMBERS, Shared


def stand_in_for_torchvision() -> None:
    """`import streaming` works without a usable torchvision, of which MDS needs nothing.

    torchvision's wheels are built for one build of torch each: beside torch for the CPU from
    elsewhere they cannot be imported, and `streaming` imports two of their names at its top.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        wanted = {"": (), ".datasets": ("VisionDataset",), ".transforms": ()}
        for name, members in {**wanted, ".transforms.functional": ("to_tensor",)}.items():
            module = ModuleType(f"torchvision{name}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            for member in members:
                setattr(module, member, type(member, (), {}))
            sys.modules[module.__name__] = module


stand_in_for_torchvision()
from streaming import MDSWriter, StreamingDataset  # noqa: E402


def write(job: Job, shared: Shared) -> None:
    columns = {"raw": "bytes"} if job.options.get("raw", False) else dict.fromkeys(MEMBERS, "bytes")
    with MDSWriter(out=job.data, columns=columns) as writer:
        if job.options.get("raw", False):
            for sample in shared.raw():
                writer.write({"raw": join_raw(*sample)})
        else:
            for members in shared.encoded():
                writer.write(dict(zip(MEMBERS, members, strict=True)))


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)
    # It refuses to open a folder that another process reads: each gets a link of its own.
    local = Path(job.scratch) / "mds"
    local.unlink(missing_ok=True)
    local.symlink_to(job.data)

    def decoded(rows: list[dict[str, bytes]]) -> Any:
        arrays = decode_batch([[row[name] for name in MEMBERS] for row in rows], job.size)
        return tuple(map(torch.from_numpy, arrays))

    def stacked(rows: list[dict[str, bytes]]) -> Any:
        flat = np.frombuffer(b"".join(row["raw"] for row in rows), np.uint8)
        return split_raw(torch.from_numpy(flat.reshape(len(rows), -1).copy()), job.size)

    dataset = StreamingDataset(
        local=str(local),
        shuffle=True,
        shuffle_seed=job.seed,
        batch_size=job.batch_size,
        predownload=job.count,
    )
    loader: Iterable[Batch] = DataLoader(
        dataset,
        batch_size=job.batch_size,
        collate_fn=stacked if job.options.get("raw", False) else decoded,
        num_workers=job.num_worker_processes,
        persistent_workers=job.num_worker_processes > 0,
    )
    return Loader(epoch=lambda: loader)
