"""PNGs as they are stored: greyscale or RGB of 8 or 16 bits."""

from __future__ import annotations

import numpy as np

from wdtrain import triple
from wdtrain.fields.resize import Size


def encode(array: np.ndarray, *, stored: bool = False) -> bytes:
    """The PNG of a uint8 or uint16 [h, w] or [h, w, 3] array; `stored`: zlib level 0, filter 0, for
    inside zstd. Otherwise filter Up and zlib level 6."""
    return triple.encode_png(array, stored=stored)


def shape(data: bytes | memoryview, *, name: str) -> Size:
    """(height, width) of a PNG, from its header."""
    return triple.png_shape(data, name=name)


def decode(
    data: bytes | memoryview, *, name: str, dtype: np.dtype, channels: int = 1
) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, 3] of a PNG of exactly this dtype and these channels; one of
    another depth or colour type is refused by `name`."""
    return triple.decode_png(data, name=name, dtype=dtype)
