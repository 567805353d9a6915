"""Grain over ArrayRecord; options: `raw` stores pixels, else JPEG and PNGs with their lengths.

Settings: records of one group each, without compression (random access needs it); a global shuffle;
a batch decoded at once by the fast decoders; 1 worker reads in process with `read_threads`, 2 are
worker processes (`mp_prefetch`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from peers.decoders import decode_batch, join_raw, split_raw
from peers.job import Batch, Job, Loader
from peers.shared import Shared

LENGTHS = struct.Struct("<II")
READ_THREADS = 1
READY_BATCHES = 4


def write(job: Job, shared: Shared) -> None:
    writer = ArrayRecordWriter(f"{job.data}/train.array_record", "group_size:1,uncompressed")
    if job.options.get("raw", False):
        for sample in shared.raw():
            writer.write(join_raw(*sample))
    else:
        for jpeg, mask, depth in shared.encoded():
            writer.write(LENGTHS.pack(len(jpeg), len(mask)) + jpeg + mask + depth)
    writer.close()


def parsed(record: bytes) -> tuple[memoryview, memoryview, memoryview]:
    """JPEG, mask and depth of a record."""
    jpeg, mask = LENGTHS.unpack_from(record)
    body = memoryview(record)[LENGTHS.size :]
    return body[:jpeg], body[jpeg : jpeg + mask], body[jpeg + mask :]


class Decode:
    """A batch of records as arrays; worker processes get it pickled."""

    def __init__(self, size: int, raw: bool) -> None:
        self.size, self.raw = size, raw

    def __call__(self, records: Sequence[bytes]) -> Any:
        if self.raw:
            flat = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
            return split_raw(flat, self.size)
        return decode_batch([parsed(record) for record in records], self.size)


def open_loader(job: Job) -> Loader:
    def read(epochs: int | None) -> Iterator[Batch]:
        source = grain.MapDataset.source(
            grain.sources.ArrayRecordDataSource(f"{job.data}/train.array_record")
        )
        batches = (
            source.shuffle(seed=job.seed)
            .repeat(epochs)
            .batch(job.batch_size, batch_fn=Decode(job.size, job.options.get("raw", False)))
            .to_iter_dataset(grain.ReadOptions(READ_THREADS, READY_BATCHES))
        )
        if job.num_worker_processes:
            options = grain.multiprocessing.MultiprocessingOptions(job.num_worker_processes)
            batches = batches.mp_prefetch(options)
        yield from batches

    return Loader(epoch=lambda: read(1), endless=lambda: read(None))
