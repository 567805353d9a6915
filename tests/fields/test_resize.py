"""Sizes and areas: edges stay where they are, depth is never averaged, shapes are kept."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import resize
from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.jpeg import decode_jpeg_scaled, encode_jpeg

UNKNOWN = 0


def test_a_mean_of_smaller_pixels_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    for stored, size in (((160, 160), (64, 64)), ((171, 90), (64, 33)), ((48, 64), (24, 32))):
        picture = rng.integers(0, 256, (*stored, 3)).astype(np.uint8)
        expected = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(resize.area(picture, size) - expected).max() <= 1


@given(st.integers(1, 700), st.integers(1, 90), st.sampled_from([1, 8]))
def test_every_old_pixel_is_covered_once(extent: int, size: int, unit: int) -> None:
    side = resize.cover(extent, size, unit)
    assert (side.shares.sum(1) == side.total).all()
    old = np.zeros(-(-extent // unit))
    places = side.first[:, None] + np.arange(side.shares.shape[1])
    np.add.at(old, places, side.shares / side.total)
    inside = np.minimum(np.arange(len(old)) + 1, extent / unit) - np.arange(len(old))
    np.testing.assert_allclose(old, inside * size * unit / extent, rtol=1e-9)


def test_pixels_that_grow_keep_their_edges() -> None:
    line = np.array([[10, 200]], np.uint8)
    np.testing.assert_array_equal(resize.area(line, (1, 3)), [[10, 105, 200]])
    np.testing.assert_array_equal(resize.area(line, (2, 4)), [[10, 10, 200, 200]] * 2)
    np.testing.assert_array_equal(resize.median(line, (1, 3)), [[10, 10, 200]])
    np.testing.assert_array_equal(resize.median(line, (1, 4)), [[10, 10, 200, 200]])


def test_a_side_that_shrinks_while_the_other_grows_is_averaged_too() -> None:
    picture = np.tile(np.arange(200, dtype=np.uint8), (40, 1))
    got = resize.area(picture, (80, 80))
    np.testing.assert_array_equal(got[0], resize.area(picture, (40, 80))[0])


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([[10, 20], [30, 40]], 20),  # of two middle ones the nearer
        ([[10, 10], [90, 90]], 10),
        ([[90, 10], [90, 90]], 90),
        ([[0, 50], [60, 0]], 50),  # half is known
        ([[0, 0], [0, 60]], UNKNOWN),
        ([[0, 50], [60, 70]], 60),
    ],
)
def test_a_smaller_depth_is_the_median_of_what_is_known(
    window: list[list[int]], expected: int
) -> None:
    codes = np.array(window, np.uint8)
    assert resize.median(codes, (1, 1))[0, 0] == expected


def test_the_nearer_of_two_inverse_depths_is_the_larger() -> None:
    codes = np.array([[10, 20], [30, 40]], np.uint8)
    assert resize.median(codes, (1, 1), larger_is_nearer=True)[0, 0] == 30
    assert DepthFormat(kind="inverse").larger_is_nearer
    for kind in ("metric", "geometric", "relative"):
        assert not DepthFormat(kind=kind).larger_is_nearer  # type: ignore[arg-type]


@given(st.tuples(*[st.integers(1, 40)] * 4), st.booleans())
def test_a_depth_is_one_that_was_there(sides: tuple[int, ...], larger: bool) -> None:
    stored, size = sides[:2], sides[2:]
    codes = np.random.default_rng(3).integers(0, 1 << 16, stored).astype(np.uint16)
    got = resize.median(codes, size, larger_is_nearer=larger)
    assert set(got.ravel().tolist()) <= {*codes.ravel().tolist(), UNKNOWN}


# ---------------------------------------------------------------------------- which size


@pytest.mark.parametrize(
    ("stored", "size", "expected"),
    [
        ((64, 128), None, (64, 128)),
        ((64, 128), 32, (32, 64)),
        ((128, 64), 32, (64, 32)),
        ((48, 96), 64, (64, 128)),
        ((100, 150), 33, (33, 50)),
        ((64, 128), (20, 30), (20, 30)),
        ((64, 64), np.int64(16), (16, 16)),
        ((1, 5000), 16, (16, 80_000)),
    ],
)
def test_one_number_is_the_shorter_side(stored: Any, size: Any, expected: Any) -> None:
    assert resize.size_for(stored, size) == expected


@pytest.mark.parametrize("size", [0, -3, (0, 5), (5, -1), True, 1.5, "64", (1, 2, 3), (64,), ()])
def test_a_size_that_cannot_be_is_named(size: Any) -> None:
    with pytest.raises(ValueError, match=r"size is .* shorter side in pixels, or height and width"):
        resize.size_for((64, 64), size)


def test_sides_may_be_asked_for_by_a_multiple() -> None:
    assert resize.size_for((100, 155), 64, multiple=16) == (64, 96)
    assert resize.size_for((10, 300), 4, multiple=16) == (16, 128)


# ---------------------------------------------------------------------------- JPEGs


@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.integers(1, 200))
def test_a_jpeg_at_a_fraction_covers_what_is_asked(stored: tuple[int, int], side: int) -> None:
    size = resize.size_for(stored, side)
    scale = resize.jpeg_scale(stored, size)
    assert 1 <= scale <= 8
    assert scale == 8 or all(8 * b <= a * scale for a, b in zip(stored, size, strict=True))


@pytest.mark.parametrize("stored", [(1, 1), (3, 5), (7, 7), (8, 8), (9, 30), (171, 225)])
def test_a_jpeg_is_decoded_at_the_fraction_that_is_said(stored: tuple[int, int]) -> None:
    jpeg = encode_jpeg(np.full((*stored, 3), 90, np.uint8))
    for side in range(1, 64, 3):
        size = resize.size_for(stored, side)
        rgb, eighths = decode_jpeg_scaled(jpeg, size)
        assert rgb.shape[:2] == tuple(-(-side // 8) for side in eighths)
        assert all(side % of == 0 for side, of in zip(eighths, stored, strict=True))


@pytest.mark.parametrize(
    ("stored", "size", "expected"),
    [
        ((480, 640), 64, (64, 80)),  # 85.3 would be refused by networks that halve it four times
        ((640, 480), 64, (80, 64)),
        ((480, 640), 40, (40, 53)),  # not a size for those networks anyway: the shape is kept
        ((480, 640), (64, 85), (64, 85)),
        ((48, 64), None, (48, 64)),
    ],
)
def test_networks_see_a_longer_side_that_they_can_halve(
    stored: tuple[int, int], size: object, expected: tuple[int, int]
) -> None:
    assert resize.network_size(stored, size) == expected
