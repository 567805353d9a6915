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
from torch import Tensor, nn

from wdtrain import learn
from wdtrain.config import Recipe
from wdtrain.learn.groups import plan_micro_batches
from wdtrain.learn.rows import Rows, StoredBatch
from wdtrain.networks import build, domain_of
from wdtrain.store.manifest import Manifest
from wdtrain.stream import open_stream
from wdtrain.targets import Target, target_of
from wdtrain.targets.choice import Loss, build_loss

SEED, LEARNING_RATE, CHUNK = 0, 1e-3, 32
IMAGE = "overlay"
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
            name, loss = LEARNED[field]
            target = target_of(self.manifest.fields[field])
            network = build(name, init_seed=SEED).to(self.settings.device)
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if compiled:
                network.compile()
            optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
            chosen = build_loss(loss, domain_of(network), target)
            learners.append(Learner(target, network.train(), chosen, optimizer))
        return learners

    def recipe(self, *, compiled: bool = False) -> Recipe:
        """The same tasks, as a recipe declares them."""
        settings, optimizer = self.settings, {"name": "adamw", "lr": LEARNING_RATE}
        sections: dict[str, Any] = {
            "data": {"url": self.manifest.url, "chunk": settings.chunk},
            "run": {"folder": "nowhere", "seed": SEED},
            "train": {"batch_size": settings.batch, "steps": 1},
            "step": {"micro_batch": settings.micro_batch, "norm_group": settings.norm_group},
            "tasks": {
                field: {
                    "network": LEARNED[field][0],
                    "loss": LEARNED[field][1],
                    "optimizer": optimizer,
                    "schedule": {"name": "constant"},
                }
                for field in settings.targets
            },
            "precision": settings.precision,
            "compile": compiled,
        }
        return Recipe.model_validate(sections)

    def cut(self, rows: Rows) -> Iterator[Rows]:
        """The micro-batches of a batch."""
        for first, last in plan_micro_batches(rows.groups, self.settings.micro_batch):
            yield rows.part(first, last)


def arrive(part: Rows, target: Target, device: torch.device) -> tuple[Tensor, Tensor]:
    """The image and what is learned of it, as stored, on the device."""
    image, stored = (part[name].to(device, non_blocking=True) for name in (IMAGE, target.name))
    return image, stored


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
    view = learn.plain_view(manifest, [IMAGE], settings.precision)
    return Work(settings, manifest, batches, view.augmented(learn.Augmentation(seed=SEED)))
