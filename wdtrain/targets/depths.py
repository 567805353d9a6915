"""Depth metrics by definition, as sums that merge exactly over batches and ranks.

Of Eigen et al. 2014: AbsRel, SqRel, RMSE, RMSElog, delta < 1.25^k, pooled over the valid pixels of
all images; log10 (Saxena et al. 2008); MAE; SILog as the KITTI benchmark gives it (100 x the
deviation of the log error within an image, the mean over images). Over all pixels, foreground,
background and those within 3 px of the mask's boundary; as predicted, and after each image was
scaled by the ratio of medians (Zhou et al. 2017).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.targets.sums import IMAGE_BITS, PIXEL_BITS, Sums, boundary_band, fixed, ratio

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


class DepthSums(Sums):
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
        valid: Bool[Tensor, "n 1 h w"],
        foreground: Bool[Tensor, "n 1 h w"] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Adds n images; returns the metrics of each over all its valid pixels (fp64, CPU).

        prediction, target: unit depth; a prediction outside 0..1 is taken as the nearest limit.
        valid: where the depth is known. Without `foreground` only the region "all" is counted.
        An image without a valid pixel adds nothing and is NaN.
        """
        depth, truth = (self._depth(unit).flatten(1) for unit in (prediction, target))
        regions = _regions(valid, foreground)
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


def _regions(valid: Tensor, foreground: Tensor | None) -> Bool[Tensor, "n regions pixels"]:
    if foreground is None:
        regions = [valid] + [torch.zeros_like(valid)] * 3
    else:
        band = boundary_band(foreground, BOUNDARY_PX)
        regions = [valid, valid & foreground, valid & ~foreground, valid & band]
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
