"""Pictures and depths brought to another size at once are those of the reference, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import ClassesField, DepthFormat, MaskField, resize, triple_of
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


def some_alphas(size: Size) -> np.ndarray:
    """A third unknown, a third all or nothing, the rest any."""
    rng = np.random.default_rng(2)
    any_of = rng.integers(0, 256, (3, *size))
    return np.choose(rng.integers(0, 3, any_of.shape), [any_of, 255 * (any_of & 1), 1]).astype(
        np.uint8
    )


def known_areas(alphas: np.ndarray, size: Size) -> np.ndarray:
    target = np.full((len(alphas), *size), 7, np.uint8)
    Resizer(alphas.shape[1:], size).known_areas(alphas, target, unknown=1)
    return target


def majorities(ids: np.ndarray, size: Size, ignore: int) -> np.ndarray:
    target = np.full((len(ids), *size), 7, ids.dtype)
    Resizer(ids.shape[1:], size).majorities(ids, target, ignore=ignore)
    return target


@needs_library
@given(SIDES, SIDES)
def test_alphas_that_are_known_in_part_of_any_two_sizes(stored: Size, size: Size) -> None:
    alphas = some_alphas(stored)
    expected = np.stack([resize.known_area(one, size, unknown=1) for one in alphas])
    np.testing.assert_array_equal(known_areas(alphas, size), expected)


@needs_library
@given(SIDES, SIDES, CODES, st.sampled_from([0, 3, 255]))
def test_ids_of_any_two_sizes(stored: Size, size: Size, dtype: type, ignore: int) -> None:
    few = np.array([0, 1, 2, 3, 250, 255, np.iinfo(dtype).max]).astype(dtype)
    ids = few[np.random.default_rng(3).integers(0, len(few), (3, *stored))]
    ids[1, : stored[0] // 2] = ids[1, 0, 0]  # where one id goes on over many pixels
    expected = np.stack([resize.majority(one, size, ignore=ignore) for one in ids])
    np.testing.assert_array_equal(majorities(ids, size, ignore), expected)


FIELDS = {
    field.name: field
    for field in (
        *triple_of(DepthFormat(kind="inverse", bits=16)),
        MaskField("partly", partly=True),
        ClassesField("labels", classes=40),
        ClassesField("parts", classes=300),
    )
}


@pytest.mark.parametrize("size", [(15, 20), (12, 18), (30, 40), (41, 44)])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_resized_by_its_own_rule_with_and_without_the_compiled_part(
    name: str, size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = FIELDS[name]
    most = field.classes if isinstance(field, ClassesField) else 256**field.dtype.itemsize
    shape = (3, *field.shape(30, 40))
    arrays = np.random.default_rng(5).integers(0, most, shape).astype(field.dtype)
    expected = np.stack([field.resize(array, size) for array in arrays])
    for library in (native.LIBRARY, None):
        monkeypatch.setattr(native, "LIBRARY", library)
        target = np.full((3, *field.shape(*size)), 7, field.dtype)
        Resizer((30, 40), size).resize(field, arrays, target)
        np.testing.assert_array_equal(target, expected)
