"""What all contenders do alike: the batches in memory, the networks, losses and optimizers.

Networks begin with the same weights in every row. The parameters that no loss reaches (37,056 of
seed-mask) are never run, so they cost nobody anything: without a gradient, every optimizer leaves
them alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from wdtrain import learn
from wdtrain.learn.groups import plan_micro_batches
from wdtrain.learn.rows import Rows, StoredBatch
from wdtrain.networks import build, domain_of
from wdtrain.store.manifest import Manifest
from wdtrain.store.version1 import depth_of
from wdtrain.stream import open_stream
from wdtrain.targets.losses import Loss, build_loss
from wdtrain.targets.truth import TargetName

SEED, LEARNING_RATE, CHUNK = 0, 1e-3, 32
LEARNED: dict[TargetName, tuple[str, str]] = {
    "mask": ("seed-mask", "bce+dice"),
    "depth": ("seed-unet", "smooth-l1"),
}
"""Network and loss of each task; AdamW for both."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared. targets: the tasks of a step; precision: fp32 or bf16."""

    targets: tuple[TargetName, ...]
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

    target: TargetName
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
        for target in self.settings.targets:
            name, loss = LEARNED[target]
            network = build(name, init_seed=SEED).to(self.settings.device)
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if compiled:
                network.compile()
            optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
            chosen = build_loss(loss, domain_of(network))
            learners.append(Learner(target, network.train(), chosen, optimizer))
        return learners

    def declared(self) -> dict[str, dict[str, Any]]:
        """The same tasks, as `learn.build_tasks` and a recipe declare them."""
        optimizer = {"name": "adamw", "lr": LEARNING_RATE}
        return {
            target: {
                "network": LEARNED[target][0],
                "options": {},
                "target": target,
                "loss": LEARNED[target][1],
                "optimizer": optimizer,
            }
            for target in self.settings.targets
        }

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
    mean, std = manifest.mean_and_std(manifest.image)
    view = learn.plain_view(mean, std, depth_of(manifest.fields), settings.precision)
    return Work(settings, manifest, batches, view.augmented(learn.Augmentation(seed=SEED)))
