"""Metrics by their definitions, for one batch or summed over a validation set.

`mask_metrics`, `classes_metrics` and `depth_metrics` give one value per image; `MaskSums`,
`ClassesSums` and `DepthSums` add them up over batches and ranks, exactly. Here too: which way a
metric is better, what it is called in print, and which samples are the best, the middle and the
worst by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from wdtrain.fields import DepthFormat
from wdtrain.targets.base import HIGHER, METRIC_LABELS
from wdtrain.targets.classes import ClassesSums
from wdtrain.targets.depth import DepthSums
from wdtrain.targets.mask import MaskSums, boundary_f

__all__ = [
    "HIGHER",
    "METRIC_LABELS",
    "ClassesSums",
    "DepthSums",
    "MaskSums",
    "boundary_f",
    "classes_metrics",
    "depth_metrics",
    "is_higher_better",
    "label",
    "mask_metrics",
    "rank_samples",
]


def mask_metrics(
    prediction: Float[Tensor, "n 1 h w"],
    target: Shaped[Tensor, "n 1 h w"],
    valid: Bool[Tensor, "n 1 h w"] | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """iou, dice, boundary_f, mae of each image; arguments as in `MaskSums.update`."""
    return MaskSums().update(prediction, target, valid)


def depth_metrics(
    depth_format: DepthFormat,
    prediction: Float[Tensor, "n 1 h w"],
    target: Float[Tensor, "n 1 h w"],
    valid: Bool[Tensor, "n 1 h w"],
) -> dict[str, Float[Tensor, " n"]]:
    """The depth metrics of each image, unaligned; arguments as in `DepthSums.update`."""
    return DepthSums(depth_format).update(prediction, target, valid)


def classes_metrics(
    names: tuple[str, ...],
    prediction: Int[Tensor, "n 1 h w"],
    target: Int[Tensor, "n 1 h w"],
    valid: Bool[Tensor, "n 1 h w"] | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """miou and pixel_accuracy of each image; names: of the classes."""
    return ClassesSums(names).update(prediction, target, valid)


def is_higher_better(metric: str) -> bool:
    """Whether more is better of a metric; a region, an alignment or a class may stand beside it."""
    return not HIGHER.isdisjoint(metric.split("/"))


def label(metric: str) -> str:
    """What a metric is called in print: "aligned/foreground/rmse_log" is "RMSE log" of those, and
    "iou/wall" the "IoU" of that."""
    parts = metric.split("/")
    name = next((part for part in parts if part in METRIC_LABELS), parts[-1])
    printed, rest = METRIC_LABELS.get(name, name), [part for part in parts if part != name]
    return f"{printed} ({', '.join(rest)})" if rest else printed


def rank_samples(
    scores: Iterable[tuple[str, float]], *, higher_is_better: bool, count: int = 4
) -> dict[str, list[tuple[str, float]]]:
    """best, median and worst: `count` (key, score) of each, the best first in each list.

    Equal scores are ordered by key; scores that are NaN are the worst. Few samples may stand in
    more than one list.
    """

    def order(item: tuple[str, float]) -> tuple[float, str]:
        key, score = item
        worth = score if higher_is_better else -score
        return (math.inf if math.isnan(score) else -worth, key)

    ranked = sorted(scores, key=order)
    middle = max(0, (len(ranked) - count) // 2)
    return {
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[max(0, len(ranked) - count) :],
    }
