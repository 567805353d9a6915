"""Megatron-Energon over our plain `.tar` shards, indexed by its own `energon prepare`.

Settings: raw samples (`CrudeWebdataset`, no decoder of its own), a whole batch decoded at once by
the fast decoders; 1,000 samples in the shuffle buffer, slices of up to 100 samples.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.energon import (
    Cooker,
    CrudeSample,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
)

from peers.decoders import decode_batch
from peers.job import Batch, Job, Loader
from peers.shared import Shared

DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
SHUFFLE_BUFFER = 1000
SLICE_SAMPLES = 100


def write(job: Job, shared: Shared) -> None:
    """Links to our shards, and the index that Energon keeps beside them."""
    shards = sorted(Path(job.options["shards"]).glob("train-*.tar"))
    for shard in shards:
        os.link(shard, Path(job.data) / shard.name)
    energon = [sys.executable, "-m", "megatron.energon.cli.main", "prepare", job.data]
    options = ["--non-interactive", "--skip-dataset-yaml", "--num-workers", "2"]
    subprocess.run([*energon, *options, "--split-parts", "train:.*"], check=True)
    (Path(job.data) / ".nv-meta" / "dataset.yaml").write_text(DATASET)


@edataclass
class Encoded(Sample):  # type: ignore[misc]  # seen as Any outside its environment
    """The members of a sample as they are stored."""

    overlay: bytes
    mask: bytes
    depth: bytes


@stateless  # type: ignore[untyped-decorator]
def cook(sample: CrudeSample) -> Encoded:
    return Encoded(
        **basic_sample_keys(sample),
        overlay=sample["overlay.jpg"],
        mask=sample["mask.png"],
        depth=sample["depth.png"],
    )


class Encoder(DefaultTaskEncoder[Any, Any, Any, Any]):  # type: ignore[misc]
    """Batches of decoded arrays."""

    cookers = (Cooker(cook),)
    decoder = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @stateless  # type: ignore[untyped-decorator]
    def encode_sample(self, sample: Encoded) -> Encoded:
        return sample

    @stateless  # type: ignore[untyped-decorator]
    def batch(self, samples: list[Encoded]) -> Any:
        members = [(sample.overlay, sample.mask, sample.depth) for sample in samples]
        return tuple(map(torch.from_numpy, decode_batch(members, self.size)))

    @stateless  # type: ignore[untyped-decorator]
    def encode_batch(self, batch: Any) -> Any:
        return batch


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)

    def read(repeat: bool) -> Iterator[Batch]:
        dataset = get_train_dataset(
            job.data,
            worker_config=WorkerConfig(
                rank=0, world_size=1, num_workers=job.num_worker_processes, seed_offset=job.seed
            ),
            batch_size=job.batch_size,
            shuffle_buffer_size=SHUFFLE_BUFFER,
            max_samples_per_sequence=SLICE_SAMPLES,
            task_encoder=Encoder(job.size),
            repeat=repeat,
        )
        yield from get_loader(dataset)

    return Loader(epoch=lambda: read(False), endless=lambda: read(True))
