"""Pictures brought to another size at once are OpenCV's, one by one, to the bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store import native, shrink
from wdtrain.store.shrink import Resizer

Size = tuple[int, int]

SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))
CHANNELS = st.sampled_from([1, 3])


def some_pictures(size: Size, channels: int = 1) -> np.ndarray:
    shape = (3, *size, 3) if channels == 3 else (3, *size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def shrunk(pictures: np.ndarray, size: Size) -> np.ndarray:
    target = np.empty((len(pictures), *size, *pictures.shape[3:]), np.uint8)
    Resizer(pictures.shape[1:3], size).shrink(pictures, target)
    return target


def each_by_opencv(pictures: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    """One by one; a size that is kept is a copy."""
    if pictures.shape[1:3] == size:
        return pictures
    height, width = size
    return np.stack([cv2.resize(p, (width, height), interpolation=interpolation) for p in pictures])


@given(SIDES, SIDES, CHANNELS)
def test_pictures_of_any_two_sizes(stored: Size, size: Size, channels: int) -> None:
    pictures = some_pictures(stored, channels)
    expected = each_by_opencv(pictures, size, cv2.INTER_AREA)
    np.testing.assert_array_equal(shrunk(pictures, size), expected)


@given(SIDES, CHANNELS)
def test_pictures_of_half_the_size(size: Size, channels: int) -> None:
    pictures = some_pictures((2 * size[0], 2 * size[1]), channels)
    expected = each_by_opencv(pictures, size, cv2.INTER_AREA)
    np.testing.assert_array_equal(shrunk(pictures, size), expected)


def test_pictures_of_half_the_height_alone() -> None:
    pictures = some_pictures((20, 30), 3)
    expected = each_by_opencv(pictures, (10, 20), cv2.INTER_AREA)
    np.testing.assert_array_equal(shrunk(pictures, (10, 20)), expected)


@given(SIDES, SIDES, st.sampled_from([np.uint8, np.uint16]))
def test_codes_of_any_two_sizes(stored: Size, size: Size, dtype: type) -> None:
    codes = some_pictures(stored).astype(dtype) * dtype(257 if dtype is np.uint16 else 1)
    target = np.empty((3, *size), dtype)
    Resizer(stored, size).pick(codes, target)
    np.testing.assert_array_equal(target, each_by_opencv(codes, size, cv2.INTER_NEAREST_EXACT))


@pytest.mark.skipif(native.LIBRARY is None, reason="no compiled part")
def test_the_sizes_that_matter_take_the_compiled_way() -> None:
    for stored, size in (((160, 160), (64, 64)), ((80, 80), (64, 64)), ((480, 640), (256, 256))):
        assert shrink._is_opencvs(stored, size, 1)
        assert shrink._is_opencvs(stored, size, 3)
    assert not shrink._is_opencvs((64, 64), (80, 64), 3)


def test_loops_that_give_other_pixels_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "shrink", lambda *arguments: arguments[-1].fill(0))
    shrink._is_opencvs.cache_clear()
    try:
        pictures = some_pictures((30, 40), 3)
        expected = each_by_opencv(pictures, (20, 25), cv2.INTER_AREA)
        np.testing.assert_array_equal(shrunk(pictures, (20, 25)), expected)
    finally:
        shrink._is_opencvs.cache_clear()


def test_without_the_compiled_part_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = some_pictures((30, 40), 3)
    with_it = shrunk(pictures, (15, 20)), shrunk(pictures, (12, 18))
    monkeypatch.setattr(native, "LIBRARY", None)
    shrink._is_opencvs.cache_clear()
    try:
        np.testing.assert_array_equal(shrunk(pictures, (15, 20)), with_it[0])
        np.testing.assert_array_equal(shrunk(pictures, (12, 18)), with_it[1])
    finally:
        shrink._is_opencvs.cache_clear()
