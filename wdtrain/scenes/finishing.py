"""What happens to a picture after its things are in place: shadow, blur, noise, compression.

None of it moves a depth or a mask. Lengths scale with the picture, so a scene looks alike at every
size.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.keyed import generator
from wdtrain.scenes.pasting import Spot, overlap

_SHADOW_DARKNESS = 0.45


@lru_cache(maxsize=4)
def _noise_bank(size: int) -> np.ndarray:
    """float32 [2 size, 2 size, 3] of standard normal noise: pictures take windows of it."""
    shape = (2 * size, 2 * size, 3)
    return generator("noise", size).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=1)
def _shadow() -> np.ndarray:
    """float32 [32, 32]: a soft round shadow, 1 in the middle."""
    line = np.linspace(-1, 1, 32, dtype=np.float32) ** 2
    blob: np.ndarray = np.sqrt(np.clip(1 - line[:, None] - line[None, :], 0, 1))
    return blob


def cast_shadow(
    rgb: np.ndarray, depth: np.ndarray, spot: Spot, shape: tuple[int, ...], distance_m: float
) -> None:
    """Darken the ground where a layer of `shape` stands at `distance_m`; `rgb` is changed."""
    rows, columns = shape[:2]
    flat = max(2, round(0.16 * columns))
    patch = cv2.resize(_shadow(), (columns, flat), interpolation=cv2.INTER_LINEAR)
    below = Spot(spot.top + rows - round(0.65 * flat), spot.left)
    there, here = overlap(below, patch.shape, depth.shape[0])
    near = np.abs(depth[there] / distance_m - 1) < 0.35
    rgb[there] *= (1 - _SHADOW_DARKNESS * patch[here] * near)[..., None]


def develop(rng: np.random.Generator, rgb: np.ndarray, difficulty: Difficulty) -> np.ndarray:
    """uint8 [size, size, 3] of float32 RGB 0..1: blurred, noisy, once through a JPEG."""
    size = rgb.shape[0]
    rgb = cv2.GaussianBlur(rgb, (0, 0), max(difficulty.blur * size, 0.2))
    bank = _noise_bank(size)
    row, column = rng.integers(0, size, 2)
    rgb = rgb + difficulty.noise * bank[row : row + size, column : column + size]
    codes = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
    return decode_jpeg(encode_jpeg(codes, quality=difficulty.jpeg_quality))
