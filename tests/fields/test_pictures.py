"""A picture is read whole and as viewers show it, or refused by its head: whoever reads it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from wdtrain.fields import pictures
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.fields.levels import read_rgb
from wdtrain.fields.png import decode_png, encode_png

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "BMP": {},
}
VIDEO = b"MotionPhoto_Data" + b"\xff\xd8\xff\xe0 and more" * 30


def some_pixels(height: int = 24, width: int = 40) -> np.ndarray:
    """A soft picture that no turn leaves as it is."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([255 * x / width, 255 * y / height, 0 * x + 60], -1).astype(np.uint8)


def saved(pixels: np.ndarray, kind: str, turn: int | None = None, **more: Any) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    if turn is not None:
        exif[274] = turn
        more["exif"] = exif
    Image.fromarray(pixels).save(out, kind, **{**FORMATS[kind], **more})
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(height: int, width: int, *, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG whose head claims so many pixels, and that holds next to none."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def jpeg_of(height: int, width: int) -> bytes:
    """A JPEG whose frame claims another size."""
    data = bytearray(encode_jpeg(some_pixels()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


# ---------------------------------------------------------------------------- turns


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_viewers_show_it(kind: str, turn: int) -> None:
    data = saved(some_pixels(), kind, turn)
    shown = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    header = pictures.read_picture_header(data, name="x")
    assert header.turn == turn
    assert header.shown == shown.shape[:2]
    got = read_rgb(data, name="x")
    assert got.shape == shown.shape
    assert np.abs(got.astype(int) - shown).max() <= 3


@pytest.mark.parametrize("turn", [0, 9, 300])
def test_a_turn_that_there_is_not_is_none(turn: int) -> None:
    data = saved(some_pixels(), "JPEG", turn)
    assert pictures.read_picture_header(data, name="x").turn == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_the_head_says_the_size(kind: str) -> None:
    assert pictures.read_picture_header(saved(some_pixels(17, 31), kind), name="x").shown == (
        17,
        31,
    )


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_of_each_kind_is_read(lossless: bool) -> None:
    rgba = np.dstack([some_pixels(17, 31), np.full((17, 31), 90, np.uint8)])
    for pixels in (some_pixels(17, 31), rgba):
        data = saved(pixels, "WEBP", lossless=lossless, quality=95)
        assert pictures.read_picture_header(data, name="x").shown == (17, 31)
        assert np.abs(read_rgb(data, name="x")[..., 1].astype(int) - pixels[..., 1]).mean() < 9


# ---------------------------------------------------------------------------- JPEGs


@pytest.mark.parametrize("behind", [b"", VIDEO, bytes(200), b"\xff\xd9" * 9])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_the_end_of_a_jpeg_is_found(behind: bytes, how: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    data = saved(noise, "JPEG", **how)
    assert pictures.jpeg_end(data + behind) == len(data)
    np.testing.assert_array_equal(read_rgb(data + behind, name="x"), read_rgb(data, name="x"))
    assert pictures.plain_jpeg(data + behind) == data


@pytest.mark.parametrize("cut", [2, 3, 40, 400])
def test_a_jpeg_that_is_cut_off_is_refused(cut: int) -> None:
    data = saved(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8), "JPEG")
    for read in (
        lambda: read_rgb(data[:-cut], name="x"),
        lambda: pictures.plain_jpeg(data[:-cut]),
    ):
        with pytest.raises(FieldError, match="it is cut off"):
            read()


def test_a_jpeg_is_stored_less_its_exif_and_what_lies_behind_it() -> None:
    bare = saved(some_pixels(), "JPEG")
    for turn in (None, 1):
        data = saved(some_pixels(), "JPEG", turn, icc_profile=b"profile" * 9, comment=b"words")
        plain = pictures.plain_jpeg(data + VIDEO)
        assert b"Exif" not in plain
        assert b"profileprofile" in plain
        np.testing.assert_array_equal(decode_jpeg(plain), decode_jpeg(bare))
    assert pictures.plain_jpeg(bare) is bare


def test_inks_become_colours() -> None:
    out = io.BytesIO()
    Image.fromarray(some_pixels()).convert("CMYK").save(out, "JPEG", quality=95)
    got = read_rgb(out.getvalue(), name="x")
    assert np.abs(got.astype(int) - some_pixels()).mean() < 12


# ---------------------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    "data",
    [
        png_of(40_000, 40_000),
        png_of(40_000, 40_000, bits=16),
        png_of(40_000, 40_000, colour=6),
        png_of(16_000, 16_000),
        png_of(2**31 - 1, 2**31 - 1),
        png_of(0, 5),
        jpeg_of(65_500, 65_500),
        jpeg_of(9_000, 9_000),
        jpeg_of(0, 40),
    ],
)
def test_a_size_is_judged_by_the_head_alone(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr("simplejpeg.decode_jpeg", never)
    with pytest.raises(FieldError, match="pixels"):
        read_rgb(data, name="x")
    if data.startswith(b"\x89PNG") and data[25] == 0:
        dtype = np.dtype(np.uint8 if data[24] == 8 else np.uint16)
        with pytest.raises(FieldError, match="pixels"):
            decode_png(data, name="x", dtype=dtype)


def test_a_picture_that_holds_what_it_says_is_not_too_large() -> None:
    flat = np.zeros((3000, 4000), np.uint8)
    for data in (encode_png(flat), saved(flat, "JPEG", quality=10)):
        assert read_rgb(data, name="x").shape == (*flat.shape, 3)
    np.testing.assert_array_equal(decode_png(encode_png(flat), name="x", dtype=flat.dtype), flat)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_whatever_is_wrong_with_a_picture_is_said_in_its_name(
    kind: str, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(saved(some_pixels(), kind, None if kind == "BMP" else 3))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    data = data[: max(1, int(len(data) * max(kept, 0.5)))]
    message = ""
    try:
        assert read_rgb(bytes(data), name="holiday.x").size
    except FieldError as error:
        message = str(error)
    assert message.startswith("holiday.x" if message else "")


@pytest.mark.parametrize(
    "data", [b"", b"nothing", b"GIF89a", b"RIFF", b"\xff\xd8", b"II*\0", b"BM"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(FieldError, match="holiday"):
        read_rgb(data, name="holiday")


def test_whatever_a_decoder_throws_is_that_pictures_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def throws(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(cv2, "imdecode", throws)
    with pytest.raises(FieldError, match=r"x cannot be decoded \(MemoryError\)"):
        read_rgb(saved(some_pixels(), "PNG"), name="x")
