"""The short ways through PNGs that packing takes: the pixels and bytes of the long ones."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import png
from wdtrain.fields.errors import FieldError
from wdtrain.fields.png import decode_png, encode_png

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Grey pictures of both depths, smooth or noise."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    steps = rng.integers(0, draw(st.sampled_from((2, np.iinfo(dtype).max))), (height, width))
    return np.cumsum(steps, axis=1).astype(dtype)


def outcome(decode: Any, data: bytes, dtype: np.dtype) -> Any:
    """The pixels, or why there are none."""
    try:
        return decode(data, name="mask", dtype=dtype).tolist()
    except FieldError as error:
        return str(error)


@given(pictures(), st.booleans())
def test_a_png_that_we_write_is_read_the_short_way_to_the_same_pixels(
    pixels: np.ndarray, stored: bool
) -> None:
    data = encode_png(pixels, stored=stored)
    found = png.decode_fast_png(data, name="mask", dtype=pixels.dtype)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)
    assert (png.up_filtered(data, pixels.dtype) is None) == stored


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_damaged_png_is_judged_as_the_long_way_judges_it(dtype: np.dtype) -> None:
    """Every byte of one PNG changed, and the PNG cut there."""
    whole = encode_png(np.arange(12).reshape(3, 4).astype(dtype))
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]
        for damaged in (changed, whole[:at]):
            for wanted in DTYPES:
                assert outcome(png.decode_fast_png, damaged, wanted) == outcome(
                    decode_png, damaged, wanted
                )


@given(pictures(), st.integers(0, 255))
def test_lines_of_another_filter_are_read_the_long_way(pixels: np.ndarray, filtering: int) -> None:
    data = encode_png(pixels)
    lines = bytearray(zlib.decompress(data[41:-16]))
    lines[0] = filtering
    body = b"IDAT" + zlib.compress(bytes(lines))
    size, checksum = struct.pack(">I", len(body) - 4), struct.pack(">I", zlib.crc32(body))
    changed = data[:33] + size + body + checksum + data[-12:]
    assert outcome(png.decode_fast_png, changed, pixels.dtype) == outcome(
        decode_png, changed, pixels.dtype
    )


def test_a_png_that_inflates_without_end_is_not_inflated() -> None:
    data = encode_png(np.zeros((8, 8), np.uint8))
    body = b"IDAT" + zlib.compress(bytes(2) + b"\x02" * (1 << 26))
    size, checksum = struct.pack(">I", len(body) - 4), struct.pack(">I", zlib.crc32(body))
    bomb = data[:33] + size + body + checksum + data[-12:]
    assert png.up_filtered(bomb, DTYPES[0]) is None


@given(pictures(), pictures())
def test_a_stored_png_has_the_same_bytes_whatever_was_written_before(
    first: np.ndarray, second: np.ndarray
) -> None:
    writer = png.StoredPng(*first.shape, first.dtype)
    for pixels in (first, second, first[::-1], first):
        assert writer.encode(pixels) == encode_png(pixels, stored=True)


@pytest.mark.parametrize("width", [254, 255, 256])
def test_a_stored_png_of_more_than_one_block_has_the_same_bytes(width: int) -> None:
    pixels = np.arange(256 * width, dtype=np.uint32).reshape(256, width).astype(np.uint8)
    assert png.StoredPng(256, width, pixels.dtype).encode(pixels) == encode_png(pixels, stored=True)
