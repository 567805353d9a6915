"""A cut-out made ready for placing: premultiplied, with relief and a plausible physical height.

A photo of a cut-out says neither how tall the thing is nor how it bulges. The height is taken from
its shape (people stand, desks lie), the relief from the distance to its outline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_MOST_ROWS = 512
_DEEPEST_M = 0.2
_SHAPES = (math.log(0.4), math.log(0.7), 0.0, math.log(1.5), math.log(2.2))
_HEIGHTS_M = (0.75, 0.9, 1.15, 1.45, 1.72)


@dataclass(frozen=True)
class Cutout:
    """rgb: float32 [h, w, 3] premultiplied 0..1; alpha, bulge: float32 [h, w], 0..1.

    height_m: what a thing of this shape usually measures.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    bulge: np.ndarray
    height_m: float

    def sized(self, rows: int, *, flip: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rgb, alpha, bulge), `rows` pixels tall."""
        columns = max(1, round(self.alpha.shape[1] * rows / self.alpha.shape[0]))
        mode = cv2.INTER_AREA if rows < self.alpha.shape[0] else cv2.INTER_LINEAR
        layers = (self.rgb, self.alpha, self.bulge)
        if rows != self.alpha.shape[0]:
            layers = tuple(
                cv2.resize(layer, (columns, rows), interpolation=mode) for layer in layers
            )
        rgb, alpha, bulge = (layer[:, ::-1] if flip else layer for layer in layers)
        return rgb, alpha, bulge


def prepare_cutout(rgba: np.ndarray) -> Cutout:
    """A Cutout of uint8 [h, w, 4] RGBA that touches the ground with its last row."""
    if rgba.shape[0] > _MOST_ROWS:
        columns = max(1, round(rgba.shape[1] * _MOST_ROWS / rgba.shape[0]))
        rgba = _shrink(rgba, columns, _MOST_ROWS)
    alpha = rgba[..., 3].astype(np.float32) / 255
    height, width = alpha.shape
    solid = np.pad((rgba[..., 3] >= 128).astype(np.uint8), 1)
    inner = cv2.distanceTransform(solid, cv2.DIST_L2, 5)[1:-1, 1:-1]
    reach = max(float(inner.max()), 1.0)
    bulge = np.sqrt(np.clip(1 - (1 - np.minimum(inner / reach, 1)) ** 2, 0, 1))
    return Cutout(
        rgb=rgba[..., :3].astype(np.float32) / 255 * alpha[..., None],
        alpha=alpha,
        bulge=bulge.astype(np.float32),
        height_m=float(np.interp(math.log(height / width), _SHAPES, _HEIGHTS_M)),
    )


def relief_m(bulge: np.ndarray, alpha: np.ndarray, height_m: float) -> np.ndarray:
    """Metres by which each point stands out towards the camera, float32 [h, w]."""
    deepest = min(_DEEPEST_M, 0.15 * height_m)
    return np.where(alpha > 0, bulge * np.float32(deepest), 0).astype(np.float32)


def _shrink(rgba: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """RGBA made smaller without colour bleeding from where it is transparent."""
    alpha = rgba[..., 3:].astype(np.float32)
    lit = cv2.resize(rgba[..., :3] * (alpha / 255), (columns, rows), interpolation=cv2.INTER_AREA)
    small = cv2.resize(alpha, (columns, rows), interpolation=cv2.INTER_AREA)
    colour = np.clip(lit * 255 / np.maximum(small, 1)[..., None], 0, 255)
    return np.dstack([colour, small]).round().astype(np.uint8)
