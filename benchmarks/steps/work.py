"""What all contenders do alike: the batches in memory, the networks, losses and optimizers.

Networks begin with the same weights in every row. The parameters that no loss reaches (37,056 of
seed-mask) are never run, so they cost nobody anything: without a gradient, every optimizer leaves
them alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wdtrain import learn
from wdtrain.learn.groups import plan_micro_batches
from wdtrain.learn.rows import Rows, StoredBatch
from wdtrain.networks import build, domain_of
from wdtrain.store.manifest import Manifest
from wdtrain.stream import open_stream
from wdtrain.targets import Target, target_of
from wdtrain.targets.choice import Loss, build_loss

SEED, LEARNING_RATE, CHUNK = 0, 1e-3, 32
NEVER = 10**9
LEARNED: dict[str, tuple[str, str]] = {
    "mask": ("seed-mask", "bce+dice"),
    "depth": ("seed-unet", "smooth-l1"),
}
"""Network and loss of each task; AdamW for both."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared. targets: the tasks of a step; precision: fp32 or bf16."""

    targets: tuple[str, ...]
    batch: int
    micro_batch: int
    norm_group: int
    precision: str
    threads: int
    device: torch.device

    def __post_init__(self) -> None:
        if self.batch % self.chunk or self.micro_batch % self.norm_group:
            raise ValueError(
                f"batch {self.batch}, micro-batch {self.micro_batch} and norm group "
                f"{self.norm_group} do not fit: chunks of {self.chunk} are dealt to a batch, and "
                "groups to a micro-batch, whole; choose multiples"
            )

    @property
    def chunk(self) -> int:
        return CHUNK if CHUNK % self.norm_group == 0 else self.norm_group


@dataclass(frozen=True)
class Learner:
    """One network of a plain loop, on the device, in training mode."""

    target: Target
    network: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class Work:
    """batches: stored samples on the host, uint8; view: how they are augmented and normalised."""

    settings: Settings
    manifest: Manifest
    batches: list[Rows]
    view: learn.View

    def learners(self, *, compiled: bool = False) -> list[Learner]:
        """New networks with plain BatchNorm and Dropout, each with a fused AdamW."""
        learners = []
        for field in self.settings.targets:
            target, (name, loss) = target_of(self.manifest.fields[field]), LEARNED[field]
            network = build(name, init_seed=SEED).to(self.settings.device)
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if compiled:
                network.compile()
            optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
            chosen = build_loss(loss, domain_of(network), target)
            learners.append(Learner(target, network.train(), chosen, optimizer))
        return learners

    def cut(self, rows: Rows) -> Iterator[Rows]:
        """The micro-batches of a batch."""
        for first, last in plan_micro_batches(rows.groups, self.settings.micro_batch):
            yield rows.part(first, last)


def open_work(url: str, settings: Settings, num_batches: int) -> Work:
    """The first batches of a packed dataset are in memory, and everything else is checked."""
    manifest = Manifest.load(url)
    stream = open_stream(
        manifest,
        split="train",
        batch_size=settings.batch,
        seed=SEED,
        epochs=None,
        chunk=settings.chunk,
        pin_memory=settings.device.type == "cuda",  # as in training; for everybody here
    )
    with closing(cast(Generator[StoredBatch, None, None], iter(stream))) as reading:
        batches = [learn.rows_of(next(reading), settings.norm_group) for _ in range(num_batches)]
    view = learn.plain_view(manifest, [manifest.image], settings.precision)
    return Work(settings, manifest, batches, view.augmented(learn.Augmentation(seed=SEED)))


def recipe_of(settings: Settings, url: str, folder: Path) -> dict[str, object]:
    """The same training as a recipe; no validation and no checkpoint comes in between."""
    return {
        "data": {"url": url, "chunk": settings.chunk},
        "run": {"folder": str(folder)},
        "train": {"batch_size": settings.batch, "steps": NEVER},
        "step": {"norm_group": settings.norm_group, "micro_batch": settings.micro_batch},
        "evaluate": {"every_steps": NEVER},
        "checkpoint": {"every_steps": NEVER},
        "log": {"console": "plain"},
        "precision": settings.precision,
        "cpu_threads": settings.threads,
        "tasks": {
            target: {
                "network": LEARNED[target][0],
                "loss": LEARNED[target][1],
                "optimizer": {"name": "adamw", "lr": LEARNING_RATE},
                "schedule": {"name": "constant"},
            }
            for target in settings.targets
        },
    }
