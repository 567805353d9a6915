"""The message where not even one norm group fits: what was needed, is allowed, and would fit.

All of it is estimated by passes on the meta device, so it works for a device that is full.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from wdtrain.config import TaskSettings
from wdtrain.learn.out_of_memory import DoesNotFit
from wdtrain.learn.task import Task, build_task
from wdtrain.memory.estimate import (
    MARGIN,
    Footprint,
    explain_footprint,
    footprint,
    gib,
    largest_micro_batches,
)
from wdtrain.memory.fitting import Fitting
from wdtrain.networks import NETWORKS, build_for, domain_of
from wdtrain.ranks.devices import parse_device
from wdtrain.ranks.launch import memory_share

_STEP = 16
"""Sides are divisible by it, as most networks want them."""


def explain_refusal(fitting: Fitting, error: DoesNotFit, budget_bytes: int) -> DoesNotFit:
    """The same refusal with a table: what one norm group takes, what is allowed, what would fit."""
    task = next((task for task in fitting.tasks if task.name == error.task), None)
    if task is None:
        return error
    try:
        table = _table(_Scale(fitting, task, budget_bytes), task, budget_bytes)
    except ValueError:  # a network that needs data to run cannot be weighed without
        return error
    return DoesNotFit("\n".join([str(error), *table]), error.task)


def _table(scale: _Scale, task: Task, budget_bytes: int) -> list[str]:
    group, size = task.norm_group, f"{scale.height} x {scale.width}"
    rows = [
        ("weights, gradients and optimizers of all tasks", gib(scale.fixed_bytes)),
        (f"one pass of {group} samples of {size} (estimate)", gib(scale.needed(task, group))),
        (f"allowed, {MARGIN:.0%} of it for what no estimate sees", gib(budget_bytes)),
    ]
    width = max(len(name) for name, _ in rows)
    table = [f"    {name:<{width}}  {amount:>10}" for name, amount in rows]
    return [*table, "what would fit there:", *(f"    {line}" for line in scale.advice())]


class _Scale:
    """Weighs a task as it is and as it could be."""

    def __init__(self, fitting: Fitting, task: Task, budget_bytes: int) -> None:
        self._fitting, self._task, self._budget_bytes = fitting, task, budget_bytes
        self.height, self.width = fitting.height, fitting.width
        footprints = {each.name: self._footprint(each) for each in fitting.tasks}
        self.fixed_bytes = sum(each.fixed_bytes for each in footprints.values())
        self._others_bytes = self.fixed_bytes - footprints[task.name].fixed_bytes

    def needed(self, task: Task, samples: int) -> int:
        return self._footprint(task).pass_bytes(samples)

    def advice(self) -> list[str]:
        """The largest picture, the largest norm group and the networks that fit, as recipe keys."""
        lines = [*self._smaller_pictures(), *self._smaller_groups(), *self._other_networks()]
        return [*lines, "more memory, or a larger device"]

    def _smaller_pictures(self) -> Iterable[str]:
        side = min(self._fitting.height, self._fitting.width)
        sides = range(_STEP, side, _STEP)
        count = bisect_left(sides, True, key=lambda side: not self._fits(self._task, side))
        if count:
            yield f"data.size={sides[count - 1]}, the largest side"

    def _smaller_groups(self) -> Iterable[str]:
        group = self._task.norm_group
        divisors = [size for size in range(group - 1, 0, -1) if group % size == 0]
        weighed = self._footprint(self._task)
        fitting = next((size for size in divisors if self._allows(weighed, size)), None)
        if fitting:
            yield f"step.norm_group={fitting}; BatchNorm sees so many, so it is another training"

    def _other_networks(self) -> Iterable[str]:
        name = self._task.name
        for network, kind in NETWORKS.items():
            other = None if kind is type(self._task.network) else self._with(network)
            if other is not None and self._fits(other):
                yield f"tasks.{name}.network={network}"

    def _fits(self, task: Task, side: int | None = None) -> bool:
        return self._allows(self._footprint(task, side), task.norm_group)

    def _allows(self, weighed: Footprint, samples: int) -> bool:
        needed = self._others_bytes + weighed.fixed_bytes + weighed.pass_bytes(samples)
        return needed <= self._budget_bytes * (1 - MARGIN)

    def _footprint(self, task: Task, side: int | None = None) -> Footprint:
        height, width = (side, side) if side else (self._fitting.height, self._fitting.width)
        return footprint(
            task, view=self._fitting.view, height=height, width=width, most=2 * task.norm_group
        )

    def _with(self, name: str) -> Task | None:
        """The task by another network, None where no loss fits its output; one that does takes as
        much as another."""
        task = self._task
        network = build_for(task.target.channels, name, {})
        domain = domain_of(network)
        fitting = [loss for loss, domains in task.target.losses.items() if domain in domains]
        if not fitting:
            return None
        return build_task(
            task.name,
            TaskSettings(network=name, loss=fitting[0]),
            network,
            task.target,
            input=task.input,
            total_steps=1,
            precision="fp64" if self._fitting.view.precision == "fp64" else "fp32",
            norm_group=task.norm_group,
        )


def estimate_lines(fitting: Fitting, on: str, memory: float) -> list[str]:
    """What would be chosen on a device that is not here, for a person.

    on: a budget ("24GiB") or a device's name; memory: a share of it (float), or bytes (int), that
    may be used. Raises ValueError for a device that is not known, DoesNotFit.
    """
    name, total_bytes = parse_device(on)
    budget_bytes = int(memory_share(memory, total_bytes) * total_bytes)
    weighed = {
        task.name: footprint(
            task,
            view=fitting.view,
            height=fitting.height,
            width=fitting.width,
            most=fitting.share,
        )
        for task in fitting.tasks
    }
    sizes = largest_micro_batches(weighed, budget_bytes, most=fitting.share)
    return explain_footprint(weighed, sizes, where=name, budget_bytes=budget_bytes)
