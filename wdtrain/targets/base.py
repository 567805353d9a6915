"""What every target is: all that a field of one kind means to a network that learns it.

One kind is one subclass in one file: truth and its way through a warp, losses, metrics, baseline,
pictures, files. No other room asks which kind a target is. A kind of one's own is named by a recipe
(`targets: {KIND: package.module:Class}`). The surprise: what is compared and scored (`settle`) may
be less than what is resized (`soft`): of classes ids, and the probabilities that they come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wdtrain.fields import Field
from wdtrain.targets.sums import Sums

LossFunction = Callable[..., Tensor]
"""(output [n, c, h, w], wanted, valid, **options) -> [n]; see `losses.py`."""

METRIC_LABELS: dict[str, str] = {}
"""What each metric is called in print, of every kind of target that was imported."""
HIGHER: set[str] = set()
"""Metrics of which more is better."""


@dataclass(frozen=True)
class Truth:
    """What outputs are compared with.

    wanted: [n, k, h, w] as the target has it: 0 or 1 of a mask, unit depth, int64 ids of classes;
    valid: float [n, 1, h, w], 1 where it is known and counts, else 0.
    """

    wanted: Tensor
    valid: Tensor

    def __getitem__(self, rows: slice) -> Truth:
        """Some of the samples: views."""
        return Truth(self.wanted[rows], self.valid[rows])

    @property
    def known(self) -> Tensor:
        """bool [n, 1, h, w]."""
        return self.valid > 0

    @property
    def counts(self) -> Tensor:
        """bool [n]: the samples that have a valid pixel. Others are in no divisor."""
        return self.known.flatten(1).any(1)


class Warp(Protocol):
    """How the pictures of a batch were moved, one affine a sample (`learn/augment.py`).

    inside: float [n, 1, h, w], 1 where a pixel comes from within the picture; log_zoom: [n];
    turn: [n, 2, 2], what became of directions (x to the right, y down) in the picture: rotation and
    mirror, without the zoom.
    """

    @property
    def inside(self) -> Tensor: ...
    @property
    def log_zoom(self) -> Tensor: ...
    @property
    def turn(self) -> Tensor: ...
    def nearest(self, values: Tensor) -> Tensor: ...
    def bilinear(self, values: Tensor) -> Tensor: ...


class MetricSums(Sums, ABC):
    """Sums of the metrics of one kind. Each sample is to be given once, over all ranks."""

    @abstractmethod
    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        valid: Tensor | None = None,
        foreground: Tensor | None = None,
        background: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Adds n images; returns the metrics of each by name (fp64 [n], on the CPU).

        prediction: settled; target: as `Truth.wanted`; valid, foreground, background: bool
        [n, 1, h, w], of which the last two divide metrics that come by region.
        """

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Every metric by name, and `images`."""


class Fitted(Protocol):
    """A baseline that has been fitted."""

    def predict(self, picture: Tensor) -> Tensor:
        """Settled predictions [n, k, h, w] of uint8 pictures [n, 3, h, w]."""
        ...


class Baseline(Sums, ABC):
    """What a network has to beat, fitted on training samples: sums that merge over ranks."""

    @abstractmethod
    def update(self, picture: Tensor, truth: Truth) -> None:
        """Adds n samples: uint8 pictures [n, 3, h, w] and their truth."""

    @abstractmethod
    def fit(self) -> Fitted:
        """What was found. ValueError where no pixel was known, so that nothing can be learned."""


class Breakdown(NamedTuple):
    """A table of the report beside the one by split: rows of metrics by name."""

    title: str
    head: str
    rows: dict[str, dict[str, float]]


class Target(ABC):
    """What a network learns of one field. Give a kind of your own these attributes and methods.

    name, field: of the dataset; channels: outputs a pixel.
    """

    losses: ClassVar[Mapping[str, Mapping[str, LossFunction]]]
    """By name, the function for each domain of outputs that it fits."""
    labels: ClassVar[Mapping[str, str]]
    """What each metric is called in print."""
    higher: ClassVar[frozenset[str]]
    """Metrics of which more is better."""
    columns: ClassVar[tuple[str, ...]]
    """Metrics of the report's table."""
    baseline_name: ClassVar[str]
    divides: ClassVar[bool] = False
    """Whether it can say what is foreground (`sides`), which divides others' metrics."""
    by_region: ClassVar[bool] = False
    """Whether its own metrics are given by foreground and background too."""

    channels: int = 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        METRIC_LABELS.update(vars(cls).get("labels", {}))
        HIGHER.update(vars(cls).get("higher", ()))

    def __init__(self, field: Field) -> None:
        self.field = field

    @property
    def name(self) -> str:
        return self.field.name

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric that leads, of a whole split."""

    @property
    def sample_metric(self) -> str:
        """The metric by which single samples are ranked."""
        return self.metric

    # ------------------------------------------------------------------ truth

    @abstractmethod
    def truth(self, stored: Tensor) -> Truth:
        """Of stored arrays [n, channels of the field, h, w], on their device."""

    @abstractmethod
    def warped(self, stored: Tensor, warp: Warp) -> Truth:
        """The same after the pictures were moved. Nothing is averaged across an edge."""

    def sides(self, truth: Truth) -> tuple[Tensor, Tensor]:
        """bool (foreground, background), each [n, 1, h, w]; neither where it is not known."""
        raise NotImplementedError(f"a {self.field.kind} says nothing of foreground")

    def noise(self, samples: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Stored arrays of noise, to try losses and memory with."""
        most = min(np.iinfo(self.field.dtype).max + 1, 2**16)
        shape = (samples, self.field.channels, *size)
        drawn = torch.randint(0, most, shape, dtype=torch.int32, generator=generator)
        return drawn.to(torch.uint8 if self.field.dtype == np.uint8 else torch.uint16)

    # ------------------------------------------------------------------ predictions

    def soft(self, output: Tensor, domain: str) -> Tensor:
        """Outputs [n, channels, h, w] as what may be resized: probabilities, unit values."""
        return torch.sigmoid(output) if domain == "logits" else output.clamp(0.0, 1.0)

    def settle(self, soft: Tensor) -> Tensor:
        """What is scored and shown of it: [n, k, h, w], of the form of `Truth.wanted`."""
        return soft

    def resized(self, soft: np.ndarray, resize: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A settled prediction [k, h, w] at another size, of a soft one [channels, h, w]; resize:
        brings one channel there."""
        return np.stack([resize(channel) for channel in soft])

    # ------------------------------------------------------------------ scores

    @abstractmethod
    def sums(self) -> MetricSums:
        """Empty sums of its metrics."""

    @abstractmethod
    def baseline(self, size: tuple[int, int]) -> Baseline:
        """One that has not seen anything yet; size: (height, width)."""

    def skill(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """One number, higher is better: the leading metric, or 1 - error / the baseline's error."""
        value, other = (each.get(self.metric, float("nan")) for each in (metrics, baseline))
        if self.metric in self.higher:
            return value
        return 1.0 - value / other if other else float("nan")

    def breakdown(self, metrics: Mapping[str, float]) -> Breakdown | None:
        """What the report shows of a split besides `columns`."""
        return None

    # ------------------------------------------------------------------ pictures and files

    @abstractmethod
    def colour(self, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """uint8 [h, w, 3] of a truth or settled prediction [k, h, w]; not valid (bool [h, w]):
        grey."""

    @abstractmethod
    def colour_error(
        self, picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray
    ) -> np.ndarray:
        """uint8 [h, w, 3]: where a prediction is wrong; picture: uint8 [h, w, 3]."""

    @abstractmethod
    def encode(self, prediction: np.ndarray) -> bytes:
        """The PNG that `predict` writes of a settled prediction [k, h, w]."""
