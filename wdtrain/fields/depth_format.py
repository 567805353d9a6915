"""How a depth map is written as codes: its kinds, with their arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wdtrain.fields.errors import FieldError, shown

DepthKind = Literal["metric", "geometric", "inverse", "relative"]
Number = Any
"""A float, a numpy array or a tensor: the arithmetic below reads the same on all three."""


@dataclass(frozen=True, kw_only=True)
class DepthFormat:
    """How a depth map is written as codes: its kind, its limits in metres, its bits (8 or 16).

    Code 0 means unknown and is not trained on. Codes 1..max map linearly onto unit values 0..1.
    `metric` and `geometric`: unit = log(Z / near_m) / log(far_m / near_m), clipped to 0..1.
    `inverse` and `relative`: unit is the (clipped) value itself.
    """

    kind: DepthKind = "metric"
    near_m: float = 0.5
    far_m: float = 20.0
    bits: int = 8

    def __post_init__(self) -> None:
        if self.kind not in ("metric", "geometric", "inverse", "relative"):
            raise FieldError(
                f"depth.kind is {shown(self.kind)}; it must be metric, geometric, inverse or "
                "relative"
            )
        if self.bits not in (8, 16):
            raise FieldError(f"depth.bits is {self.bits}; depth is stored in 8 or 16 bits")
        if not 0 < self.near_m < self.far_m:
            raise FieldError(
                f"depth limits are {self.near_m} m to {self.far_m} m; near must be above 0 and "
                "below far"
            )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def max_code(self) -> int:
        return 255 if self.bits == 8 else 65535

    @property
    def is_logarithmic(self) -> bool:
        return self.kind in ("metric", "geometric")

    @property
    def larger_is_nearer(self) -> bool:
        """Of two codes; relative depth is taken to grow with distance, as it is drawn."""
        return self.kind == "inverse"

    @property
    def log_range(self) -> float:
        """log(far_m / near_m): one unit of a logarithmic depth, in natural log units."""
        return math.log(self.far_m / self.near_m)

    def encode(self, depth: np.ndarray) -> np.ndarray:
        """Codes of a float depth map [h, w]: metres if logarithmic, else values in 0..1.

        What is not finite, or not positive where a logarithm is taken, becomes 0 (unknown).
        """
        known = np.isfinite(depth)
        if self.is_logarithmic:
            known &= depth > 0
            safe = np.where(known, depth, self.near_m)
            unit = np.log(safe / self.near_m) / self.log_range
        else:
            unit = np.where(known, depth, 0.0)
        codes = 1 + np.rint(np.clip(unit, 0.0, 1.0) * (self.max_code - 1))
        return np.where(known, codes, 0).astype(self.dtype)

    def to_unit(self, codes: Number) -> Number:
        """Unit depth 0..1 of float codes (array or tensor); code 0 gives a value just below 0."""
        return (codes - 1) / (self.max_code - 1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 [h, w] in metres (logarithmic kinds) or unit values; unknown is NaN."""
        unit = self.to_unit(codes.astype(np.float64))
        value = self.near_m * np.exp(unit * self.log_range) if self.is_logarithmic else unit
        return np.where(codes == 0, np.nan, value).astype(np.float32)

    def unit_after_zoom(self, unit: Number, log_zoom: Number) -> Number:
        """Unit depth after the picture was magnified by exp(log_zoom) (Eigen et al. 2014).

        Magnified by s, a thing looks as if it stood s times nearer: logarithmic depth is shifted by
        log s, inverse depth multiplied by s, relative depth has no scale and is left.
        """
        if self.is_logarithmic:
            return unit - log_zoom / self.log_range
        if self.kind == "inverse":
            zoom = np.exp(log_zoom) if isinstance(log_zoom, np.ndarray | float) else log_zoom.exp()
            return unit * zoom
        return unit

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "near_m": self.near_m,
            "far_m": self.far_m,
            "bits": self.bits,
        }
