"""What the sums of all kinds share: fixed-point values, discs, the flat fp64 form.

A sum of floats depends on its order, a sum of multiples of a power of two does not while it stays
below 2**53 of them. So every summand is rounded to such a grid first, and a metric is the same bit
for bit over any batches and ranks.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from wdtrain.fields.mask import FOREGROUND

PIXEL_BITS = 20
"""Summands per pixel are multiples of 2**-20 (1e-6): exact up to a total of 8.6e9."""
IMAGE_BITS = 32
"""Summands per image are multiples of 2**-32: exact up to two million images of values near 1."""


def fixed(values: Tensor, bits: int) -> Tensor:
    """`values` in fp64, rounded to multiples of 2**-bits."""
    return (values.to(torch.float64) * 2.0**bits).round() * 2.0**-bits


def ratio(numerator: Tensor, denominator: Tensor, empty: float) -> Tensor:
    """numerator / denominator in fp64, `empty` where the denominator is 0."""
    numerator, denominator = numerator.to(torch.float64), denominator.to(torch.float64)
    quotient = numerator / torch.where(denominator == 0, 1.0, denominator)
    return torch.where(denominator == 0, empty, quotient)


def is_foreground(mask: Shaped[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Which pixels of a mask are foreground: alpha uint8 from 128, float from 0.5, bool as is."""
    if mask.dtype == torch.bool:
        return mask
    return mask >= (0.5 if mask.is_floating_point() else FOREGROUND)


def dilate(mask: Bool[Tensor, "n 1 h w"], radius_px: int) -> Bool[Tensor, "n 1 h w"]:
    """Pixels within `radius_px` (Euclidean, centre to centre) of a pixel of the mask."""
    offsets = torch.arange(-radius_px, radius_px + 1, device=mask.device)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius_px**2).to(torch.float32)
    return F.conv2d(mask.to(torch.float32), disc[None, None], padding=radius_px) > 0.5


def boundary_band(
    mask: Bool[Tensor, "n 1 h w"], radius_px: int, rest: Bool[Tensor, "n 1 h w"] | None = None
) -> Bool[Tensor, "n 1 h w"]:
    """Pixels within `radius_px` of a pixel of the other side; rest: that of the mask, by default
    all that is not in it. The picture's edge is no boundary."""
    rest = ~mask if rest is None else rest
    return (mask & dilate(rest, radius_px)) | (rest & dilate(mask, radius_px))


class Sums:
    """fp64 sums of one shape that add up over batches and ranks: of metrics, of baselines."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sums = torch.zeros(shape, dtype=torch.float64)

    def as_tensor(self) -> Float[Tensor, " size"]:
        """A flat fp64 copy on the CPU: all-reduce it with SUM, and hand it to `from_tensor`."""
        return self._sums.flatten().clone()

    def from_tensor(self, flat: Float[Tensor, " size"]) -> Self:
        """These sums are now those of `flat`, as `as_tensor` of the same kind of sums gave it."""
        if flat.numel() != self._sums.numel():
            raise ValueError(
                f"metric sums have {flat.numel()} numbers, {self._sums.numel()} are needed: they "
                "come from another kind of metric; merge sums of one kind only"
            )
        self._sums = flat.detach().to("cpu", torch.float64).reshape(self._sums.shape).clone()
        return self

    def merge(self, other: Self) -> Self:
        """These sums are now those of both."""
        return self.from_tensor(self.as_tensor() + other.as_tensor())

    def _add(self, sums: Tensor) -> None:
        self._sums += sums.detach().to("cpu", torch.float64)
