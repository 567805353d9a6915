"""Interleaved rounds: each contender takes its turn, and first they must agree on what they do."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass, field

from steps.turn import Contender, Turn
from steps.work import Work

DISCARD = 1
"""Steps at the start of a turn: they find the caches full of another contender's networks."""

LOSSES_AGREE = 0.1
"""Relative: dropout and the groups of BatchNorm differ, so first losses do, by a few per cent."""


@dataclass
class Result:
    """What a row showed. missing: why it was not measured; else one entry a round.

    seconds: of a step; ratios: the bare loop's seconds over its own; cpu_ratios: the same of
    processor time, empty for a row in a process of its own; parts: seconds a step.
    """

    name: str
    samples: int
    missing: str = ""
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def median_parts(self) -> dict[str, float]:
        """Seconds a step of each part: medians of the rounds; empty if none were read."""
        names = self.parts[0] if self.parts else {}
        return {name: statistics.median(one[name] for one in self.parts) for name in names}


def measure(
    contenders: dict[str, Contender],
    missing: dict[str, str],
    work: Work,
    *,
    repeat: int,
    steps: int,
) -> dict[str, Result]:
    """The results by row, with `repeat` rounds in each, after one that does not count."""
    samples, device = work.settings.batch, work.settings.device
    results = {name: Result(name, samples) for name in contenders}
    results |= {name: Result(name, samples, missing=why) for name, why in missing.items()}
    check_losses(contenders, work)
    for number in range(repeat + 1):
        turns = {}
        for name in contenders if number % 2 else reversed(contenders):
            turns[name] = Turn(work.batches, device, discard=DISCARD, steps=steps)
            gc.collect()
            contenders[name].take(turns[name])
        for name, turn in turns.items():
            if number == 0:
                continue
            result, bare = results[name], turns["bare"]
            result.seconds.append(turn.seconds / steps)
            result.ratios.append(bare.seconds / turn.seconds)
            if turn.cpu_seconds:
                result.cpu_ratios.append(bare.cpu_seconds / turn.cpu_seconds)
            result.parts += [turn.parts()] if turn.readings else []
    return results


def check_losses(contenders: dict[str, Contender], work: Work) -> None:
    """Every contender in this process takes its first step: the losses are those of `bare`."""
    found = {}
    for name, contender in contenders.items():
        contender.take(Turn(work.batches, work.settings.device, discard=0, steps=1))
        if contender.losses:
            found[name] = {task: float(loss) for task, loss in contender.losses.items()}
    for name, losses in found.items():
        for task, loss in losses.items():
            wanted = found["bare"][task]
            if not abs(loss - wanted) <= LOSSES_AGREE * wanted:
                raise SystemExit(
                    f"{name}: the first loss of {task} is {loss:.4f}, that of bare {wanted:.4f}; "
                    "they do not do the same work, so their speeds cannot be compared"
                )
