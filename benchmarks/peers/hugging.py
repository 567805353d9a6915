"""Hugging Face datasets (Arrow files, mapped); options: `raw` stores pixels, else JPEG and PNGs.

Settings: the `arrow` format and a shuffled list of row numbers for each batch, so one `take` from
the mapped file; whole batches decoded by the fast decoders; PyTorch's DataLoader for 2 workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from peers.decoders import decode_batch, join_raw, split_raw
from peers.job import Batch, Job, Loader
from peers.shared import MEMBERS, Shared

ROWS_PER_WRITE = 1000


def write(job: Job, shared: Shared) -> None:
    names = ("raw",) if job.options.get("raw", False) else MEMBERS

    def rows() -> Iterator[dict[str, bytes]]:
        if job.options.get("raw", False):
            for sample in shared.raw():
                yield {"raw": join_raw(*sample)}
        else:
            for members in shared.encoded():
                yield dict(zip(MEMBERS, members, strict=True))

    features = datasets.Features({name: datasets.Value("binary") for name in names})
    made = datasets.Dataset.from_generator(
        rows, features=features, cache_dir=job.scratch, writer_batch_size=ROWS_PER_WRITE
    )
    made.save_to_disk(job.data)


class Batches(Dataset[Batch]):
    """Batch by its row numbers."""

    def __init__(self, job: Job) -> None:
        self.rows = datasets.load_from_disk(job.data).with_format("arrow")
        self.raw, self.size = job.options.get("raw", False), job.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, numbers: list[int]) -> Any:
        table = self.rows[numbers]
        if self.raw:
            column = table["raw"].combine_chunks()
            start = column.offset * 5 * self.size**2
            flat = np.frombuffer(column.buffers()[2], np.uint8)[start:]
            flat = flat[: len(column) * 5 * self.size**2]
            arrays = split_raw(flat.reshape(len(column), -1), self.size)
        else:
            columns = (table[name].to_pylist() for name in MEMBERS)
            arrays = decode_batch(list(zip(*columns, strict=True)), self.size)
        return tuple(map(torch.from_numpy, arrays))


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)
    rows = Batches(job)
    order = RandomSampler(rows, generator=torch.Generator().manual_seed(job.seed))
    loader: Iterable[Batch] = DataLoader(
        rows,
        batch_size=None,
        sampler=BatchSampler(order, job.batch_size, drop_last=False),
        num_workers=job.num_worker_processes,
        persistent_workers=job.num_worker_processes > 0,
    )
    return Loader(epoch=lambda: loader)
