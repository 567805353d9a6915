"""`depth`: one output a pixel, the unit value 0..1 of the field's depth format.

Code 0 (unknown) is not valid. A warp takes the nearest pixel, which a mask is read from too: a mean
over an edge is the depth of nothing; and a zoom brings things nearer. Metrics of Eigen et al. 2014:
AbsRel, SqRel, RMSE, RMSElog, delta < 1.25^k, pooled over the valid pixels of all images; log10
(Saxena et al. 2008); MAE; SILog as the KITTI benchmark gives it (100 x the deviation of the log
error within an image, the mean over images). Over all pixels, foreground, background and those
within 3 px of the mask's boundary; as predicted, and after each image was scaled by the ratio of
medians (Zhou et al. 2017). The surprise: depth at the far limit of its format stays there under a
zoom, since its code means "there or beyond" (the sky comes no nearer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wdtrain.fields import DepthField, DepthFormat, Field
from wdtrain.fields.png import encode_png
from wdtrain.targets.base import Baseline, Breakdown, LossFunction, MetricSums, Target, Truth, Warp
from wdtrain.targets.colouring import coloured
from wdtrain.targets.losses import bce_of_logits, bce_of_unit, l1, smooth_l1
from wdtrain.targets.sums import IMAGE_BITS, PIXEL_BITS, boundary_band, fixed, ratio

LARGEST_ERROR = 0.25
"""Unit depth difference that is drawn in the brightest colour of an error."""
BOUNDARY_PX = 3
REGIONS = ("all", "foreground", "background", "boundary")
ALIGNMENTS = ("", "aligned")
_PIXEL_SUMS = (
    "absrel", "sqrel", "square", "square_log", "log10", "delta1", "delta2", "delta3", "mae",
)  # fmt: skip
_SQUARES = ("square", "square_log")
"""Roots and a variance are taken of these, which rounding would show in: they are squares of what
was rounded, and what rounding takes away of them stands in a column of its own, their rest."""
_RESTS = tuple(f"{name} rest" for name in _SQUARES)
_NAMES = ("pixels", *_PIXEL_SUMS, *_RESTS, "silog", "images")
_LOG_METRICS = ("absrel", "rmse_log", "rmse", "mae", "sqrel", "log10", "silog")
_DELTAS = ("delta1", "delta2", "delta3")
_UNIT_BITS = 30
_COLUMNS = ("rmse_log", "absrel", "rmse", "mae", "log10", "silog", "delta1", "delta2")
_ALIGNED_COLUMNS = ("aligned/rmse_log", "aligned/absrel", "aligned/delta1")


class DepthTarget(Target):
    """Learns a `depth` field."""

    losses: ClassVar[Mapping[str, Mapping[str, LossFunction]]] = {
        "l1": {"unit": l1, "positive": l1},
        "smooth-l1": {"unit": smooth_l1, "positive": smooth_l1},
        "bce": {"logits": bce_of_logits, "unit": bce_of_unit},
    }
    labels: ClassVar[Mapping[str, str]] = {
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
    higher = frozenset(_DELTAS)
    columns = (*_COLUMNS, *_ALIGNED_COLUMNS)
    baseline_name = "mean depth picture"
    by_region = True

    def __init__(self, field: Field) -> None:
        assert isinstance(field, DepthField)
        super().__init__(field)
        self.format = field.format

    @property
    def metric(self) -> str:
        """RMSE of log depth, or of unit depth."""
        return "rmse_log" if self.format.is_logarithmic else "rmse"

    def truth(self, stored: Tensor) -> Truth:
        codes = stored.to(torch.float32)
        unit: Tensor = self.format.to_unit(codes)
        return Truth(unit.clamp(min=0.0), (codes > 0).to(torch.float32))

    def warped(self, stored: Tensor, warp: Warp) -> Truth:
        """As seen after the zoom, clipped to 0..1, of the nearest pixel."""
        truth = self.truth(warp.nearest(stored.to(torch.float32)))
        valid = warp.inside * truth.valid
        return Truth(zoomed(truth.wanted, warp.log_zoom, self.format) * valid, valid)

    def sums(self) -> DepthSums:
        return DepthSums(self.format)

    def baseline(self, size: tuple[int, int]) -> MeanDepth:
        return MeanDepth(*size, name=self.name)

    def breakdown(self, metrics: Mapping[str, float]) -> Breakdown | None:
        """By region, where something divides the pixels."""
        if not any(path.startswith("foreground/") for path in metrics):
            return None
        found = {region: _of_region(metrics, region) for region in REGIONS}
        rows = {region.replace("all", "all pixels"): row for region, row in found.items() if row}
        unit = "metres" if self.format.is_logarithmic else "unit values"
        title = f"By region (boundary: within {BOUNDARY_PX} px of the mask's); RMSE, MAE in {unit}"
        return Breakdown(title, "region", rows)

    def colour(self, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """By a perceptual map, near bright and far dark."""
        unit = values[0] if valid is None else np.where(valid, values[0], np.nan)
        return coloured(1.0 - unit, cv2.COLORMAP_INFERNO)

    def colour_error(
        self, picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray
    ) -> np.ndarray:
        """The absolute difference, blue to yellow."""
        error = np.abs(prediction[0] - np.where(valid, truth[0], np.nan)) / LARGEST_ERROR
        return coloured(error, cv2.COLORMAP_CIVIDIS)

    def encode(self, prediction: np.ndarray) -> bytes:
        """Codes of 16 bits; 0 is never written."""
        most = replace(self.format, bits=16).max_code - 1
        return encode_png((1 + np.rint(np.clip(prediction[0], 0, 1) * most)).astype(np.uint16))


def zoomed(unit: Tensor, log_zoom: Tensor, depth_format: DepthFormat) -> Tensor:
    """Unit depth [n, 1, h, w] after a magnification, clipped to 0..1 as the format clips.

    Depth at the far limit of a logarithmic format (half a code around it) stays: it is there or
    beyond.
    """
    shifted: Tensor = depth_format.unit_after_zoom(unit, log_zoom[:, None, None, None])
    shifted = shifted.clamp(0.0, 1.0)
    if not depth_format.is_logarithmic:
        return shifted
    far = 1.0 - 0.5 / (depth_format.max_code - 1)
    return torch.where(unit >= far, unit.clamp(max=1.0), shifted)


def _of_region(metrics: Mapping[str, float], region: str) -> dict[str, float]:
    """Metrics of one region under the names that they have over all pixels."""
    found = {}
    for path, value in metrics.items():
        *before, name = path.split("/")
        alignment = ["aligned"] if "aligned" in before else []
        wanted = [*alignment, *([region] if region != "all" else [])]
        if before == wanted and name in DepthTarget.labels:
            found["/".join([*alignment, name])] = value
    return found


class DepthSums(MetricSums):
    """Sums of depth metrics over images of one depth format.

    Logarithmic kinds (metric, geometric) are compared in metres; inverse and relative depth in unit
    values, with rmse and mae alone, relative depth without alignment: it has no scale.
    """

    def __init__(self, depth_format: DepthFormat) -> None:
        super().__init__((len(ALIGNMENTS), len(REGIONS), len(_NAMES)))
        self.depth_format = depth_format

    def update(
        self,
        prediction: Float[Tensor, "n 1 h w"],
        target: Float[Tensor, "n 1 h w"],
        valid: Bool[Tensor, "n 1 h w"] | None = None,
        foreground: Bool[Tensor, "n 1 h w"] | None = None,
        background: Bool[Tensor, "n 1 h w"] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Adds n images; returns the metrics of each over all its valid pixels (fp64, CPU).

        prediction, target: unit depth; a prediction outside 0..1 is taken as the nearest limit.
        valid: where the depth is known (default: everywhere). Without `foreground` only the region
        "all" is counted; background: by default all the rest. An image without a valid pixel adds
        nothing and is NaN.
        """
        valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        depth, truth = (self._depth(unit).flatten(1) for unit in (prediction, target))
        regions = _regions(valid, foreground, background)
        per_image = torch.stack(
            [
                self._per_image(depth, truth, regions),
                self._per_image(*self._aligned(depth, truth, regions)),
            ],
            1,
        )  # [n, alignments, regions, names]
        self._add(per_image.sum(0))
        return self._metrics(per_image[:, 0, 0].cpu())

    def result(self) -> dict[str, float]:
        """Every metric: `absrel`, `foreground/absrel`, `aligned/absrel`, `aligned/boundary/absrel`
        ..., and `images`. Regions without a pixel are left out; without any, `images` is 0.
        """
        metrics = {}
        for alignment, regions in zip(ALIGNMENTS, self._sums, strict=True):
            for region, sums in zip(REGIONS, regions, strict=True):
                if sums[_NAMES.index("pixels")] == 0:
                    continue
                path = [alignment, "" if region == "all" else region]
                for name, value in self._metrics(sums[None]).items():
                    metrics["/".join(filter(None, [*path, name]))] = float(value)
        return {**metrics, "images": float(self._sums[0, 0, _NAMES.index("images")])}

    def _metrics(self, sums: Tensor) -> dict[str, Tensor]:
        """Metrics [n] of sums [n, names]."""
        column = dict(zip(_NAMES, sums.unbind(1), strict=True))
        means = {name: ratio(column[name], column["pixels"], float("nan")) for name in _PIXEL_SUMS}
        for name, rest in zip(_SQUARES, _RESTS, strict=True):
            means[name] = ratio(column[name] + column[rest], column["pixels"], float("nan"))
        rmse = means["square"].sqrt()
        if not self.depth_format.is_logarithmic:
            return {"rmse": rmse, "mae": means["mae"]}
        metrics = {
            **means,
            "rmse": rmse,
            "rmse_log": means["square_log"].sqrt(),
            "silog": ratio(column["silog"], column["images"], float("nan")),
        }
        return {name: metrics[name] for name in (*_LOG_METRICS, *_DELTAS)}

    def _depth(self, unit: Tensor) -> Tensor:
        """fp64 metres of a logarithmic kind, else unit values."""
        unit = unit.to(torch.float64).clamp(0.0, 1.0)
        if self.depth_format.is_logarithmic:
            return self.depth_format.near_m * (unit * self.depth_format.log_range).exp()
        return unit

    def _aligned(
        self, depth: Tensor, truth: Tensor, regions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each image scaled by the ratio of its medians; for relative depth nothing is counted."""
        if self.depth_format.kind == "relative":
            return depth, truth, torch.zeros_like(regions)
        valid = regions[:, 0]
        scale = ratio(_median(truth, valid), _median(depth, valid), 1.0)
        return depth * scale[:, None], truth, regions

    def _per_image(self, depth: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
        """fp64 [n, regions, names]: what each image adds."""
        valid = regions[:, 0]
        errors = _errors(
            torch.where(valid, depth, 1.0),
            torch.where(valid, truth, 1.0),
            logarithmic=self.depth_format.is_logarithmic,
        )
        values = torch.stack([*errors.values(), *(errors[name] for name in _SQUARES)], 1)
        values.mul_(2.0**PIXEL_BITS)  # in place: this is the largest tensor here
        rounded, rests = values[:, : len(errors)], values[:, len(errors) :]
        rests.sub_(rests.round())
        rounded.round_()
        products = torch.bmm(regions.to(torch.float64), values.mT) * 2.0**-PIXEL_BITS
        sums = dict(zip((*errors, *_RESTS), products.unbind(2), strict=True))
        sums["pixels"] = regions.sum(2).to(torch.float64)
        sums["images"] = (sums["pixels"] > 0).to(torch.float64)
        mean = ratio(sums["log"], sums["pixels"], 0.0)
        squares = sums["square_log"] + sums["square_log rest"]
        variance = ratio(squares, sums["pixels"], 0.0) - mean**2
        sums["silog"] = fixed(100 * variance.clamp(min=0.0).sqrt(), IMAGE_BITS)
        return torch.stack([sums[name] for name in _NAMES], 2)


def _regions(
    valid: Tensor, foreground: Tensor | None, background: Tensor | None
) -> Bool[Tensor, "n regions pixels"]:
    if foreground is None:
        regions = [valid] + [torch.zeros_like(valid)] * 3
    else:
        rest = ~foreground if background is None else background
        band = boundary_band(foreground, BOUNDARY_PX, rest)
        regions = [valid, valid & foreground, valid & rest, valid & band]
    return torch.stack([region.flatten(1) for region in regions], 1)


def _errors(depth: Tensor, truth: Tensor, *, logarithmic: bool) -> dict[str, Tensor]:
    """Per-pixel summands by name; `log` is the signed log error. Undefined ones are 0."""
    difference = depth - truth
    errors = {"mae": difference.abs(), "square": fixed(difference, PIXEL_BITS) ** 2}
    if not logarithmic:
        zero = torch.zeros_like(depth)
        return {**dict.fromkeys((*_PIXEL_SUMS, "log"), zero), **errors}
    log = depth.log() - truth.log()
    largest = torch.maximum(depth / truth, truth / depth)
    return {
        **errors,
        "absrel": difference.abs() / truth,
        "sqrel": difference**2 / truth,
        "log": log,
        "square_log": fixed(log, PIXEL_BITS) ** 2,
        "log10": log.abs() / math.log(10),
        **{f"delta{power}": (largest < 1.25**power).to(torch.float64) for power in (1, 2, 3)},
    }


def _median(values: Tensor, valid: Tensor) -> Float[Tensor, " n"]:
    """Median of each image's valid pixels, the mean of the middle two of an even number; or 0."""
    ordered = torch.where(valid, values, torch.inf).flatten(1).sort(1).values
    count = valid.flatten(1).sum(1, keepdim=True)
    low = ordered.gather(1, ((count - 1) // 2).clamp(min=0))
    high = ordered.gather(1, (count // 2).clamp(max=ordered.shape[1] - 1))
    return torch.where(count > 0, (low + high) / 2, 0.0).squeeze(1)


@dataclass(frozen=True)
class ConstantDepth:
    """The same unit depth [1, h, w] for every picture."""

    unit: Float[Tensor, "1 h w"]

    def predict(self, picture: Tensor) -> Tensor:
        return self.unit.to(picture.device).expand(len(picture), *self.unit.shape)


class MeanDepth(Baseline):
    """The mean unit depth of each pixel over the training samples: the best constant picture.

    For logarithmic kinds it is the picture of least RMSElog.
    """

    def __init__(self, height: int, width: int, *, name: str = "depth") -> None:
        super().__init__((2, height, width))
        self._name = name

    def update(self, picture: Tensor, truth: Truth) -> None:
        """Adds n unit depth maps where they are known."""
        known = torch.where(truth.known, fixed(truth.wanted, _UNIT_BITS), 0.0)
        self._add(torch.stack([known.sum((0, 1)), truth.known.sum((0, 1)).to(torch.float64)]))

    def fit(self) -> ConstantDepth:
        """ValueError where nothing was known."""
        if not self._sums[1].any():
            raise ValueError(
                f"{self._name} of the first training samples is unknown everywhere, so a network "
                "would learn nothing of it; pack data with it, or train without it"
            )
        return ConstantDepth(self.picture())

    def picture(self) -> Float[Tensor, "1 h w"]:
        """The mean picture; a pixel that was never known has the mean of all others."""
        total, count = self._sums
        overall = total.sum() / count.sum().clamp(min=1.0)
        mean = torch.where(count > 0, total / count.clamp(min=1.0), overall)
        return mean.to(torch.float32)[None]
