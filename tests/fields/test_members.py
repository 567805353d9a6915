"""What is stored is read back: every kind, both encodings, PNGs sliced or decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fields import making
from wdtrain.fields import (
    ClassesField,
    DepthField,
    DepthFormat,
    Field,
    FieldError,
    ImageField,
    MaskField,
    triple_of,
)
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.fields.png import StoredPng, decode_png, encode_png, stored_png_size

LOSSLESS: dict[str, Field] = {
    "image": ImageField("photo", lossless=True),
    "mask": MaskField("mask"),
    "classes": ClassesField("labels", classes=9),
    "many classes": ClassesField("labels", classes=900),
    "depth": DepthField("depth", format=DepthFormat(bits=8)),
    "deep": DepthField("depth", format=DepthFormat(bits=16)),
}


def array_of(field: Field, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    most = np.iinfo(field.dtype).max + 1
    return rng.integers(0, most, field.shape(height, width)).astype(field.dtype)


@given(
    st.sampled_from(sorted(LOSSLESS)),
    st.sampled_from(["image", "raw"]),
    st.booleans(),
    st.integers(1, 300),
    st.integers(1, 90),
)
def test_a_member_is_read_back_as_it_was_written(
    kind: str, encoding: Any, stored: bool, height: int, width: int
) -> None:
    field = LOSSLESS[kind]
    array = array_of(field, height, width)
    data = field.encode(array, encoding, stored=stored)
    assert field.stored_shape(data, encoding) == (height, width)
    np.testing.assert_array_equal(field.decode_member(data, encoding), array)
    assert field.member(encoding) == f"{field.name}.{'npy' if encoding == 'raw' else 'png'}"
    if encoding == "image" and stored:
        bits = 8 * field.dtype.itemsize
        assert len(data) == stored_png_size(height, width, bits, field.channels)
        writer = StoredPng(height, width, field.dtype, field.channels)
        writer.encode(255 - array)
        assert writer.encode(array) == data


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_a_member_is_brought_to_a_size_by_its_kind(kind: str, encoding: Any) -> None:
    field = LOSSLESS[kind]
    array = array_of(field, 24, 36) % 9
    data = field.encode(array.astype(field.dtype), encoding)
    got = field.decode_member(data, encoding, size=(12, 15))
    np.testing.assert_array_equal(got, field.resize(array.astype(field.dtype), (12, 15)))


def test_a_stored_png_of_colours_is_sliced_and_any_decoder_reads_it() -> None:
    rgb = making.soft(60, 500)
    for stored in (False, True):
        data = encode_png(rgb, stored=stored)
        np.testing.assert_array_equal(ImageField("x").read(data, file="x"), rgb)
        deep = encode_png(rgb.astype(np.uint16) * 257, stored=stored)
        np.testing.assert_array_equal(ImageField("x").read(deep, file="x"), rgb)
    with pytest.raises(FieldError, match="x is a 8-bit RGB PNG; 8-bit greyscale is needed"):
        decode_png(data, name="x", dtype=np.dtype(np.uint8))
    with pytest.raises(FieldError, match="x is a 8-bit greyscale PNG; 8-bit RGB is needed"):
        decode_png(encode_png(rgb[..., 0]), name="x", dtype=np.dtype(np.uint8), channels=3)


def test_an_image_is_a_jpeg_unless_it_is_to_be_lossless() -> None:
    field, rgb = ImageField("photo"), making.soft()
    data = field.encode(rgb, "image", quality=80)
    assert (field.member("image"), field.member("raw")) == ("photo.jpg", "photo.npy")
    assert data == encode_jpeg(rgb, 80)
    np.testing.assert_array_equal(field.decode_member(data, "image"), decode_jpeg(data))
    assert field.stored_shape(data, "image") == rgb.shape[:2]
    small = field.decode_member(data, "image", size=(10, 14))
    assert np.abs(small.astype(int) - field.resize(rgb, (10, 14))).max() < 8


@pytest.mark.parametrize("encoding", ["image", "raw"])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_member_of_another_field_is_refused_by_name(kind: str, encoding: Any) -> None:
    field = LOSSLESS[kind]
    for other in LOSSLESS.values():
        if (other.dtype, other.channels) == (field.dtype, field.channels):
            continue
        data = other.encode(array_of(other, 5, 6), encoding)
        with pytest.raises(FieldError, match=f"^{field.name}"):
            field.decode_member(data, encoding)
    with pytest.raises(FieldError, match=f"^{field.name}"):
        field.stored_shape(b"nothing", encoding)
    with pytest.raises(FieldError, match=f"^{field.name}"):
        field.decode_member(b"nothing", encoding)


# ---------------------------------------------------------------------------- JPEGs as they lie


def test_a_jpeg_of_the_right_size_is_stored_as_it_lies() -> None:
    field = ImageField("photo")
    data = making.saved(making.soft(), "JPEG")
    value = field.load(data, file="x")
    assert value == data
    assert field.size_of(value) == (40, 56)
    assert field.reusable_bytes(value, (40, 56)) == data
    assert field.reusable_bytes(value, (20, 28)) is None
    assert field.reusable_bytes(making.soft(), (40, 56)) is None
    assert ImageField("photo", lossless=True).reusable_bytes(value, (40, 56)) is None
    np.testing.assert_array_equal(field.pixels_of(value)[0], field.read(data, file="x"))


def test_a_jpeg_that_is_turned_or_grey_or_of_inks_is_not() -> None:
    field = ImageField("photo")
    exif = making.Image.Exif()
    exif[274] = 6
    turned = making.saved(making.soft(), "JPEG", exif=exif)
    assert field.size_of(field.load(turned, file="x")) == (56, 40)
    assert field.reusable_bytes(turned, (56, 40)) is None
    assert field.pixels_of(turned, (28, 20))[0].shape == (56, 40, 3)
    grey = making.saved(making.soft()[..., 0], "JPEG")
    assert field.reusable_bytes(grey, (40, 56)) is None
    assert field.pixels_of(grey, (10, 14))[0].shape == (10, 14, 3)
    inks = making.saved(making.Image.fromarray(making.soft()).convert("CMYK"), "JPEG")
    assert isinstance(field.load(inks, file="x"), np.ndarray)


def test_a_larger_jpeg_is_decoded_at_a_fraction() -> None:
    data = making.saved(making.soft(80, 117), "JPEG")
    rgb, eighths = ImageField("photo").pixels_of(data, (20, 29))
    assert rgb.shape == (20, 30, 3)
    assert eighths == (160, 234)


def test_the_fields_of_version_one_are_its_members_in_order() -> None:
    fields = triple_of(DepthFormat(bits=16))
    assert [field.member("image") for field in fields] == ["overlay.jpg", "mask.png", "depth.png"]
    assert [field.member("raw") for field in fields] == ["overlay.npy", "mask.npy", "depth.npy"]
    assert [str(field.dtype) for field in fields] == ["uint8", "uint8", "uint16"]
    assert [field.resizing.loop for field in fields] == ["area", "area", "median"]


def test_what_has_another_shape_or_type_is_refused_by_name() -> None:
    for field in LOSSLESS.values():
        good = np.zeros(field.shape(3, 4), field.dtype)
        field.check(good)
        for bad in (good[0], good.astype(np.float32), good[..., None], np.zeros(0, field.dtype)):
            with pytest.raises(FieldError, match=rf"^{field.name}: .*{field.dtype} \[h, w"):
                field.check(bad)
