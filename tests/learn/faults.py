"""Memory that runs out where and when a test says, on the rank that it says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from wdtrain.learn.prefetch import Prefetcher
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import StepResult
from wdtrain.learn.task import Task, TaskSet
from wdtrain.learn.view import View
from wdtrain.targets import Target

PHASES = ("copy", "augment", "forward", "backward")


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB"
    )


@dataclass
class Fault:
    """Raises in one phase of one task: the first time its micro-batch number `at` comes there."""

    phase: str
    task: str
    at: int
    error: Callable[[], Exception] = out_of_memory
    seen: int = -1
    raised: int = 0
    on_raise: list[Callable[[], None]] = field(default_factory=list)

    def pass_by(self, phase: str, task: str) -> None:
        if (phase, task) != (self.phase, self.task):
            return
        self.seen += 1
        if self.seen == self.at and not self.raised:
            self.raised += 1
            for act in self.on_raise:
                act()
            raise self.error()


_of_thread = threading.local()


def put(fault: Fault | None, tasks: TaskSet) -> None:
    """This thread's steps of these tasks meet the fault."""
    _of_thread.fault = fault
    for task in tasks:
        _hook(task, fault)


def _hook(task: Task, fault: Fault | None) -> None:
    def forward(module: object, args: object, output: torch.Tensor) -> None:
        if fault is not None:
            fault.pass_by("forward", task.name)
            if output.requires_grad:
                output.register_hook(backward)

    def backward(gradient: torch.Tensor) -> None:
        if fault is not None:
            fault.pass_by("backward", task.name)

    # In the midst of the network: gradients of later layers are in the buffer when it fails.
    layers = [m for m in task.network.modules() if isinstance(m, torch.nn.Conv2d)]
    layers[len(layers) // 2].register_forward_hook(forward)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault | None, TaskSet], None]:
    """`put`, with copies and augmentation made to look for a fault."""
    copy, prepare = Prefetcher._copy, View.prepare

    def faulty_copy(self: Prefetcher, part: Rows, fields: Sequence[str]) -> object:
        _pass_by("copy", fields[-1])
        return copy(self, part, fields)

    def faulty_prepare(self: View, image: str, target: Target, *rest) -> object:
        _pass_by("augment", target.name)
        return prepare(self, image, target, *rest)

    monkeypatch.setattr(Prefetcher, "_copy", faulty_copy)
    monkeypatch.setattr(View, "prepare", faulty_prepare)
    return put


def _pass_by(phase: str, task: str) -> None:
    fault = getattr(_of_thread, "fault", None)
    if fault is not None:
        fault.pass_by(phase, task)


def recovered(result: StepResult) -> list[tuple[str, int, int]]:
    return [(r.task, r.before, r.after) for r in result.recoveries]
