"""The compiled inner loops of `_rows.c` and `_jpegs.c`, through ctypes, which releases the
interpreter lock.

`LIBRARY` is None where they were not built (no C compiler at installation, or a bare checkout).
Every caller then takes its Python path, and also whenever a function here says that it met
something unusual: that path alone knows what is wrong and names it.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from wdtrain import triple
from wdtrain.store.tar import BLOCK

_POINTER = ctypes.c_void_p
_POINTERS = (_POINTER, _POINTER)
_COUNT = ctypes.c_int64

_JPEG_CALLS: Final = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_read_scanlines",
    "jpeg_finish_decompress",
    "jpeg_destroy_decompress",
)
"""What `_jpegs.c` calls of libjpeg-turbo, in its order."""


def _load() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = here / f"_rows{suffix}"
        if path.exists():
            library = ctypes.CDLL(str(path))
            library.wd_index.argtypes = [_POINTER, _COUNT, _POINTER, _COUNT, _COUNT, *_POINTERS]
            library.wd_index.restype = _COUNT
            library.wd_copy.argtypes = [_POINTER, _COUNT, _COUNT, _COUNT, *_POINTERS]
            library.wd_copy.restype = None
            library.wd_slice_pngs.argtypes = [
                *_POINTERS,
                _COUNT,
                _POINTER,
                _COUNT,
                _COUNT,
                _POINTER,
            ]
            library.wd_slice_pngs.restype = _COUNT
            library.wd_decode_jpegs.argtypes = [_POINTER, *_POINTERS, _COUNT, _POINTER, _COUNT]
            library.wd_decode_jpegs.argtypes += _POINTERS
            library.wd_decode_jpegs.restype = _COUNT
            return library
    return None


LIBRARY: Final = _load()


def address_of(data: bytes | memoryview) -> int:
    """Where bytes lie in memory; good for as long as they are held."""
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address


def _at(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    address: int = array.__array_interface__["data"][0]
    return address


def index_members(
    data: bytes | memoryview, suffixes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """int64 [samples, members] starts and sizes of a block of samples KEY.suffix, ...; None where
    it is anything else, or nothing was built."""
    if LIBRARY is None:
        return None
    columns = len(suffixes)
    room = len(data) // (BLOCK * columns) + 1
    starts, sizes = np.empty((2, room, columns), np.int64)
    names = (ctypes.c_char_p * columns)(*(f".{suffix}".encode() for suffix in suffixes))
    address = address_of(data) if len(data) else 0
    samples = LIBRARY.wd_index(address, len(data), names, columns, room, _at(starts), _at(sizes))
    return None if samples < 0 else (starts[:samples], sizes[:samples])


def copy_rows(sources: np.ndarray, start: int, targets: Sequence[np.ndarray]) -> None:
    """Each of the targets [n, ...] is filled from the n addresses that begin at sources[i, start]
    (int64 [columns, rows], contiguous), a row from each."""
    assert LIBRARY is not None
    rows, columns = len(targets[0]), len(targets)
    assert sources.shape[0] == columns, "a column of addresses for each target"
    assert start + rows <= sources.shape[1], "rows beyond the end"
    if rows:
        row_bytes = (_COUNT * columns)(*(target.nbytes // rows for target in targets))
        places = (_POINTER * columns)(*(_at(target) for target in targets))
        first = _at(sources) + 8 * start
        LIBRARY.wd_copy(first, sources.shape[1], columns, rows, row_bytes, places)


def slice_pngs(sources: np.ndarray, sizes: np.ndarray, prefix: bytes, target: np.ndarray) -> bool:
    """target [n, height, width], big-endian where of 16 bits, is filled from n stored PNGs; False
    where one is not stored, unfiltered and of exactly this size (`prefix`: its first 43 bytes)."""
    assert LIBRARY is not None
    assert len(sources) == len(sizes) == len(target), "rows beyond the end"
    height, width = target.shape[1:]
    done: int = LIBRARY.wd_slice_pngs(
        _at(sources),
        _at(sizes),
        len(sources),
        prefix,
        height,
        width * target.itemsize,
        _at(target),
    )
    return done == len(sources)


def decode_jpegs(
    sources: np.ndarray, sizes: np.ndarray, stored: tuple[int, int], scale: int, target: np.ndarray
) -> bool:
    """target uint8 [n, h, w, 3] is filled with the RGB of n JPEGs of the stored (height, width),
    decoded at `scale` eighths; False where one is unusual, or there is no library to do it."""
    calls = jpeg_calls()
    if calls is None or LIBRARY is None:
        return False
    assert len(sources) == len(sizes) == len(target), "rows beyond the end"
    done: int = LIBRARY.wd_decode_jpegs(
        calls,
        _at(sources),
        _at(sizes),
        len(sources),
        (_COUNT * 2)(*stored),
        scale,
        (_COUNT * 2)(*target.shape[1:3]),
        _at(target),
    )
    return done == len(sources)


@cache
def jpeg_calls() -> Any:
    """The addresses of the libjpeg-turbo that Pillow has loaded; None where there is none of the
    interface that `_jpegs.c` knows, or it gives other pixels than `triple.decode_overlay`."""
    try:
        import PIL._imaging as imaging

        pillow = ctypes.CDLL(imaging.__file__)
        addresses = [ctypes.cast(getattr(pillow, name), _POINTER).value for name in _JPEG_CALLS]
    except (ImportError, AttributeError, OSError):
        return None
    calls = (_POINTER * len(addresses))(*addresses)
    return calls if _gives_the_same_pixels(calls) else None


def _gives_the_same_pixels(calls: Any) -> bool:
    if LIBRARY is None:
        return False
    stored = (40, 56)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).repeat(8, 0).repeat(8, 1)
    jpeg = triple.encode_overlay(pixels.astype(np.uint8))
    source, size = np.array([address_of(jpeg)]), np.array([len(jpeg)])
    for scale in (8, 4, 2):
        height, width = (-(-side * scale // 8) for side in stored)
        expected = triple.decode_overlay(jpeg, at_least=(height, width))
        target = np.zeros((height, width, 3), np.uint8)
        both = (_COUNT * 2)(*stored), scale, (_COUNT * 2)(height, width), _at(target)
        done = LIBRARY.wd_decode_jpegs(calls, _at(source), _at(size), 1, *both)
        if done != 1 or not np.array_equal(target, expected):
            return False
    return True
