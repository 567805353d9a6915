"""The console of files and pipes: one honest line every few seconds, and one for each event."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from wdtrain.record.console_base import (
    Console,
    Progress,
    RunPlan,
    Score,
    Speedometer,
    memory_text,
    seconds_left,
)
from wdtrain.record.glyphs import duration, number, part_name, rate
from wdtrain.record.outlet import Outlet, outlet


class PlainConsole(Console):
    """Lines of text: one every `interval_seconds`, and one for each event.

    Losses and rates on a line are means over all steps since the line before.
    """

    def __init__(
        self,
        stream: TextIO | Outlet,
        *,
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = outlet(stream)
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._plan: RunPlan | None = None
        self._started = self._line_at = clock()
        self._speed = Speedometer(clock)
        self._last: Progress | None = None

    def start(self, plan: RunPlan) -> None:
        self._plan = plan
        self._started = self._line_at = self._clock()
        self._speed = Speedometer(self._clock)
        self._write(
            f"{plan.title} on {plan.device}: {plan.samples:,} samples, {plan.steps:,} steps"
        )
        for line in plan.batch_lines("x"):
            self._write(line)
        for task in plan.tasks:
            self._write(f"task {task.name}: {task.network}, {task.parameters:,} parameters")

    def step(self, progress: Progress) -> None:
        self._speed.add(progress)
        self._last = progress
        if self._clock() - self._line_at >= self._interval_seconds:
            self._write_progress()

    def validation(self, step: int, scores: Sequence[Score]) -> None:
        text = "  ".join(score.sentence() for score in scores)
        self._write(f"step {step}  validation  {text}")

    def event(self, text: str) -> None:
        self._write(text)

    def phase(self, text: str) -> None:
        if text:
            if self._speed.steps:
                self._write_progress()
            self._speed.pause()
        else:
            self._speed.go()

    def close(self) -> None:
        if self._speed.steps:
            self._write_progress()
        self._stream.drain()

    def _write_progress(self) -> None:
        if self._last is None or self._plan is None:
            return
        plan, step, speed = self._plan, self._last.step, self._speed
        losses = "  ".join(f"{task} {number(loss)}" for task, loss in speed.mean_losses().items())
        parts = [
            f"step {step}/{plan.steps} {step / max(plan.steps, 1):.0%}",
            f"loss {losses}",
            f"{rate(speed.samples_per_second())} samples/s",
            *_largest_shares(speed.shares()),
            f"{duration(seconds_left(plan, step, self._clock() - self._started))} left",
            *([memory_text(self._last.memory)] if self._last.memory else []),
        ]
        self._write("  ".join(parts))
        self._line_at = self._clock()
        self._speed = Speedometer(self._clock)

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding
        safe = text.encode(encoding, "replace").decode(encoding)
        self._stream.write(safe + "\n")
        self._stream.flush()


def _largest_shares(shares: Mapping[str, float]) -> list[str]:
    """The wait for data, always, and the two largest other parts of the time."""
    others = sorted((part for part in shares if part != "data"), key=lambda p: -shares[p])[:2]
    parts = [*(["data"] if "data" in shares else []), *others]
    return [" ".join(f"{part_name(part)} {shares[part]:.0%}" for part in parts)] if parts else []
