"""LitData; options: `raw` stores flat uint8 arrays, else the JPEG and the PNGs; `compression`.

Settings: chunks of 64 MB; its own default shuffling (chunks, then blocks of 256 inside a chunk);
flat arrays, which it reads faster than several or bytes; zstd a sample, which it reads faster than
its default frames of 256. (zstd a chunk is no choice: the first epoch writes the chunks back to the
dataset's folder decompressed, and from then on nothing is compressed.) Whole batches are decoded by
the fast decoders where its StreamingDataLoader collates. Its look for newer releases is turned off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from peers.decoders import decode_batch, join_raw, split_raw
from peers.job import Batch, Job, Loader
from peers.shared import MEMBERS, Shared

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
from litdata import StreamingDataLoader, StreamingDataset, optimize


@dataclass
class Samples:
    """Sample `index` in the form that is stored; its files are opened by the process that asks."""

    shared: Shared
    raw: bool

    @cached_property
    def _raw(self) -> list[np.ndarray]:
        return [self.shared.array(name) for name in ("overlay_raw", "mask", "depth")]

    @cached_property
    def _members(self) -> list[tuple[bytes, bytes, bytes]]:
        return list(self.shared.encoded())

    def __call__(self, index: int) -> Any:
        if self.raw:
            data = join_raw(*(array[index] for array in self._raw))
            return {"raw": np.frombuffer(data, np.uint8).copy()}
        return dict(zip(MEMBERS, self._members[index], strict=True))


def write(job: Job, shared: Shared) -> None:
    optimize(
        fn=Samples(shared, job.options.get("raw", False)),
        inputs=list(range(job.count)),
        output_dir=job.data,
        chunk_bytes="64MB",
        compression=job.options.get("compression"),
        compression_level="sample" if "compression" in job.options else None,
        num_workers=1,
        mode="overwrite",
    )


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)

    def decoded(rows: list[dict[str, bytes]]) -> Any:
        arrays = decode_batch([[row[name] for name in MEMBERS] for row in rows], job.size)
        return tuple(map(torch.from_numpy, arrays))

    def stacked(rows: list[dict[str, np.ndarray]]) -> Any:
        return split_raw(torch.from_numpy(np.stack([row["raw"] for row in rows])), job.size)

    loader: Iterable[Batch] = StreamingDataLoader(
        StreamingDataset(job.data, shuffle=True, drop_last=False, seed=job.seed),
        batch_size=job.batch_size,
        collate_fn=stacked if job.options.get("raw", False) else decoded,
        num_workers=job.num_worker_processes,
        persistent_workers=job.num_worker_processes > 0,
    )
    return Loader(epoch=lambda: loader)
