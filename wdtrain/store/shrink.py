"""Many arrays of a field brought to another size at once: as the field does each, to the bit.

The compiled loops are many times as fast and hold no interpreter lock; where they were not built,
pictures are resized one by one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from wdtrain.fields import Field, resize
from wdtrain.fields.resize import EIGHTHS, Size
from wdtrain.store import native, resize_loops
from wdtrain.store.buffers import Recycled

_MOST_PIXELS: Final = 1 << 30
"""Of a depth whose medians are taken by the compiled loops: their weights are 32 bits."""
_MOST_LINES: Final = 1 << 23
"""Of an alpha whose known part is: sums of a column of 255 are 32 bits."""


class Resizer:
    """Pictures or codes of one (height, width) to another. Thread-safe.

    `eighths`: how high and wide pictures are in eighths of a pixel, where they are JPEGs decoded
    at a fraction.
    """

    def __init__(self, stored: Size, size: Size, *, eighths: Size | None = None) -> None:
        self._stored, self._size = stored, size
        whole = stored[0] * EIGHTHS, stored[1] * EIGHTHS
        self._eighths = eighths or whole
        self._is_whole = self._eighths == whole
        self._is_half = self._is_whole and stored == (2 * size[0], 2 * size[1])
        self._memory = Recycled()

    def resize(self, field: Field, arrays: np.ndarray, target: np.ndarray) -> None:
        """target [n, h, w] or [n, h, w, channels]: arrays of the field at the other size, by its
        rule."""
        loop, larger_is_nearer, unknown = field.resizing
        if loop == "area":
            self.shrink(arrays, target)
        elif loop == "median":
            self.medians(arrays, target, larger_is_nearer=larger_is_nearer)
        elif loop == "known_area":
            self.known_areas(arrays, target, unknown=unknown)
        elif loop == "majority":
            self.majorities(arrays, target, ignore=unknown)
        else:
            for array, row in zip(arrays, target, strict=True):
                row[...] = field.resize(array, self._size)

    def shrink(self, pictures: np.ndarray, target: np.ndarray) -> None:
        """target uint8 [n, h, w] or [n, h, w, 3]: of pictures uint8, the mean of what each pixel
        covers."""
        channels = 1 if pictures.ndim == 3 else pictures.shape[3]
        if self._is_whole and self._stored == self._size:
            target[...] = pictures
        elif native.LIBRARY is None:
            for picture, row in zip(pictures, target, strict=True):
                row[...] = resize.area(picture, self._size, eighths=self._eighths)
        elif self._is_half:
            resize_loops.halve(pictures, channels, target)
        else:
            down, across = map(_axis, self._eighths, self._size)
            (height, width), new_width = self._stored, self._size[1]
            values = (max(width, new_width) + height * new_width) * channels
            room = self._memory.take(4 * values)
            resize_loops.shrink(pictures, channels, down, across, room, target)

    def medians(self, codes: np.ndarray, target: np.ndarray, *, larger_is_nearer: bool) -> None:
        """target [n, h, w]: of depth codes uint8 or uint16, the median of what a pixel covers."""
        flip = resize.flip_of(codes.dtype, larger_is_nearer=larger_is_nearer)
        height, width = self._stored
        if self._stored == self._size:
            target[...] = codes
        elif native.LIBRARY is None or height * width >= _MOST_PIXELS:
            for array, row in zip(codes, target, strict=True):
                row[...] = resize.median(array, self._size, larger_is_nearer=larger_is_nearer)
        elif self._is_half:
            resize_loops.median_of_four(codes, flip, self._memory.take(12 * width), target)
        else:
            down, across = map(_cover, self._stored, self._size)
            room = self._memory.take(resize_loops.median_room(width, down, across))
            resize_loops.compiled_median(codes, flip, down, across, room, target)

    def known_areas(self, alphas: np.ndarray, target: np.ndarray, *, unknown: int) -> None:
        """target uint8 [n, h, w]: of alphas uint8, the mean of what is known of what a pixel
        covers."""
        if self._stored == self._size:
            target[...] = alphas
        elif native.LIBRARY is None or self._stored[0] >= _MOST_LINES:
            for array, row in zip(alphas, target, strict=True):
                row[...] = resize.known_area(array, self._size, unknown=unknown)
        else:
            down, across = map(_cover, self._stored, self._size)
            room = self._memory.take(8 * self._stored[1])
            resize_loops.compiled_known_area(alphas, unknown, down, across, room, target)

    def majorities(self, ids: np.ndarray, target: np.ndarray, *, ignore: int) -> None:
        """target [n, h, w]: of class ids uint8 or uint16, the one that has most of what a pixel
        covers."""
        if self._stored == self._size:
            target[...] = ids
        elif native.LIBRARY is None:
            for array, row in zip(ids, target, strict=True):
                row[...] = resize.majority(array, self._size, ignore=ignore)
        else:
            down, across = map(_cover, self._stored, self._size)
            room = self._memory.take(resize_loops.majority_room(ids.itemsize, down, across))
            resize_loops.compiled_majority(ids, ignore, down, across, room, target)


@lru_cache(maxsize=256)
def _axis(eighths: int, size: int) -> resize_loops.Axis:
    side = resize.cover(eighths, size, EIGHTHS)
    return resize_loops.Axis.of(side.first, side.weights)


@lru_cache(maxsize=256)
def _cover(stored: int, size: int) -> resize_loops.CoverTables:
    return resize_loops.CoverTables.of(resize.cover(stored, size))
