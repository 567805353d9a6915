"""Paste a layer (a figure or a cut-out) into a picture with depth: what is nearer covers.

Owns the one place where alpha, occlusion and depth meet, so that mask, picture and depth always
agree: the mask is the visible alpha, and the depth is the layer's where that is 128 or more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wdtrain.fields.mask import FOREGROUND


@dataclass(frozen=True)
class Layer:
    """rgb: float32 [h, w, 3] premultiplied, 0..1; alpha: float32 [h, w]; depth: metres [h, w]."""

    rgb: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class Spot:
    """Where a layer goes: its upper left corner, in pixels; it may lie outside the picture."""

    top: int
    left: int


def overlap(
    spot: Spot, layer_shape: tuple[int, ...], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(slices of the picture, slices of the layer) where both are; empty slices if nowhere."""
    rows, columns = layer_shape[:2]
    top, left = max(spot.top, 0), max(spot.left, 0)
    bottom = max(top, min(spot.top + rows, size))
    right = max(left, min(spot.left + columns, size))
    picture = (slice(top, bottom), slice(left, right))
    layer = (
        slice(top - spot.top, bottom - spot.top),
        slice(left - spot.left, right - spot.left),
    )
    return picture, layer


def visible_fraction(
    alpha: np.ndarray, layer_depth: np.ndarray | float, depth: np.ndarray, spot: Spot
) -> float:
    """The share of the layer's alpha that is inside the picture and nearer than `depth`."""
    there, here = overlap(spot, alpha.shape, depth.shape[0])
    nearest = layer_depth[here] if isinstance(layer_depth, np.ndarray) else layer_depth
    seen = float(alpha[here][nearest < depth[there]].sum())
    whole = float(alpha.sum())
    return seen / whole if whole > 0 else 0.0


def paste(rgb: np.ndarray, depth: np.ndarray, layer: Layer, spot: Spot) -> np.ndarray:
    """The mask, uint8 [size, size]; `rgb` and `depth` are changed in place."""
    mask = np.zeros(depth.shape, np.uint8)
    there, here = overlap(spot, layer.alpha.shape, depth.shape[0])
    seen = (layer.depth[here] < depth[there]).astype(np.float32)
    alpha = layer.alpha[here] * seen
    rgb[there] = rgb[there] * (1 - alpha)[..., None] + layer.rgb[here] * seen[..., None]
    mask[there] = np.rint(alpha * 255)
    np.copyto(depth[there], layer.depth[here], where=mask[there] >= FOREGROUND)
    return mask
