"""wdtrain's own reader. One stream stays open over the epochs, as in training; options: `dataset`.

With a size below the stored one it reads at that size (`size=`). The threads are the row's workers.
"""

from __future__ import annotations

from collections.abc import Iterator

from peers.job import Batch, Job, Loader
from wdtrain.stream import open_stream

ENDLESS = 1_000_000
"""Epochs of the stream that rounds take from: more than any measurement reads."""


def open_loader(job: Job) -> Loader:
    def read(epochs: int) -> Iterator[Batch]:
        stream = open_stream(
            job.data,
            split="train",
            batch_size=job.batch_size,
            seed=job.seed,
            threads=job.workers,
            epochs=epochs,
            size=job.size,
        )
        for batch in stream:
            yield batch["overlay"], batch["mask"], batch["depth"]

    return Loader(epoch=lambda: read(1), endless=lambda: read(ENDLESS))
