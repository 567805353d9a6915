"""A contender's turn: the batches that it takes, and the clock that looks at when it takes them.

The clock lies in the iterator, so that every loop is measured alike, also one that is not ours to
look into. The surprise: a loop that asks for a batch ahead of the step that needs it (Lightning's
does, by one) is measured right too, since the first and the last look lie equally early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, SupportsFloat

import torch

from wdtrain.learn.rows import Rows


def wait_for(device: torch.device) -> None:
    """Everything asked of the device so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Turn:
    """Batches in memory, again and again: `discard` that do not count, then `steps` that do.

    Iterate over it once. seconds: what the counted steps took together; cpu_seconds: processor time
    of this process meanwhile, which other programs on the machine hardly change; readings: what a
    contender says of each step, by part in seconds, those that do not count included.
    """

    def __init__(
        self, batches: Sequence[Rows], device: torch.device, *, discard: int, steps: int
    ) -> None:
        self.batches, self.device = batches, device
        self.discard, self.steps = discard, steps
        self.seconds = self.cpu_seconds = 0.0
        self.readings: list[dict[str, float]] = []

    def __iter__(self) -> Iterator[Rows]:
        began = cpu_began = 0.0
        for number in range(self.discard + self.steps):
            if number == self.discard:
                began, cpu_began = self._now(), time.process_time()
            yield self.batches[number % len(self.batches)]
        self.seconds = self._now() - began
        self.cpu_seconds = time.process_time() - cpu_began

    def _now(self) -> float:
        wait_for(self.device)
        return time.perf_counter()

    def parts(self) -> dict[str, float]:
        """Seconds a step of each part, means over the steps that count; empty if none were read."""
        counted = self.readings[self.discard :]
        if not counted:
            return {}
        found = {part: sum(one[part] for one in counted) / len(counted) for part in counted[0]}
        return {**found, "rest": self.seconds / self.steps - sum(found.values())}


class Contender(Protocol):
    """One way to train. losses: of a newest step, by task, to be compared; empty if not known."""

    @property
    def losses(self) -> Mapping[str, SupportsFloat]: ...

    def take(self, turn: Turn) -> None:
        """Every batch of the turn has been trained on."""
        ...
