"""SPDL over our plain `.tar` shards: its C++ tar parser and its thread pipeline.

Settings: shards in a shuffled order, two open at a time and their samples shuffled together; a task
decodes a whole batch by the fast decoders, as many tasks at once as workers; its hooks that take
times are turned off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import spdl.io
from spdl.pipeline import PipelineBuilder

from peers.decoders import decode_batch
from peers.job import Batch, Job, Loader

OPEN_SHARDS = 2
READY_BATCHES = 3
Members = list[tuple[memoryview, ...]]


def open_loader(job: Job) -> Loader:
    shards = job.shards("train-*.tar")

    def batches(epochs: int | None) -> Iterator[Members]:
        rng = np.random.default_rng(job.seed)
        for _ in itertools.count() if epochs is None else range(epochs):
            order = rng.permutation(len(shards))
            samples: Members = []
            for first in range(0, len(order), OPEN_SHARDS):
                some = order[first : first + OPEN_SHARDS]
                more = [sample for shard in some for sample in parsed(shards[shard])]
                samples += [more[row] for row in rng.permutation(len(more))]
                while len(samples) >= job.batch_size:
                    yield samples[: job.batch_size]
                    del samples[: job.batch_size]
            if samples:
                yield samples

    def decode(samples: Members) -> Batch:
        return decode_batch(samples, job.size)

    def read(epochs: int | None) -> Iterator[Batch]:
        pipeline = (
            PipelineBuilder()
            .add_source(batches(epochs))
            .pipe(decode, concurrency=job.workers)
            .add_sink(READY_BATCHES)
            .build(num_threads=job.workers, task_hook_factory=lambda stage: [])
        )
        with pipeline.auto_stop():
            yield from pipeline

    return Loader(epoch=lambda: read(1), endless=lambda: read(None))


def parsed(shard: str) -> Members:
    """The members of a shard's samples, views of its bytes."""
    members = [view for _, view in spdl.io.iter_tarfile(Path(shard).read_bytes())]
    return list(zip(members[0::4], members[1::4], members[2::4], strict=True))
