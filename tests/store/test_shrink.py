"""Pictures and depths brought to another size at once are those of the reference, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import resize
from wdtrain.store import native
from wdtrain.store.shrink import Resizer

Size = tuple[int, int]

SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))
CHANNELS = st.sampled_from([1, 3])
CODES = st.sampled_from([np.uint8, np.uint16])
needs_library = pytest.mark.skipif(native.LIBRARY is None, reason="no compiled part")


def some_pictures(size: Size, channels: int = 1) -> np.ndarray:
    shape = (3, *size, 3) if channels == 3 else (3, *size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def some_codes(size: Size, dtype: type) -> np.ndarray:
    """A third unknown, a third of a few codes, the rest any."""
    rng, most = np.random.default_rng(1), np.iinfo(dtype).max
    codes = rng.integers(1, most, (3, *size), endpoint=True)
    few = rng.choice([1, 2, 3, most], codes.shape)
    return np.choose(rng.integers(0, 3, codes.shape), [codes, few, 0]).astype(dtype)


def shrunk(pictures: np.ndarray, size: Size, eighths: Size | None = None) -> np.ndarray:
    target = np.empty((len(pictures), *size, *pictures.shape[3:]), np.uint8)
    Resizer(pictures.shape[1:3], size, eighths=eighths).shrink(pictures, target)
    return target


def medians(codes: np.ndarray, size: Size, *, larger_is_nearer: bool) -> np.ndarray:
    target = np.full((len(codes), *size), 7, codes.dtype)
    Resizer(codes.shape[1:], size).medians(codes, target, larger_is_nearer=larger_is_nearer)
    return target


@needs_library
@given(SIDES, SIDES, CHANNELS)
def test_pictures_of_any_two_sizes(stored: Size, size: Size, channels: int) -> None:
    pictures = some_pictures(stored, channels)
    expected = np.stack([resize.area(picture, size) for picture in pictures])
    np.testing.assert_array_equal(shrunk(pictures, size), expected)


@needs_library
@given(SIDES, CHANNELS)
def test_pictures_of_half_the_size(size: Size, channels: int) -> None:
    pictures = some_pictures((2 * size[0], 2 * size[1]), channels)
    expected = np.stack([resize.area(picture, size) for picture in pictures])
    np.testing.assert_array_equal(shrunk(pictures, size), expected)


@needs_library
@given(SIDES, SIDES, st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_pictures_whose_last_pixels_are_theirs_in_part(
    stored: Size, size: Size, lost: Size
) -> None:
    pictures = some_pictures(stored, 3)
    eighths = stored[0] * 8 - lost[0], stored[1] * 8 - lost[1]
    expected = np.stack([resize.area(picture, size, eighths=eighths) for picture in pictures])
    np.testing.assert_array_equal(shrunk(pictures, size, eighths), expected)


@needs_library
@given(SIDES, SIDES, CODES, st.booleans())
def test_depths_of_any_two_sizes(stored: Size, size: Size, dtype: type, larger: bool) -> None:
    codes = some_codes(stored, dtype)
    expected = np.stack([resize.median(one, size, larger_is_nearer=larger) for one in codes])
    np.testing.assert_array_equal(medians(codes, size, larger_is_nearer=larger), expected)


@needs_library
@given(SIDES, CODES, st.booleans())
def test_depths_of_half_the_size(size: Size, dtype: type, larger: bool) -> None:
    codes = some_codes((2 * size[0], 2 * size[1]), dtype)
    expected = np.stack([resize.median(one, size, larger_is_nearer=larger) for one in codes])
    np.testing.assert_array_equal(medians(codes, size, larger_is_nearer=larger), expected)


@needs_library
@pytest.mark.parametrize("stored", [(177, 190), (211, 64), (190, 177)])
def test_depths_whose_weights_need_more_bits(stored: Size) -> None:
    codes, size = some_codes(stored, np.uint8), (64, 63)
    expected = np.stack([resize.median(one, size) for one in codes])
    np.testing.assert_array_equal(medians(codes, size, larger_is_nearer=False), expected)


def test_without_the_compiled_part_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, codes = some_pictures((30, 40), 3), some_codes((30, 40), np.uint16)
    with_it = [
        (shrunk(pictures, size), medians(codes, size, larger_is_nearer=False))
        for size in ((15, 20), (12, 18))
    ]
    monkeypatch.setattr(native, "LIBRARY", None)
    for size, (picture, depth) in zip(((15, 20), (12, 18)), with_it, strict=True):
        np.testing.assert_array_equal(shrunk(pictures, size), picture)
        np.testing.assert_array_equal(medians(codes, size, larger_is_nearer=False), depth)
