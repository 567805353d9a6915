"""A pinhole camera that looks level: the geometry that playground, lift and compose share.

The camera stands `height_m` above the ground and looks along Z; a shifted lens moves the horizon
to `horizon_row`, so that verticals stay vertical and depth means Z, not the length of the ray.
Rows and columns are measured in pixels from the picture's upper left corner: pixel i has its
centre at i + 0.5, and what stands on the ground touches it at the lower edge of its last row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Focal length and horizon in pixels of a picture of size x size, height in metres."""

    size: int
    focal_px: float
    height_m: float
    horizon_row: float

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """(X / Z of each column [size], Y / Z of each row [size], Y pointing down), float32."""
        centres = np.arange(self.size, dtype=np.float64) + 0.5
        across = (centres - self.size / 2) / self.focal_px
        down = (centres - self.horizon_row) / self.focal_px
        return across.astype(np.float32), down.astype(np.float32)

    def ground_depth(self, row: float) -> float:
        """Z in metres where the ground is seen at `row`: f H / (v - h0)."""
        if row <= self.horizon_row:
            raise ValueError(f"row {row} is not below the horizon at row {self.horizon_row}")
        return self.focal_px * self.height_m / (row - self.horizon_row)

    def pixel_height(self, height_m: float, row: float) -> float:
        """Rows that a thing of `height_m` covers when it stands at `row`: f h / Z."""
        return self.focal_px * height_m / self.ground_depth(row)

    def contact_row(self, height_m: float, pixel_height: float) -> float:
        """The row where a thing of `height_m` stands if it is `pixel_height` rows tall."""
        return self.horizon_row + pixel_height * self.height_m / height_m
