"""Small batches, tasks and ranks that the tests of this room share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wdtrain.config import OptimizerSettings, ScheduleSettings, TaskSettings
from wdtrain.fields import ClassesField, DepthFormat, triple_of
from wdtrain.learn.augment import Augmentation
from wdtrain.learn.gradient_buffer import TaskGradients
from wdtrain.learn.inputs import Normalisation
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import StepResult, train_step
from wdtrain.learn.task import Task, TaskSet, build_task
from wdtrain.learn.view import View
from wdtrain.networks import build
from wdtrain.ranks.collective import Alone
from wdtrain.targets import Target, target_of

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
DEPTH = DepthFormat(kind="metric", near_m=0.5, far_m=20.0, bits=8)
FIELDS = {field.name: field for field in triple_of(DEPTH)}
CLASSES = ClassesField("labels", classes=5)


def target(name: str) -> Target:
    """What is learned of a field of a triple, or of `CLASSES`."""
    return target_of({**FIELDS, "labels": CLASSES}[name])


def built(name: str, learned: str, network: nn.Module, **options: Any) -> Task:
    """A task that learns a field of a triple; loss, optimizer and schedule as a recipe has them."""
    clip = options.pop("max_grad_norm", 0.0) or None
    sections = {
        "optimizer": OptimizerSettings(clip_norm=clip, **options.pop("optimizer")),
        "schedule": ScheduleSettings(**options.pop("schedule", None) or {"name": "constant"}),
    }
    settings = TaskSettings(network="its own", loss=options.pop("loss"), **sections)
    common = {"input": "overlay", "total_steps": 100, **options}
    return build_task(name, settings, network, target(learned), **common)


def make_rows(count: int, *, group: int = 4, size: int = 16, seed: int = 0) -> Rows:
    """`count` samples of noise with smooth masks, in groups of `group`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(channels: int) -> Tensor:
        shape = (count, channels, size, size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    groups = [group] * (count // group) + ([count % group] if count % group else [])
    starts = [sum(groups[:index]) for index in range(len(groups))]
    return Rows(
        fields={
            "overlay": noise(3).contiguous(memory_format=torch.channels_last),
            "mask": noise(1),
            "depth": noise(1),
        },
        keys=[f"sample-{seed}-{index}" for index in range(count)],
        epochs=[3] * count,
        groups=groups,
        group_ids=[1000 * seed + start for start in starts],
    )


def without_depth(rows: Rows, *indices: int) -> Rows:
    """The same samples, of which these have no known depth at all."""
    depth = rows["depth"].clone()
    depth[list(indices)] = 0
    return replace(rows, fields={**rows.fields, "depth": depth})


def share_of_rank(rows: Rows, rank: int, world: int) -> Rows:
    """The groups of one rank, dealt in turn; a rank may get none."""
    parts = [rows.part(index, index + 1) for index in range(len(rows.groups))][rank::world]
    empty = rows.part(0, 0)
    return Rows(
        fields={
            name: torch.cat([part[name] for part in parts] or [empty[name]]) for name in rows.fields
        },
        keys=[key for part in parts for key in part.keys],
        epochs=[epoch for part in parts for epoch in part.epochs],
        groups=[rows for part in parts for rows in part.groups],
        group_ids=[group for part in parts for group in part.group_ids],
    )


_BUILDING = threading.Lock()
"""Networks are built one at a time: their initial weights pass through the global generator."""


def mask_task(network: nn.Module | None = None, **options: object) -> Task:
    settings: dict = {
        "loss": "bce+dice",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
        "precision": "fp64",
        "micro_batch": 8,
        "norm_group": 4,
        "seed": 7,
    }
    with _BUILDING:
        return built("mask", "mask", network or build("seed-mask"), **(settings | options))


def depth_task(**options: object) -> Task:
    settings: dict = {
        "loss": "smooth-l1",
        "optimizer": {"name": "adamw", "lr": 0.003},
        "precision": "fp64",
        "micro_batch": 8,
        "norm_group": 4,
        "seed": 7,
    }
    with _BUILDING:
        network = build("seed-unet", init_features=4)
        return built("depth", "depth", network, **(settings | options))


class Small(nn.Module):
    """All that a step has to do with, in a network that costs nothing."""

    def __init__(self, domain: str = "logits") -> None:
        super().__init__()
        self.domain = domain
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2),
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1),
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        output: Tensor = self.layers(picture)
        return output if self.domain == "logits" else output.sigmoid()


def small_tasks(*, device: torch.device = CPU, **micro_batches: int) -> TaskSet:
    """Both tasks, by small networks; micro_batches: by task, 8 if not given. float64 on a CPU."""
    precision = "fp64" if device.type == "cpu" else "fp32"
    tasks = []
    for name, domain, loss in (("mask", "logits", "bce+dice"), ("depth", "unit", "smooth-l1")):
        with _BUILDING, torch.random.fork_rng():
            torch.manual_seed(3)
            tasks.append(
                built(
                    name, name, Small(domain), loss=loss, optimizer={"name": "adamw", "lr": 0.01},
                    precision=precision, micro_batch=micro_batches.get(name, 8), norm_group=4,
                    device=device, seed=7,
                )
            )  # fmt: skip
    return TaskSet(tasks)


def commit(norm: GroupedBatchNorm2d) -> None:
    """What is pending in a layer moves its running statistics, as at the end of a step."""
    assert norm.pending is not None
    flat = torch.cat((norm.pending, norm.pending.new_zeros(2)))
    TaskGradients(flat, [], norm).commit_statistics(torch.tensor(True))


def make_view(precision: str = "fp64", *, augmented: bool = True) -> View:
    return View(
        normalisations={"overlay": NORMALISATION},
        augmentation=Augmentation(seed=5) if augmented else None,
        precision=precision,
    )


class RanksInThreads:
    """A collective for ranks that are threads of this process: sums in the order of ranks."""

    def __init__(self, rank: int, board: list, barrier: threading.Barrier) -> None:
        self.rank, self.world = rank, barrier.parties
        self._board, self._barrier = board, barrier

    def host_sum(self, values: Sequence[float]) -> list[float]:
        return [sum(column) for column in zip(*self._exchange(list(values)), strict=True)]

    def host_min(self, values: Sequence[float]) -> list[float]:
        return [min(column) for column in zip(*self._exchange(list(values)), strict=True)]

    def host_max(self, values: Sequence[float]) -> list[float]:
        return [max(column) for column in zip(*self._exchange(list(values)), strict=True)]

    def total(self, numbers: Tensor) -> Tensor:
        return torch.stack(self._exchange(numbers.clone())).sum(0)

    def barrier(self, what: str = "") -> None:
        self._exchange(None)

    def gather(self, value: Any, what: str = "") -> list[Any]:
        return self._exchange(value)

    def flat_sum(self, flat: Tensor) -> None:
        flat.copy_(torch.stack(self._exchange(flat.clone())).sum(0))

    def _exchange(self, mine: object) -> list:
        self._board[self.rank] = mine
        self._barrier.wait()
        everyone = list(self._board)
        self._barrier.wait()
        return everyone


def run_ranks(world: int, work: Callable) -> list:
    """What `work(collective)` returns on each of `world` ranks, run as threads."""
    board: list = [None] * world
    barrier = threading.Barrier(world, timeout=60)
    with ThreadPoolExecutor(world) as pool:
        ranks = [pool.submit(work, RanksInThreads(rank, board, barrier)) for rank in range(world)]
        return [rank.result() for rank in ranks]


def one_step(tasks: TaskSet, rows: Rows, *, view: View | None = None, **options) -> StepResult:
    options.setdefault("collective", Alone())
    return train_step(tasks, rows, device=CPU, view=view or make_view(), **options)
