"""The compiled loops of `_shrink.c`: many arrays brought to another size, with the memory that they
work in. Whoever calls them has looked whether they were built (`native.LIBRARY`).
"""

from __future__ import annotations

import ctypes

import numpy as np

from wdtrain.fields import resize
from wdtrain.store import native

_POINTER = ctypes.c_void_p
_COUNT = ctypes.c_int64


class Axis(ctypes.Structure):
    """How a side's pixels become those of another one: `Axis` of `_rows.h`."""

    _fields_ = (("size", _COUNT), ("taps", _COUNT), ("first", _POINTER), ("weights", _POINTER))

    @classmethod
    def of(cls, first: np.ndarray, weights: np.ndarray) -> Axis:
        """first: int32 [size]; weights: float32 [size, taps]."""
        assert first.dtype == np.dtype(np.int32)
        assert weights.dtype == np.dtype(np.float32)
        axis = cls(*weights.shape, native.at(first), native.at(weights))
        axis.held = first, weights
        return axis


class CoverTables(ctypes.Structure):
    """The same in whole numbers: `Cover` of `_rows.h`."""

    _fields_ = (*Axis._fields_[:3], ("shares", _POINTER), ("total", _COUNT))

    @classmethod
    def of(cls, side: resize.Cover) -> CoverTables:
        cover = cls(*side.shares.shape, native.at(side.first), native.at(side.shares), side.total)
        cover.held = side
        return cover


def _library() -> ctypes.CDLL:
    assert native.LIBRARY is not None
    return native.LIBRARY


def shrink(
    pictures: np.ndarray,
    channels: int,
    down: Axis,
    across: Axis,
    room: np.ndarray,
    target: np.ndarray,
) -> None:
    """target uint8 [n, h, w(, channels)] is filled with pictures uint8 [n, H, W(, channels)] at
    another size. `room`: 4 (the larger of W and w, and H w) channels bytes."""
    count, height, width = pictures.shape[:3]
    assert target.shape[:3] == (count, down.size, across.size), "another size"
    values = (max(width, across.size) + height * across.size) * channels
    assert room.nbytes >= 4 * values, "too little room"
    sides = native.at(pictures), count, height, width, channels
    tables = ctypes.byref(down), ctypes.byref(across)
    _library().wd_shrink(*sides, *tables, native.at(room), native.at(target))


def halve(pictures: np.ndarray, channels: int, target: np.ndarray) -> None:
    """`shrink` of pictures uint8 [n, 2 h, 2 w(, channels)]."""
    count, height, width = target.shape[:3]
    assert pictures.shape[:3] == (count, 2 * height, 2 * width), "another size"
    _library().wd_halve(native.at(pictures), count, height, width, channels, native.at(target))


def compiled_median(
    codes: np.ndarray,
    flip: int,
    down: CoverTables,
    across: CoverTables,
    room: np.ndarray,
    target: np.ndarray,
) -> None:
    """target [n, h, w] is filled with the medians of codes [n, H, W]; see `resize.median`. `room`:
    `median_room` bytes."""
    count, height, width = codes.shape
    assert target.shape == (count, down.size, across.size), "another size"
    assert room.nbytes >= median_room(width, down, across), "too little room"
    assert down.total * across.total < 1 << 30, "weights that do not fit"
    sides = native.at(codes), count, height, width, codes.itemsize
    tables = ctypes.byref(down), ctypes.byref(across)
    _library().wd_median(*sides, flip, *tables, native.at(room), native.at(target))


def median_room(width: int, down: CoverTables, across: CoverTables) -> int:
    """Bytes that `median` needs to work with."""
    lines = 6 + across.taps * (down.taps + 1)
    return int(8 * down.taps + 4 * (width + across.size * lines))


def median_of_four(codes: np.ndarray, flip: int, room: np.ndarray, target: np.ndarray) -> None:
    """`median` of codes [n, 2 h, 2 w]. `room`: 24 w bytes."""
    count, height, width = target.shape
    assert codes.shape == (count, 2 * height, 2 * width), "another size"
    assert room.nbytes >= 24 * width, "too little room"
    sides = native.at(codes), count, height, width, codes.itemsize
    _library().wd_median_of_four(*sides, flip, native.at(room), native.at(target))


def compiled_known_area(
    alphas: np.ndarray,
    unknown: int,
    down: CoverTables,
    across: CoverTables,
    room: np.ndarray,
    target: np.ndarray,
) -> None:
    """target uint8 [n, h, w] is filled with the means of alphas [n, H, W]; see `resize.known_area`.
    `room`: 8 W bytes."""
    count, height, width = alphas.shape
    assert target.shape == (count, down.size, across.size), "another size"
    assert room.nbytes >= 8 * width, "too little room"
    tables = ctypes.byref(down), ctypes.byref(across)
    sides = native.at(alphas), count, height, width
    _library().wd_known_area(*sides, unknown, *tables, native.at(room), native.at(target))


def compiled_majority(
    ids: np.ndarray,
    ignore: int,
    down: CoverTables,
    across: CoverTables,
    room: np.ndarray,
    target: np.ndarray,
) -> None:
    """target [n, h, w] is filled with the ids that have most of what each pixel covers of ids
    [n, H, W]; see `resize.majority`. `room`: `majority_room` bytes."""
    count, height, width = ids.shape
    assert target.shape == (count, down.size, across.size), "another size"
    assert room.nbytes >= majority_room(ids.itemsize, down, across), "too little room"
    tables = ctypes.byref(down), ctypes.byref(across)
    sides = native.at(ids), count, height, width, ids.itemsize
    _library().wd_majority(*sides, ignore, *tables, native.at(room), native.at(target))


def majority_room(id_bytes: int, down: CoverTables, across: CoverTables) -> int:
    """Bytes that `majority` needs to work with."""
    return int((8 << 8 * id_bytes) + 4 * down.taps * across.taps)
