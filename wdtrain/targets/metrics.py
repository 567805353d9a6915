"""Metrics by their definitions, for one batch or summed over a validation set.

`mask_metrics` and `depth_metrics` give one value per image; `MaskSums` and `DepthSums` add them up
over batches and ranks, exactly. Here too: which way a metric is better, what it is called in print,
and which samples are the best, the middle and the worst by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.targets.depths import DepthSums
from wdtrain.targets.masks import MaskSums, boundary_f

__all__ = [
    "LABELS",
    "DepthSums",
    "MaskSums",
    "boundary_f",
    "depth_metrics",
    "is_higher_better",
    "label",
    "mask_metrics",
    "rank_samples",
]

LABELS = {
    "iou": "IoU",
    "dice": "Dice",
    "iou_pooled": "IoU pooled",
    "dice_pooled": "Dice pooled",
    "boundary_f": "boundary F",
    "mae": "MAE",
    "absrel": "AbsRel",
    "sqrel": "SqRel",
    "rmse": "RMSE",
    "rmse_log": "RMSE log",
    "log10": "log10",
    "silog": "SILog",
    "delta1": "δ < 1.25",
    "delta2": "δ < 1.25²",
    "delta3": "δ < 1.25³",
}
_HIGHER = {"iou", "dice", "iou_pooled", "dice_pooled", "boundary_f", "delta1", "delta2", "delta3"}


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


def is_higher_better(metric: str) -> bool:
    """Whether more is better of a metric; a region or alignment may stand before its name."""
    return metric.rsplit("/", 1)[-1] in _HIGHER


def label(metric: str) -> str:
    """What a metric is called in print: "aligned/foreground/rmse_log" is "RMSE log" of those."""
    *regions, name = metric.split("/")
    printed = LABELS.get(name, name)
    return f"{printed} ({', '.join(regions)})" if regions else printed


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
