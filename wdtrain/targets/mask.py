"""`mask`: one output a pixel, how likely it is foreground.

Truth is 0 or 1 at alpha 128 (hard: a mask's edge is a decision, as in the metrics); alpha 1 is not
valid where the field has unknown pixels. Metrics: IoU and Dice, the mean over images and pooled
over all pixels (an image where truth and prediction are both empty counts 1); MAE of the
probability; boundary F: harmonic mean of the shares of either contour that lie within 2 px of the
other (Csurka et al., BMVC 2013), the mean over images. Baseline: `colour_threshold.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from wdtrain.fields import Field, MaskField
from wdtrain.fields.mask import FOREGROUND, UNKNOWN
from wdtrain.fields.png import encode_png
from wdtrain.targets.base import LossFunction, MetricSums, Target, Truth, Warp
from wdtrain.targets.colour_threshold import ColourHistogram
from wdtrain.targets.colouring import FALSE_ALARM, HIT, MISS, greyed, tinted
from wdtrain.targets.losses import (
    bce_dice_of_logits,
    bce_dice_of_unit,
    bce_of_logits,
    bce_of_unit,
    l1,
    smooth_l1,
)
from wdtrain.targets.sums import IMAGE_BITS, PIXEL_BITS, dilate, fixed, is_foreground, ratio

BOUNDARY_TOLERANCE_PX = 2
_NAMES = (
    "images", "iou", "dice", "boundary_f", "intersection", "union", "either", "error", "pixels",
)  # fmt: skip


class MaskTarget(Target):
    """Learns a `mask` field."""

    losses: ClassVar[Mapping[str, Mapping[str, LossFunction]]] = {
        "bce": {"logits": bce_of_logits, "unit": bce_of_unit},
        "bce+dice": {"logits": bce_dice_of_logits, "unit": bce_dice_of_unit},
        "l1": {"unit": l1, "positive": l1},
        "smooth-l1": {"unit": smooth_l1, "positive": smooth_l1},
    }
    labels: ClassVar[Mapping[str, str]] = {
        "iou": "IoU",
        "dice": "Dice",
        "iou_pooled": "IoU pooled",
        "dice_pooled": "Dice pooled",
        "boundary_f": "boundary F",
        "mae": "MAE",
    }
    higher = frozenset({"iou", "dice", "iou_pooled", "dice_pooled", "boundary_f"})
    columns = ("iou_pooled", "iou", "dice", "boundary_f", "mae")
    baseline_name = "colour threshold"
    divides = True
    metric, sample_metric = "iou_pooled", "iou"

    def __init__(self, field: Field) -> None:
        assert isinstance(field, MaskField)
        super().__init__(field)
        self._unknown = UNKNOWN if field.has_unknown else None

    def truth(self, stored: Tensor) -> Truth:
        valid = torch.ones_like(stored, dtype=torch.float32)
        if self._unknown is not None:
            valid = (stored != self._unknown).to(torch.float32)
        return Truth((stored >= FOREGROUND).to(torch.float32), valid)

    def warped(self, stored: Tensor, warp: Warp) -> Truth:
        """Of the nearest pixel."""
        truth = self.truth(warp.nearest(stored.to(torch.float32)))
        return Truth(truth.wanted, truth.valid * warp.inside)

    def sides(self, truth: Truth) -> tuple[Tensor, Tensor]:
        inside = truth.wanted > 0.5
        return inside & truth.known, ~inside & truth.known

    def sums(self) -> MaskSums:
        return MaskSums()

    def baseline(self, size: tuple[int, int]) -> ColourHistogram:
        return ColourHistogram(self.name)

    def colour(self, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Black to white."""
        grey = np.rint(np.clip(values[0], 0, 1) * 255).astype(np.uint8)
        return greyed(np.repeat(grey[..., None], 3, 2), valid)

    def colour_error(
        self, picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray
    ) -> np.ndarray:
        """The input, darkened; hits green, misses blue, false alarms red."""
        inside, found = truth[0] >= 0.5, prediction[0] >= 0.5
        regions = (inside & found, HIT), (inside & ~found, MISS), (~inside & found, FALSE_ALARM)
        return greyed(tinted(picture, *regions), valid)

    def encode(self, prediction: np.ndarray) -> bytes:
        """Probability, 0..255."""
        return encode_png(np.rint(np.clip(prediction[0], 0, 1) * 255).astype(np.uint8))


class MaskSums(MetricSums):
    """Sums of mask metrics over images. Each sample is to be given once, over all ranks."""

    def __init__(self) -> None:
        super().__init__((len(_NAMES),))

    def update(
        self,
        prediction: Float[Tensor, "n 1 h w"],
        target: Shaped[Tensor, "n 1 h w"],
        valid: Bool[Tensor, "n 1 h w"] | None = None,
        foreground: Tensor | None = None,
        background: Tensor | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Adds n images; returns iou, dice, boundary_f and mae of each (fp64, on the CPU).

        prediction: probability 0..1, foreground from 0.5. target: alpha uint8, or probability, or
        bool. valid: which pixels count (default: all); an image without any is left out, NaN.
        """
        truth, found = is_foreground(target), is_foreground(prediction)
        known = torch.ones_like(truth) if valid is None else valid
        counted = known.flatten(1).any(1)
        sums = _per_image(prediction, truth, found, known)
        sums = torch.where(counted[:, None], sums, 0.0)
        self._add(sums.sum(0))
        values = torch.where(counted[:, None], sums, torch.nan).cpu()
        column = dict(zip(_NAMES, values.unbind(1), strict=True))
        return {
            **{name: column[name] for name in ("iou", "dice", "boundary_f")},
            "mae": column["error"] / column["pixels"],
        }

    def result(self) -> dict[str, float]:
        """iou, dice, boundary_f (means over images), iou_pooled, dice_pooled, mae, images.

        NaN without any image.
        """
        total = dict(zip(_NAMES, self._sums, strict=True))
        images, nan = total["images"], float("nan")
        none = nan if images == 0 else 1.0
        metrics = {
            **{name: ratio(total[name], images, nan) for name in ("iou", "dice", "boundary_f")},
            "iou_pooled": ratio(total["intersection"], total["union"], none),
            "dice_pooled": ratio(2 * total["intersection"], total["either"], none),
            "mae": ratio(total["error"], total["pixels"], nan),
            "images": images,
        }
        return {name: float(value) for name, value in metrics.items()}


def boundary_f(
    found: Bool[Tensor, "n 1 h w"],
    truth: Bool[Tensor, "n 1 h w"],
    known: Bool[Tensor, "n 1 h w"] | None = None,
    *,
    tolerance_px: int = BOUNDARY_TOLERANCE_PX,
) -> Float[Tensor, " n"]:
    """Boundary F of each image, fp64 0..1; 1 where neither mask has a contour.

    A contour is the foreground pixels with one of the four neighbours outside the mask; where a
    mask is not known, it has neither.
    """
    known = torch.ones_like(found) if known is None else known
    edge, edge_truth = (mask & known & dilate(~mask & known, 1) for mask in (found, truth))
    precision = ratio(_count(edge & dilate(edge_truth, tolerance_px)), _count(edge), 0.0)
    recall = ratio(_count(edge_truth & dilate(edge, tolerance_px)), _count(edge_truth), 0.0)
    both_empty = (_count(edge) + _count(edge_truth)) == 0
    return torch.where(both_empty, 1.0, ratio(2 * precision * recall, precision + recall, 0.0))


def _per_image(prediction: Tensor, truth: Tensor, found: Tensor, known: Tensor) -> Tensor:
    """fp64 [n, len(_NAMES)]: what each image adds."""
    found, truth = found & known, truth & known
    intersection, union = _count(found & truth), _count(found | truth)
    either = _count(found) + _count(truth)
    error = (prediction.to(torch.float64) - truth.to(torch.float64)).abs().where(known, 0.0)
    columns = {
        "images": torch.ones_like(union),
        "iou": fixed(ratio(intersection, union, 1.0), IMAGE_BITS),
        "dice": fixed(ratio(2 * intersection, either, 1.0), IMAGE_BITS),
        "boundary_f": fixed(boundary_f(found, truth, known), IMAGE_BITS),
        "intersection": intersection,
        "union": union,
        "either": either,
        "error": fixed(error, PIXEL_BITS).flatten(1).sum(1),
        "pixels": _count(known),
    }
    return torch.stack([columns[name] for name in _NAMES], 1)


def _count(mask: Tensor) -> Tensor:
    return mask.flatten(1).sum(1).to(torch.float64)
