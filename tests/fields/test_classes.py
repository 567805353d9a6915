"""Class ids are what a person's file says by its declaration; none is guessed, none averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fields.making import GREY, PALETTE, palette_of, png_of, saved
from wdtrain.fields import ClassesField, FieldError, declared
from wdtrain.fields.errors import AmbiguousError
from wdtrain.fields.npy import encode_npy
from wdtrain.fields.resize import majority

IDS = np.random.default_rng(0).integers(0, 5, (11, 14)).astype(np.uint8)
VOID = np.where(IDS == 4, 255, IDS).astype(np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 3)).astype(np.uint8)
DECLARED_COLOURS = "|".join(f"#{bytes(COLOURS[at]).hex()}:{at}" for at in range(5))


def of(**options: str) -> Any:
    return declared("labels", "classes", options)


def with_palette(indices: np.ndarray) -> bytes:
    picture = Image.fromarray(indices)
    picture.putpalette(palette_of(256))
    return saved(picture)


@pytest.mark.parametrize(
    "data",
    [
        saved(IDS),
        saved(IDS.astype(np.uint16)),
        saved(np.dstack([IDS] * 3)),
        with_palette(IDS),
        saved(IDS, "TIFF"),
        saved(IDS, "WEBP", lossless=True),
        encode_npy(IDS),
        encode_npy(IDS.astype(np.int64)),
        encode_npy(IDS.astype(np.float32)[None]),
    ],
)
def test_ids_are_read_as_they_are(data: bytes) -> None:
    got = of(classes="5").read(data, file="x")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, IDS)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("laced", [False, True])
def test_the_indices_of_a_palette_are_the_ids(bits: int, laced: bool) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, (9, 13, 1)).astype(np.uint16)
    data = png_of(samples, PALETTE, bits, laced=laced, PLTE=palette_of(1 << bits), tRNS=b"\0\x80")
    got = of(classes="255", ignore="255").read(data, file="x")
    np.testing.assert_array_equal(got, samples[..., 0])


def test_many_classes_take_sixteen_bits() -> None:
    ids = np.arange(300).reshape(15, 20).astype(np.uint16)
    ids[0, 0] = 65535
    field = of(classes="300")
    got = field.read(saved(ids), file="x")
    assert (got.dtype, field.ignore, field.blank) == (np.uint16, 65535, 65535)
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize(
    ("values", "map_", "expected"),
    [
        ([0, 7, 8, 200], "7:0|8:1|*:255", [255, 0, 1, 255]),
        ([0, 1, 150], "0:255|1-150:0", [255, 0, 149]),
        ([0, 1, 2], "0-1:0|2:0", [0, 1, 0]),
        ([-1, 0, 5], "-1:255|0-5:0", [255, 0, 5]),
        ([1000, 60000], "1000:0|60000:1", [0, 1]),
    ],
)
def test_values_become_ids_by_the_map(values: list[int], map_: str, expected: list[int]) -> None:
    array = np.array([values, values[::-1]])
    got = of(map=map_).read(encode_npy(array), file="x")
    np.testing.assert_array_equal(got, [expected, expected[::-1]])
    if min(values) >= 0:
        got = of(map=map_).read(saved(array.astype(np.uint16)), file="x")
        np.testing.assert_array_equal(got, [expected, expected[::-1]])


@pytest.mark.parametrize("form", ["rgb", "palette", "npy"])
def test_colours_become_ids(form: str) -> None:
    rgb = COLOURS[IDS]
    if form == "palette":
        picture = Image.fromarray(IDS)
        picture.putpalette(COLOURS.tobytes())
        data = saved(picture)
    else:
        data = saved(rgb) if form == "rgb" else encode_npy(rgb)
    np.testing.assert_array_equal(of(colours=DECLARED_COLOURS).read(data, file="x"), IDS)
    some = DECLARED_COLOURS.rsplit("|", 1)[0]
    with pytest.raises(
        FieldError, match=rf"^x\.png has .*#{bytes(COLOURS[4]).hex()}, which colours"
    ):
        of(colours=some).read(data, file="x.png")


def test_a_coloured_picture_names_its_colours() -> None:
    with pytest.raises(AmbiguousError, match=r"^x\.png is a picture of 5 colours") as raised:
        of(classes="5").read(saved(COLOURS[IDS]), file="x.png")
    (choice,) = raised.value.choices
    got = of(colours=choice.removeprefix("colours=")).read(saved(COLOURS[IDS]), file="x.png")
    assert len(np.unique(got)) == 5


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_png_of_few_bits_says_both_that_it_may_be(bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, (9, 13, 1)).astype(np.uint16)
    data = png_of(samples, GREY, bits)
    with pytest.raises(AmbiguousError, match=rf"^x\.png is a grey PNG of {bits} bits") as raised:
        of(classes="16").read(data, file="x.png")
    as_ids, as_shown = (choice.removeprefix("map=") for choice in raised.value.choices)
    np.testing.assert_array_equal(of(map=as_ids).read(data, file="x"), samples[..., 0])
    shown = samples[..., 0] * (255 // ((1 << bits) - 1))
    np.testing.assert_array_equal(of(map=as_shown).read(data, file="x"), shown)


@pytest.mark.parametrize(
    ("options", "data", "said"),
    [
        ({"classes": "4"}, saved(IDS), "has no value but 4, and ids are 0 to 3, and 255"),
        ({"classes": "3"}, saved(VOID), "has no value but 3, and ids are 0 to 2"),
        ({"classes": "3"}, encode_npy(IDS.astype(np.int32) - 1), "has values -1 and 3"),
        ({"map": "0:0|1:1"}, saved(IDS), "has values 2, 3 and 4, which map does not name"),
        ({"classes": "5"}, encode_npy(IDS + 0.5), "not whole"),
        ({"classes": "5"}, encode_npy(np.eye(5)[IDS]), "one number a pixel"),
        ({"classes": "5"}, saved(IDS, "JPEG"), "is a lossy picture"),
        ({"classes": "5"}, saved(IDS, "WEBP"), "is a lossy picture"),
        ({"classes": "5"}, saved(np.dstack([IDS] * 3 + [IDS * 9])), "is transparent in parts"),
        ({"classes": "5"}, saved(IDS.astype(np.float32) / 3, "TIFF"), "not whole"),
    ],
)
def test_what_is_no_id_is_refused_by_name(options: dict[str, str], data: bytes, said: str) -> None:
    with pytest.raises(FieldError, match=rf"^x\.png .*{said}"):
        of(**options).read(data, file="x.png")


def test_ignore_is_an_id_of_no_class() -> None:
    field = of(classes="4")
    np.testing.assert_array_equal(field.read(saved(VOID), file="x"), VOID)
    field.check(VOID)
    with pytest.raises(FieldError, match="labels has no value but 4"):
        field.check(IDS)
    assert field.missing(2, 3) is None
    np.testing.assert_array_equal(of(classes="4", optional="").missing(2, 3), np.full((2, 3), 255))
    np.testing.assert_array_equal(of(classes="5", ignore="0").read(saved(IDS), file="x"), IDS)


# ---------------------------------------------------------------------------- another size


@given(st.tuples(*[st.integers(1, 9)] * 4), st.integers(0, 99), st.sampled_from([8, 16]))
def test_a_pixel_has_the_id_of_most_of_its_area(
    sides: tuple[int, ...], seed: int, bits: int
) -> None:
    ignore = 255 if bits == 8 else 65535
    dtype = np.uint8 if bits == 8 else np.uint16
    ids = np.random.default_rng(seed).choice([0, 1, 2, 200, ignore], sides[:2]).astype(dtype)
    size = sides[2:]
    got = majority(ids, size, ignore=ignore)
    assert got.dtype == dtype
    fine = np.kron(ids.astype(np.int64), np.ones(size, np.int64))
    for y in range(size[0]):
        for x in range(size[1]):
            window = fine[y * sides[0] : (y + 1) * sides[0], x * sides[1] : (x + 1) * sides[1]]
            present, counts = np.unique(window[window != ignore], return_counts=True)
            if 2 * counts.sum() < window.size:
                assert got[y, x] == ignore
            else:
                assert got[y, x] == present[counts.argmax()]  # of several the smallest


def test_a_field_resizes_so() -> None:
    field = ClassesField("labels", classes=4)
    ids = np.array([[1, 3, 0, 0], [3, 1, 255, 255]], np.uint8)
    np.testing.assert_array_equal(field.resize(ids, (1, 2)), [[1, 0]])
    ids[0, 2] = 255
    np.testing.assert_array_equal(field.resize(ids, (1, 2)), [[1, 255]])
