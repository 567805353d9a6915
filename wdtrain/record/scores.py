"""The scores of one validation split: every task's metrics beside those of its baseline.

Owns which metric leads, and how a split's sums travel between ranks. The best and the worst samples
are named (`ranking.py`). The baselines are what a network has to beat: the best
linear colour threshold for a mask, the mean depth picture for a depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.record.console_base import Score
from wdtrain.record.ranking import Ranking
from wdtrain.targets.baselines import ColourHistogram, ColourThreshold, MeanDepth
from wdtrain.targets.depths import DepthSums
from wdtrain.targets.masks import MaskSums
from wdtrain.targets.metrics import is_higher_better
from wdtrain.targets.sums import is_foreground

Total = Callable[[Tensor], Tensor]
"""The sum over all ranks of an fp64 vector."""

BASELINE_NAMES = {"mask": "colour threshold", "depth": "mean depth picture"}


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
            "pack more samples, or set evaluate.splits to [train] (or to [test], which is kept for "
            "the end otherwise)"
        )
    return list(chosen) if chosen else sorted(found, key=lambda n: (n != "val-new-new", n))


def leading_metric(target: str, depth_format: DepthFormat) -> str:
    """The metric that stands for a task: pooled IoU; RMSE of log depth, or of unit depth."""
    if target == "mask":
        return "iou_pooled"
    return "rmse_log" if depth_format.is_logarithmic else "rmse"


class Position(Protocol):
    @property
    def position(self) -> int: ...


class Stored(Protocol):
    """A streamed batch, as far as it is scored: as stored, on the host."""

    def __getitem__(self, name: str) -> Tensor: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def cursor(self) -> Position: ...


class StoredStream(Protocol):
    """Batches of one size, (height, width)."""

    @property
    def size(self) -> tuple[int, int]: ...
    def __iter__(self) -> Iterator[Stored]: ...


@dataclass(frozen=True)
class Truth:
    """What a batch is compared with, on one device. All [n, 1, h, w]."""

    overlay: UInt8[Tensor, "n 3 h w"]
    foreground: Tensor
    unit: Tensor
    known: Tensor

    @classmethod
    def of(cls, batch: Stored, depth_format: DepthFormat) -> Truth:
        """From uint8 overlay and mask, and depth codes as stored."""
        codes = batch["depth"].to(torch.float32)
        unit = depth_format.to_unit(codes).clamp(min=0.0)
        return cls(batch["overlay"], is_foreground(batch["mask"]), unit, codes > 0)

    def has(self, target: str) -> Tensor:
        """bool [n]: which samples have a pixel of which the mask, or the depth, is known."""
        if target == "mask":
            return torch.ones(len(self.known), dtype=torch.bool)
        return self.known.flatten(1).any(1)


class Baselines:
    """The colour threshold and the mean depth picture, fitted on training samples."""

    def __init__(self, depth_format: DepthFormat) -> None:
        self.depth_format = depth_format
        self.threshold: ColourThreshold | None = None
        self.mean_depth: Float[Tensor, "1 h w"] | None = None

    def fit(
        self, stream: StoredStream, total: Total, targets: set[str], *, samples: int = 2048
    ) -> None:
        """Fitted on the first `samples` or so of the job's training batches, over all ranks.

        Raises ValueError where the depth is a target and unknown in all of them.
        """
        colours, mean = ColourHistogram(), MeanDepth(*stream.size)
        for batch in stream:
            truth = Truth.of(batch, self.depth_format)
            colours.update(truth.overlay, truth.foreground)
            mean.update(truth.unit, truth.known)
            if batch.cursor.position >= samples:
                break
        for sums in (colours, mean):
            sums.from_tensor(total(sums.as_tensor()))
        if "depth" in targets and not mean.num_known:
            raise ValueError(
                f"the depth of the first {samples:,} training samples is unknown everywhere, so a "
                "depth network would learn nothing; pack data with depth, or train without it"
            )
        self.threshold, self.mean_depth = colours.fit(), mean.picture()

    def predict(self, target: str, truth: Truth) -> Tensor:
        """What the baseline says of a batch: a mask 0 or 1, or unit depth; [n, 1, h, w]."""
        assert self.threshold is not None, "baselines are fitted before they predict"
        assert self.mean_depth is not None
        if target == "mask":
            return self.threshold.predict(truth.overlay)
        return self.mean_depth.to(truth.unit.device).expand_as(truth.unit)


class TaskScores:
    """Sums of one task over one split, of its network and of its baseline."""

    def __init__(self, target: str, depth_format: DepthFormat) -> None:
        self.target = target
        self.metric = leading_metric(target, depth_format)
        self.sample_metric = "iou" if target == "mask" else self.metric
        make = MaskSums if target == "mask" else lambda: DepthSums(depth_format)
        self._network, self._baseline = make(), make()
        self._loss = torch.zeros(2, dtype=torch.float64)
        self.ranking = Ranking(higher_is_better=is_higher_better(self.sample_metric))

    def update(
        self,
        prediction: Tensor,
        losses: Tensor,
        truth: Truth,
        keys: Sequence[str],
        baselines: Baselines,
    ) -> None:
        """Adds a batch: unit predictions [n, 1, h, w] and the loss of each sample [n]."""
        values = _add(self._network, prediction, truth)
        _add(self._baseline, baselines.predict(self.target, truth), truth)
        scored = truth.has(self.target)
        self._loss += torch.stack([losses.double()[scored].sum(), scored.sum()])
        named = zip(keys, values[self.sample_metric].tolist(), scored.tolist(), strict=True)
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
            baseline_name=BASELINE_NAMES[self.target],
            is_known=self.is_scored,
        )

    def skill(self) -> float:
        """One number, higher is better: pooled IoU; 1 - error / the baseline's error."""
        score = self.score("")
        if self.target == "mask":
            return score.value
        return 1.0 - score.value / score.baseline if score.baseline else float("nan")


class SplitScores:
    """The scores of every task over one split."""

    def __init__(self, name: str, targets: Mapping[str, str], depth_format: DepthFormat) -> None:
        self.name, self.depth_format = name, depth_format
        self.tasks = {task: TaskScores(t, depth_format) for task, t in targets.items()}

    def update(
        self, answers: Mapping[str, tuple[Tensor, Tensor]], batch: Stored, baselines: Baselines
    ) -> None:
        """Adds a batch: by task, unit predictions [n, 1, h, w] and the loss of each sample [n]."""
        truth = Truth.of(batch, self.depth_format)
        for task, (prediction, losses) in answers.items():
            self.tasks[task].update(prediction, losses, truth, batch.keys, baselines)

    def reduce(self, total: Total) -> None:
        for scores in self.tasks.values():
            scores.reduce(total)

    def skill(self) -> float:
        """The mean skill of the tasks that were scored: what the best checkpoint is chosen by."""
        skills = [scores.skill() for scores in self.tasks.values() if scores.is_scored]
        return sum(skills) / len(skills) if skills else float("nan")


def _add(sums: MaskSums | DepthSums, prediction: Tensor, truth: Truth) -> dict[str, Tensor]:
    if isinstance(sums, MaskSums):
        return sums.update(prediction, truth.foreground)
    return sums.update(prediction, truth.unit, truth.known, truth.foreground)
