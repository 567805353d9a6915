"""Many pictures brought to another size at once: as `triple.resize_triple_arrays` does each.

The compiled loops do it four times as fast and hold no interpreter lock. They are used for a pair
of sizes only where they give OpenCV's own pixels, which is tried out when such a pair is first met.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from wdtrain.store import native
from wdtrain.store.memory import Recycled

Size = tuple[int, int]

_TRIED_PICTURES: Final = 4
_EPSILON: Final = 1e-3
"""A smaller part of a pixel does not count, as in OpenCV."""


class Resizer:
    """Pictures or codes of one (height, width) to another. Thread-safe."""

    def __init__(self, stored: Size, size: Size) -> None:
        self._stored, self._size = stored, size
        self._memory = Recycled()

    def shrink(self, pictures: np.ndarray, target: np.ndarray) -> None:
        """target uint8 [n, h, w] or [n, h, w, 3]: of pictures uint8, the mean of what each pixel
        covers."""
        channels = 1 if pictures.ndim == 3 else pictures.shape[3]
        height, width = self._size
        if self._stored == self._size:
            target[...] = pictures
        elif native.LIBRARY is not None and self._stored == (2 * height, 2 * width):
            native.halve(pictures, channels, target)
        elif _is_opencvs(self._stored, self._size, channels):
            axes = _axis(self._stored[0], self._size[0]), _axis(self._stored[1], self._size[1])
            values = (self._stored[1] + self._stored[0] * self._size[1]) * channels
            native.shrink(pictures, channels, *axes, self._memory.take(4 * values), target)
        else:
            _resize(pictures, target, cv2.INTER_AREA)

    def pick(self, codes: np.ndarray, target: np.ndarray) -> None:
        """target [n, h, w]: of codes uint8 or uint16, that nearest to each pixel."""
        if self._stored == self._size:
            target[...] = codes
        elif native.LIBRARY is not None:
            rows, columns = map(_nearest, self._stored, self._size)
            native.pick(codes, rows, columns, target)
        else:
            _resize(codes, target, cv2.INTER_NEAREST_EXACT)


def _resize(pictures: np.ndarray, target: np.ndarray, interpolation: int) -> None:
    height, width = target.shape[1:3]
    for picture, row in zip(pictures, target, strict=True):
        cv2.resize(picture, (width, height), dst=row, interpolation=interpolation)


@lru_cache(maxsize=64)
def _is_opencvs(stored: Size, size: Size, channels: int) -> bool:
    """Whether the compiled loops give OpenCV's pixels here: not where a side grows."""
    if native.LIBRARY is None or stored[0] < size[0] or stored[1] < size[1]:
        return False
    tried = np.random.default_rng(0).integers(0, 256, (_TRIED_PICTURES, *stored, channels))
    pictures = tried.astype(np.uint8)
    got, expected = np.empty((2, _TRIED_PICTURES, *size, channels), np.uint8)
    room = np.empty(4 * (stored[1] + stored[0] * size[1]) * channels, np.uint8)
    axes = _axis(stored[0], size[0]), _axis(stored[1], size[1])
    native.shrink(pictures, channels, *axes, room, got)
    _resize(pictures, expected if channels > 1 else expected[..., 0], cv2.INTER_AREA)
    return np.array_equal(got, expected)


@lru_cache(maxsize=64)
def _axis(stored: int, size: int) -> native.Axis:
    """Which pixels of a side make those of a smaller one, and how much of each: OpenCV's table
    (computeResizeAreaTab), with the same number of taps for all."""
    scale = 1.0 / (size / stored)
    covered = [_covered(x * scale, scale, stored) for x in range(size)]
    taps = max(len(parts) for parts in covered)
    first = np.array([min(*parts, stored - taps) for parts in covered], np.int32)
    weights = np.zeros((size, taps), np.float32)
    for x, parts in enumerate(covered):
        for place, weight in parts.items():
            weights[x, place - first[x]] = weight
    return native.Axis.of(first, weights)


def _covered(begin: float, scale: float, stored: int) -> dict[int, float]:
    """How much of each pixel lies in `scale` pixels from `begin` on."""
    cell = min(scale, stored - begin)
    high = min(math.floor(begin + scale), stored - 1)
    low = min(math.ceil(begin), high)
    parts = dict.fromkeys(range(low, high), 1.0 / cell)
    if low - begin > _EPSILON:
        parts[low - 1] = (low - begin) / cell
    if begin + scale - high > _EPSILON:
        parts[high] = min(begin + scale - high, 1.0, cell) / cell
    return parts


@lru_cache(maxsize=64)
def _nearest(stored: int, size: int) -> np.ndarray:
    """int32 [size]: which pixel of a side OpenCV takes for each of another."""
    if stored >= 1 << 16:
        raise ValueError(f"a side of {stored:,} pixels is longer than any picture's here")
    line = np.arange(stored, dtype=np.uint16)[None]
    taken = cv2.resize(line, (size, 1), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(taken[0], np.int32)
