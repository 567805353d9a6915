"""The scores of one validation split: every task's metrics beside those of its baseline.

Owns how a split's sums travel between ranks. Which metric leads, what the baseline is and how
samples are scored, the targets say (`targets/`). The best and the worst samples are named
(`ranking.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wdtrain.record.console_base import Score
from wdtrain.record.ranking import Ranking
from wdtrain.targets import Target
from wdtrain.targets.base import Baseline, Fitted
from wdtrain.targets.metrics import is_higher_better

Total = Callable[[Tensor], Tensor]
"""The sum over all ranks of an fp64 vector."""


def check_splits(chosen: Sequence[str] | None, stored: Iterable[str]) -> list[str]:
    """The splits to validate on; first, if none is chosen, that of new parts alone: no leak can
    flatter it. Raises ValueError where there is none, or a chosen one is not stored.
    """
    stored = list(stored)
    missing = [name for name in chosen or () if name not in stored]
    if missing:
        raise ValueError(
            f"evaluate.splits names {', '.join(missing)}; the dataset holds {', '.join(stored)}"
        )
    found = chosen or [name for name in stored if name not in ("train", "test")]
    if not found:
        raise ValueError(
            "the dataset has no validation split, so nothing would tell whether a network learns; "
            "pack more samples, or with --holdout-samples 0.1 (an index of tars has it 0), or set "
            "evaluate.splits to [train] (or to [test], which is kept for the end otherwise)"
        )
    return list(chosen) if chosen else sorted(found, key=lambda n: (n != "val-new-new", n))


class Scored(Protocol):
    """A task, as far as it is scored: the image that it sees, and what it learns."""

    @property
    def input(self) -> str: ...
    @property
    def target(self) -> Target: ...


class _Position(Protocol):
    @property
    def position(self) -> int: ...


class Stored(Protocol):
    """A streamed batch, as far as it is scored: as stored, on the host."""

    @property
    def fields(self) -> Mapping[str, Tensor]: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def cursor(self) -> _Position: ...


class StoredStream(Protocol):
    """Batches of one size, (height, width)."""

    @property
    def size(self) -> tuple[int, int]: ...
    def __iter__(self) -> Iterator[Stored]: ...


Sides = tuple[Tensor, Tensor]
"""bool [n, 1, h, w] each: foreground and background."""


@dataclass(frozen=True)
class _Fit:
    """A baseline while it is fitted: what it is shown, and what it was found to be."""

    input: str
    target: Target
    sums: Baseline


class Baselines:
    """What the networks of a run have to beat, by the image that they see and the field."""

    def __init__(self) -> None:
        self._fitted: dict[tuple[str, str], Fitted] = {}

    def fit(
        self,
        stream: StoredStream,
        total: Total,
        tasks: Iterable[Scored],
        *,
        samples: int = 2048,
    ) -> None:
        """Fitted on the first `samples` or so of the job's training batches, over all ranks.

        Raises ValueError where what a task learns is unknown in all of them.
        """
        fits = {
            (task.input, task.target.name): _Fit(
                task.input, task.target, task.target.baseline(stream.size)
            )
            for task in tasks
        }
        for batch in stream:
            for fit in fits.values():
                truth = fit.target.truth(batch.fields[fit.target.name])
                fit.sums.update(batch.fields[fit.input], truth)
            if batch.cursor.position >= samples:
                break
        for fit in fits.values():
            fit.sums.from_tensor(total(fit.sums.as_tensor()))
        self._fitted = {key: fit.sums.fit() for key, fit in fits.items()}

    def predict(self, task: Scored, picture: Tensor) -> Tensor:
        """Settled predictions [n, k, h, w] of the baseline of a task."""
        assert self._fitted, "baselines are fitted before they predict"
        return self._fitted[task.input, task.target.name].predict(picture)


class TaskScores:
    """Sums of one task over one split, of its network and of its baseline."""

    def __init__(self, task: Scored) -> None:
        self.input, self.target = task.input, task.target
        self.metric, self.sample_metric = task.target.metric, task.target.sample_metric
        self._network, self._baseline = self.target.sums(), self.target.sums()
        self._loss = torch.zeros(2, dtype=torch.float64)
        self.ranking = Ranking(higher_is_better=is_higher_better(self.sample_metric))

    def update(
        self,
        answer: tuple[Tensor, Tensor],
        batch: Stored,
        baselines: Baselines,
        sides: Sides | None,
    ) -> None:
        """Adds a batch: settled predictions [n, k, h, w] and the loss of each sample [n]."""
        (prediction, losses), truth = answer, self.target.truth(batch.fields[self.target.name])
        given = (truth.wanted, truth.known, *(sides or ()))
        values = self._network.update(prediction, *given)
        self._baseline.update(baselines.predict(self, batch.fields[self.input]), *given)
        scored = truth.counts
        self._loss += torch.stack([losses.double()[scored].sum(), scored.sum()])
        of_samples = values[self.sample_metric].tolist()
        named = zip(batch.keys, of_samples, scored.tolist(), strict=True)
        self.ranking.add((key, value) for key, value, counts in named if counts)

    def reduce(self, total: Total) -> None:
        """Sums over all ranks."""
        parts = [self._network.as_tensor(), self._baseline.as_tensor(), self._loss]
        sizes = [len(part) for part in parts]
        network, baseline, self._loss = torch.split(total(torch.cat(parts)), sizes)
        self._network.from_tensor(network)
        self._baseline.from_tensor(baseline)

    @property
    def is_scored(self) -> bool:
        """Whether there was a sample with a known pixel."""
        return bool(self._loss[1])

    @property
    def loss(self) -> float:
        """Mean loss of the samples that have a known pixel, as in training; NaN without one."""
        return float(self._loss[0] / self._loss[1]) if self.is_scored else float("nan")

    def result(self) -> dict[str, Any]:
        """{"loss", "metrics", "baseline"}: metrics by name of the network and of the baseline."""
        return {
            "loss": self.loss,
            "metrics": self._network.result(),
            "baseline": self._baseline.result(),
        }

    def score(self, task: str) -> Score:
        """The leading metric beside the baseline's, as the console shows it."""
        return Score(
            task=task,
            metric=self.metric,
            value=self._network.result().get(self.metric, float("nan")),
            baseline=self._baseline.result().get(self.metric, float("nan")),
            baseline_name=self.target.baseline_name,
            is_known=self.is_scored,
        )

    def skill(self) -> float:
        """One number, higher is better."""
        return self.target.skill(self._network.result(), self._baseline.result())


class SplitScores:
    """The scores of every task over one split.

    tasks: by name; foreground: what divides metrics by foreground and background, if anything does.
    """

    def __init__(
        self, name: str, tasks: Mapping[str, Scored], foreground: Target | None = None
    ) -> None:
        self.name, self._foreground = name, foreground
        self.tasks = {name: TaskScores(task) for name, task in tasks.items()}

    def update(
        self, answers: Mapping[str, tuple[Tensor, Tensor]], batch: Stored, baselines: Baselines
    ) -> None:
        """Adds a batch: by task, settled predictions [n, k, h, w] and the loss of each sample."""
        sides = None
        if self._foreground is not None:
            stored = batch.fields[self._foreground.name]
            sides = self._foreground.sides(self._foreground.truth(stored))
        for task, answer in answers.items():
            self.tasks[task].update(answer, batch, baselines, sides)

    def reduce(self, total: Total) -> None:
        for scores in self.tasks.values():
            scores.reduce(total)

    def skill(self) -> float:
        """The mean skill of the tasks that were scored: what the best checkpoint is chosen by."""
        skills = [scores.skill() for scores in self.tasks.values() if scores.is_scored]
        return sum(skills) / len(skills) if skills else float("nan")
