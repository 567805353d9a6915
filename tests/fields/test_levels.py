"""A person's picture is read as Pillow reads it, or refused by name: none differs in silence."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.fields import making
from tests.fields.making import BITS, GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png_of, samples_of
from wdtrain.fields import FieldError, ImageField, levels

KINDS = [
    (colour, bits, laced) for colour in BITS for bits in BITS[colour] for laced in (False, True)
]
WHITE = ImageField("photo", over="#ffffff")
PLAIN = ImageField("photo")


def chunks_of(colour: int, bits: int) -> dict[str, bytes]:
    return {"PLTE": making.palette_of(1 << bits)} if colour == PALETTE else {}


def by_pillow(data: bytes) -> np.ndarray:
    """uint8 [h, w, 3] as Pillow opens and converts a picture; 16-bit greys by their upper byte,
    which it takes itself of 16-bit colours."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I;16"):
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, 2)
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("colour", "bits", "laced"), KINDS)
def test_each_kind_of_png_is_read_as_pillow_reads_it(colour: int, bits: int, laced: bool) -> None:
    samples = samples_of(colour, bits)
    if colour in (GREY_ALPHA, RGBA):
        samples[..., -1] = (1 << bits) - 1
    data = png_of(samples, colour, bits, laced=laced, **chunks_of(colour, bits))
    np.testing.assert_array_equal(PLAIN.read(data, file="x.png"), by_pillow(data))


@pytest.mark.parametrize(("colour", "bits", "laced"), KINDS)
def test_the_numbers_of_a_png_are_those_that_were_written(
    colour: int, bits: int, laced: bool
) -> None:
    samples = samples_of(colour, bits)
    found = levels.read(
        png_of(samples, colour, bits, laced=laced, **chunks_of(colour, bits)), file="x.png"
    )
    values = samples[..., :-1] if colour in (GREY_ALPHA, RGBA) else samples
    np.testing.assert_array_equal(found.values, values[..., 0] if values.shape[2] == 1 else values)
    assert found.full == (1 << bits) - 1
    assert (found.palette is not None) == (colour == PALETTE)
    if colour in (GREY_ALPHA, RGBA):
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, samples[..., -1])
    else:
        assert found.alpha is None


@pytest.mark.parametrize("size", list(itertools.product((1, 2, 3, 7, 9), (1, 2, 5, 8))))
def test_a_laced_png_of_any_size_is_read(size: tuple[int, int]) -> None:
    samples = samples_of(RGB, 8, height=size[0], width=size[1])
    data = png_of(samples, RGB, 8, laced=True)
    np.testing.assert_array_equal(PLAIN.read(data, file="x.png"), samples)


@pytest.mark.parametrize("chunk", ["gAMA", "sRGB", "bKGD", "pHYs", "tEXt", "tIME", "acTL", "sBIT"])
def test_what_stands_beside_the_pixels_changes_none(chunk: str) -> None:
    bodies = {
        "gAMA": (100_000).to_bytes(4),
        "sRGB": b"\0",
        "bKGD": bytes(6),
        "pHYs": bytes(9),
        "tEXt": b"a\0b",
        "tIME": bytes(7),
        "acTL": bytes.fromhex("0000000100000000"),
        "sBIT": bytes([5, 6, 5]),
    }
    samples = samples_of(RGB, 8)
    data = png_of(samples, RGB, 8, **{chunk: bodies[chunk]})
    np.testing.assert_array_equal(PLAIN.read(data, file="x.png"), samples)


# ---------------------------------------------------------------------------- transparency


def alpha_of(samples: np.ndarray, colour: int, bits: int, told: bytes) -> np.ndarray:
    """float64 [h, w] 0..1 of a PNG, by the specification."""
    if colour in (GREY_ALPHA, RGBA):
        alpha = samples[..., -1] >> 8 if bits == 16 else samples[..., -1]
        return alpha / 255
    if colour == PALETTE:
        table = np.full(256, 255)
        table[: len(told)] = np.frombuffer(told, np.uint8)
        return table[samples[..., 0]] / 255
    return 1.0 - (samples == np.frombuffer(told, ">u2")).all(-1)


@pytest.mark.parametrize(("colour", "bits", "laced"), KINDS)
def test_what_is_transparent_is_refused_or_lies_over_the_stated_colour(
    colour: int, bits: int, laced: bool
) -> None:
    samples = samples_of(colour, bits)
    told, more = b"", chunks_of(colour, bits)
    if colour in (GREY, RGB):
        told = samples[3, 4].astype(">u2").tobytes()
    elif colour == PALETTE:
        told = np.random.default_rng(2).integers(0, 256, (1 << bits) - 1).astype(np.uint8).tobytes()
    if told:
        more["tRNS"] = told
    data = png_of(samples, colour, bits, laced=laced, **more)
    with pytest.raises(FieldError, match=r"x.png is transparent.*photo=image:PATTERN,over=#ffffff"):
        PLAIN.read(data, file="x.png")
    plain = {name: body for name, body in more.items() if name != "tRNS"}
    opaque = samples.copy()
    if colour in (GREY_ALPHA, RGBA):
        opaque[..., -1] = (1 << bits) - 1
    rgb = by_pillow(png_of(opaque, colour, bits, **plain))
    alpha = alpha_of(samples, colour, bits, told)[..., None]
    expected = rgb * alpha + 255 * (1 - alpha)
    got = WHITE.read(data, file="x.png")
    assert np.abs(got - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("colour", "bits"), [(RGB, 8), (GREY, 8), (PALETTE, 8), (PALETTE, 2)])
def test_pillow_sees_the_same_transparency(colour: int, bits: int) -> None:
    samples, more = samples_of(colour, bits), chunks_of(colour, bits)
    more["tRNS"] = b"\x10\x80" if colour == PALETTE else samples[3, 4].astype(">u2").tobytes()
    data = png_of(samples, colour, bits, **more)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3]
    found = levels.read(data, file="x.png").alpha
    assert found is not None
    np.testing.assert_array_equal(found, expected)


def test_an_alpha_that_is_opaque_is_none() -> None:
    rgba = np.dstack([making.soft(), np.full((40, 56), 255, np.uint8)])
    np.testing.assert_array_equal(PLAIN.read(making.saved(rgba), file="x"), making.soft())


# ---------------------------------------------------------------------------- JPEG


def coded_as(data: bytes, transform: int) -> bytes:
    """A JPEG whose Adobe marker says another transform; one is put in where there is none."""
    at = data.find(b"Adobe")
    if at >= 0:
        return data[: at + 11] + bytes([transform]) + data[at + 12 :]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return data[:2] + adobe + data[2:]


def jpegs() -> dict[str, bytes]:
    photo = Image.fromarray(making.soft())
    inks = photo.convert("CMYK")
    exif = Image.Exif()
    made = {
        "grey": making.saved(photo.convert("L"), "JPEG"),
        "progressive": making.saved(photo, "JPEG", progressive=True),
        "4:4:4": making.saved(photo, "JPEG", subsampling=0),
        "4:2:2": making.saved(photo, "JPEG", subsampling=1),
        "4:2:0": making.saved(photo, "JPEG", subsampling=2),
        "restarts": making.saved(photo, "JPEG", restart_marker_rows=1),
        "optimised": making.saved(photo, "JPEG", optimize=True),
        "coarse": making.saved(photo, "JPEG", quality=3),
        "tiny": making.saved(Image.fromarray(making.soft(1, 1)), "JPEG"),
        "grey progressive": making.saved(photo.convert("L"), "JPEG", progressive=True),
        "inks": making.saved(inks, "JPEG"),
        "inks progressive": making.saved(inks, "JPEG", progressive=True),
        "YCCK": coded_as(making.saved(inks, "JPEG"), 2),
        "RGB": coded_as(making.saved(photo, "JPEG", subsampling=0), 0),
        "profile": making.saved(photo, "JPEG", icc_profile=b"profile" * 20, comment=b"words"),
    }
    for turn in range(1, 9):
        exif[274] = turn
        made[f"turned {turn}"] = making.saved(photo, "JPEG", exif=exif)
        made[f"inks turned {turn}"] = making.saved(inks, "JPEG", exif=exif)
    return made


@pytest.mark.parametrize("kind", jpegs())
def test_odd_jpegs_are_read_as_pillow_reads_them(kind: str) -> None:
    data = jpegs()[kind]
    expected = by_pillow(data).astype(int)
    for got in (PLAIN.read(data, file="x"), PLAIN.pixels_of(PLAIN.load(data, file="x"))[0]):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize("kind", jpegs())
@pytest.mark.parametrize("cut", [2, 20, 200])
def test_a_jpeg_that_is_cut_off_is_refused_by_name(kind: str, cut: int) -> None:
    data = jpegs()[kind][:-cut]
    with pytest.raises(FieldError, match=r"^holiday\.jpg"):
        PLAIN.read(data, file="holiday.jpg")


def test_a_jpeg_of_twelve_bits_is_refused_by_name() -> None:
    data = bytearray(making.saved(making.soft(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(FieldError, match=r"^holiday\.jpg cannot be decoded"):
        PLAIN.read(bytes(data), file="holiday.jpg")


# ---------------------------------------------------------------------------- other formats


def others() -> dict[str, bytes]:
    photo = Image.fromarray(making.soft())
    exif = Image.Exif()
    exif[274] = 6
    made: dict[str, bytes] = {}
    for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16"):
        picture = photo.convert("L") if mode == "I;16" else None
        if picture is not None:
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        elif mode == "LAB":
            picture = Image.frombytes("LAB", photo.size, photo.tobytes())
        else:
            picture = photo.convert(mode)
        made[f"TIFF {mode}"] = making.saved(picture, "TIFF")
        made[f"TIFF {mode} packed"] = making.saved(
            picture, "TIFF", compression="tiff_adobe_deflate"
        )
    made["TIFF turned"] = making.saved(photo, "TIFF", exif=exif)
    made["TIFF jpeg"] = making.saved(photo, "TIFF", compression="jpeg")
    for mode in ("1", "L", "P", "RGB"):
        made[f"BMP {mode}"] = making.saved(photo.convert(mode), "BMP")
    made["WebP lossless"] = making.saved(photo, "WEBP", lossless=True)
    made["WebP"] = making.saved(photo, "WEBP", quality=80)
    made["WebP turned"] = making.saved(photo, "WEBP", quality=80, exif=exif)
    return made


@pytest.mark.parametrize("kind", others())
def test_other_formats_are_read_as_pillow_reads_them(kind: str) -> None:
    data = others()[kind]
    np.testing.assert_array_equal(PLAIN.read(data, file="x"), by_pillow(data))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "BMP"])
def test_transparency_of_other_formats_is_refused_too(kind: str) -> None:
    y, x = np.mgrid[:40, :56]
    rgba = np.dstack([making.soft(), (y + x).astype(np.uint8)])
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = making.saved(rgba, kind, **options)
    seen = np.asarray(Image.open(io.BytesIO(data)))
    if seen.shape[2] == 3:  # a BMP whose fourth byte is no alpha to Pillow
        np.testing.assert_array_equal(PLAIN.read(data, file="x"), seen)
        return
    with pytest.raises(FieldError, match="x is transparent in parts"):
        PLAIN.read(data, file="x")
    alpha = seen[..., 3:].astype(float) / 255
    expected = seen[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(WHITE.read(data, file="x") - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_range_are_no_picture(dtype: type) -> None:
    data = making.saved(np.ones((4, 5), dtype), "TIFF")
    np.testing.assert_array_equal(levels.read(data, file="x").values, np.ones((4, 5)))
    with pytest.raises(FieldError, match=r"^x\.tif holds .*range nothing says"):
        PLAIN.read(data, file="x.tif")


@pytest.mark.parametrize("end", [b"\n", b" \n", b"\r\n"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_pfm_is_read_from_the_bottom_up(order: str, end: bytes) -> None:
    depth = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    scale = b"-1.0" if order == "<" else b"2.5e0"
    data = b"Pf\n7 5\n" + scale + end + depth[::-1].astype(f"{order}f4").tobytes()
    np.testing.assert_array_equal(levels.read(data, file="x").values, depth)
    for bad, said in (
        (data[:-1], "139 bytes follow"),
        (data.replace(b"Pf", b"PF", 1), "three channels"),
        (data.replace(b"7 5", b"7 x"), "head of the PFM"),
        (data.replace(b"7 5", b"700000000 50000000"), "pixels"),
    ):
        with pytest.raises(FieldError, match=rf"^x\.pfm.*{said}"):
            levels.read(bad, file="x.pfm")


# ---------------------------------------------------------------------------- damage


@given(
    st.sampled_from([kind for kind in KINDS if not kind[2]]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.floats(0.3, 1),
)
def test_a_damaged_png_is_refused_by_name_or_is_what_pillow_reads(
    kind: tuple[int, int, bool], changes: list[tuple[float, int]], kept: float
) -> None:
    colour, bits, _ = kind
    data = bytearray(png_of(samples_of(colour, bits), colour, bits, **chunks_of(colour, bits)))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    data = data[: int(len(data) * kept)]
    try:
        got = levels.read(bytes(data), file="holiday.png").rgb()
    except FieldError as error:
        assert str(error).startswith("holiday.png")  # noqa: PT017
        return
    try:
        expected = by_pillow(bytes(data))
    except (OSError, SyntaxError, ValueError):
        return  # Pillow is stricter about chunks that change no pixel
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
def test_a_picture_that_is_cut_off_is_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    data = making.saved(noise, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with pytest.raises(FieldError, match=r"^x\.y "):
        PLAIN.read(data[: int(kept * len(data))], file="x.y")


def test_an_index_beyond_the_palette_is_refused() -> None:
    samples = samples_of(PALETTE, 8)
    data = png_of(samples, PALETTE, 8, PLTE=making.palette_of(10))
    with pytest.raises(FieldError, match=r"x\.png is damaged: it has a palette of 10 colours"):
        levels.read(data, file="x.png")
