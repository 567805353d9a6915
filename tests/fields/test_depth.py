"""Depth of every unit and file becomes codes that decode to what was meant; nothing is guessed."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.fields.making import palette_of, png_of, saved
from wdtrain.fields import DepthField, DepthFormat, FieldError, declared
from wdtrain.fields.errors import AmbiguousError
from wdtrain.fields.npy import encode_npy

METRES = np.linspace(0.8, 7.5, 20)[:, None] + np.linspace(0, 4, 24)
METRES[:, :2] = 0
STEP = np.log(20 / 0.5) / 65534
"""Of a code of 16 bits from 0.5 to 20 m, in natural log units."""


def of(**options: str) -> Any:
    return declared("depth", "depth", options)


def pfm_of(depth: np.ndarray) -> bytes:
    height, width = depth.shape
    return f"Pf\n{width} {height}\n-1\n".encode() + depth[::-1].astype("<f4").tobytes()


def npz_of(compressed: bool, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


COLOURED = np.full((8, 8, 3), (200, 60, 90), np.uint8)
FLOATS = METRES.astype(np.float32)


@pytest.mark.parametrize(
    "data",
    [
        encode_npy(FLOATS),
        encode_npy(METRES),
        encode_npy(METRES.astype(">f8")),
        encode_npy(np.asfortranarray(FLOATS)),
        encode_npy(FLOATS[None]),
        encode_npy(FLOATS[..., None]),
        npz_of(False, depth=FLOATS),
        npz_of(True, anything=METRES),
        pfm_of(METRES),
        saved(FLOATS, "TIFF"),
        saved(FLOATS, "TIFF", compression="tiff_lzw"),
    ],
)
@pytest.mark.parametrize("options", [{"unit": "m"}, {"scale": "1"}])
def test_floats_in_metres_come_out_in_metres(data: bytes, options: dict[str, str]) -> None:
    field = of(**options)
    got = field.decode(field.read(data, file="d"))
    assert np.isnan(got[:, :2]).all()
    np.testing.assert_allclose(got[:, 2:], METRES[:, 2:], rtol=STEP)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"unit": "mm"}, METRES * 1000),
        ({"unit": "cm"}, METRES * 100),
        ({"unit": "m"}, METRES),
        ({"scale": "5000"}, METRES * 5000),
        ({"scale": "256", "far": "80"}, METRES * 256),
        ({"unit": "m", "scale": "5000", "format": "geometric"}, METRES * 5000),
        ({"unit": "inverse", "format": "metric", "scale": "9000"}, 9000 / np.maximum(METRES, 1e-9)),
    ],
)
def test_whole_numbers_come_out_in_metres(options: dict[str, str], values: np.ndarray) -> None:
    values = np.rint(np.where(METRES > 0, values, 0)).astype(np.uint16)
    field = of(**options)
    known = values > 0
    per = (
        {"mm": 1000, "cm": 100, "m": 1}.get(options.get("unit", ""), 1)
        if "scale" not in options
        else float(options["scale"])
    )
    expected = values / per if options.get("unit") != "inverse" else 9000 / np.maximum(values, 1)
    for data in (saved(values), saved(values, "TIFF"), encode_npy(values)):
        got = field.decode(field.read(data, file="d"))
        assert np.isnan(got[~known]).all()
        np.testing.assert_allclose(got[known], expected[known].clip(0.5), rtol=2 * STEP)


def test_what_is_not_known_is_unknown() -> None:
    depth = np.full((4, 4), 2.0, np.float32)
    depth[0] = [0, -1, np.nan, np.inf]
    depth[1, 0] = -np.inf
    field = of(unit="m")
    codes = field.read(encode_npy(depth), file="d")
    np.testing.assert_array_equal(codes == 0, ~(np.isfinite(depth) & (depth > 0)))
    inverse = of(unit="inverse")
    np.testing.assert_array_equal(inverse.read(encode_npy(depth / 2), file="d") == 0, codes == 0)
    assert field.missing(2, 3) is None
    assert not of(unit="m", optional="").missing(2, 3).any()
    assert field.blank == 0


def test_bits_are_turned_as_sun_rgbd_turns_them() -> None:
    millimetres = np.array([[0, 800, 4321, 8191]], np.uint16)
    stored = (millimetres << 3 | millimetres >> 13).astype(np.uint16)
    field = of(unit="mm", shift="3")
    got = field.decode(field.read(saved(stored), file="d"))
    np.testing.assert_allclose(got[0, 1:], millimetres[0, 1:] / 1000, rtol=STEP)
    assert np.isnan(got[0, 0])
    with pytest.raises(FieldError, match=r"^d\.png is of uint8; shift is of values of 16 bits"):
        field.read(saved(stored.astype(np.uint8)), file="d.png")


@pytest.mark.parametrize("unit", ["relative", "inverse"])
def test_relative_and_inverse_depth_are_shares_of_what_becomes_one(unit: str) -> None:
    shades = np.arange(0, 250, 10, np.uint8).reshape(5, 5)
    field = of(unit=unit)
    assert field.format.kind == unit
    got = field.decode(field.read(saved(shades), file="d"))
    np.testing.assert_allclose(got.ravel()[1:], shades.ravel()[1:] / 255, atol=1e-4)
    deep = field.decode(field.read(saved(shades.astype(np.uint16) * 257), file="d"))
    np.testing.assert_allclose(deep, got, atol=1e-4)
    np.testing.assert_allclose(
        field.decode(field.read(encode_npy(shades / 255), file="d")), got, atol=1e-4
    )
    scaled = of(unit=unit, scale="500")
    got = scaled.decode(scaled.read(encode_npy(shades * 2.0), file="d"))
    np.testing.assert_allclose(got.ravel()[1:], shades.ravel()[1:] / 250, atol=1e-4)
    with pytest.raises(FieldError, match=rf"^d\.npy has {unit} depths of up to 480.*,scale=480'"):
        field.read(encode_npy(shades * 2.0), file="d.npy")


@pytest.mark.parametrize("pixels", [1, 3])
def test_a_grey_jpeg_is_read_by_its_shades(pixels: int) -> None:
    y, x = np.mgrid[:40, :56]
    shades = (60 + 2 * x + y).astype(np.uint8)
    data = saved(np.dstack([shades] * 3) if pixels == 3 else shades, "JPEG", quality=95)
    field = of(unit="relative")
    got = field.decode(field.read(data, file="d.jpg"))
    assert np.abs(got - shades / 255).max() < 0.02


def test_codes_stay_what_they_are() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 24)).astype(np.uint16)
    for data in (saved(deep), encode_npy(deep), saved(deep, "TIFF")):
        np.testing.assert_array_equal(of(unit="codes").read(data, file="d"), deep)
    shades = (deep >> 8).astype(np.uint8)
    field = of(unit="codes", bits="8", format="inverse")
    np.testing.assert_array_equal(field.read(saved(shades), file="d"), shades)
    for options, data, found in (
        ({"unit": "codes"}, saved(shades), "8 bits"),
        ({"unit": "codes", "bits": "8"}, saved(deep), "16 bits"),
        ({"unit": "codes"}, encode_npy(deep.astype(np.int32)), "int32"),
    ):
        with pytest.raises(
            FieldError, match=rf"^d\.png is of {found}, and the codes .*bits=8 or b"
        ):
            of(**options).read(data, file="d.png")


@pytest.mark.parametrize(
    ("data", "found", "choices"),
    [
        (
            saved((METRES * 1000).astype(np.uint16)),
            "a picture of 16 bits with values of 1147 to 11500",
            ["unit=mm", "scale=256", "scale=5000", "unit=codes"],
        ),
        (
            saved((METRES * 20).astype(np.uint8)),
            "a picture of 8 bits with values of 22 to 230",
            ["unit=relative", "unit=inverse", "unit=codes,bits=8"],
        ),
        (
            encode_npy(METRES),
            "an array of float64 with values of 1.14783 to 11.5",
            ["unit=m", "unit=inverse", "unit=inverse,format=metric,scale=1"],
        ),
    ],
)
def test_a_depth_without_a_unit_names_the_declarations_that_it_could_be(
    data: bytes, found: str, choices: list[str]
) -> None:
    with pytest.raises(AmbiguousError) as raised:
        of().read(data, file="d.png")
    assert str(raised.value).startswith(f"d.png is {found}")
    assert list(raised.value.choices) == choices
    for text in choices:
        assert f"--field 'depth=depth:PATTERN,{text}'" in str(raised.value)
        of(**dict(option.split("=", 1) for option in text.split(",")))


def asked(values: np.ndarray) -> dict[str, str]:
    with pytest.raises(AmbiguousError) as raised:
        of().read(saved(values), file="d.png")
    return raised.value.choices


def test_of_16_bits_the_likelier_reading_comes_first_with_its_metres() -> None:
    street = np.linspace(2.5 * 256, 80 * 256, 600).reshape(20, 30).astype(np.uint16)
    room = np.linspace(500, 9000, 600).reshape(20, 30).astype(np.uint16)
    choices = asked(street)
    assert list(choices)[:2] == ["scale=256", "unit=mm"]
    assert choices["scale=256"].endswith("as KITTI has it: 2.5 to 80 m")
    assert choices["unit=mm"] == "values are millimetres: 0.64 to 20.5 m"
    choices = asked(room)
    assert list(choices)[:2] == ["unit=mm", "scale=256"]
    assert choices["unit=mm"] == "values are millimetres: 0.5 to 9 m"
    laser = np.where(np.arange(600).reshape(20, 30) % 4 == 0, street // 2, 0).astype(np.uint16)
    assert next(iter(asked(laser))) == "scale=256"
    assert next(iter(asked(street // 2))) == "unit=mm"
    assert next(iter(asked(np.zeros((4, 4), np.uint16)))) == "unit=mm"


def test_depth_beyond_its_limits_is_refused_with_what_was_found() -> None:
    data = saved((METRES * 1000).astype(np.uint16))
    with pytest.raises(
        FieldError, match=r"^d\.png: depth beyond its limits.*0\.5 to 20 m are kept"
    ):
        of(unit="m").read(data, file="d.png")
    assert of(unit="m", far="20000").read(data, file="d.png").any()
    few = np.full((10, 10), 2.0)
    few[:4] = 90
    assert of(unit="m").read(encode_npy(few), file="d").any()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (saved(COLOURED), "is a picture of colours"),
        (saved(COLOURED, "JPEG"), "is a picture of colours"),
        (png_of(np.ones((4, 4, 1), int), 3, 8, PLTE=palette_of(9)), "is a picture of colours"),
        (saved(np.dstack([np.full((4, 4), 9, np.uint8)] * 4)), "is transparent in parts"),
        (encode_npy(np.ones((4, 4), bool)), "yes and no"),
        (encode_npy(np.ones((4, 4, 3))), "one number a pixel"),
        (encode_npy(np.array([[None]])[:0].astype(float)), "no picture"),
        (npz_of(False, a=METRES, b=METRES), r"holds 2 arrays \(a, b\)"),
        (encode_npy(METRES)[:-8], "it is cut off or damaged"),
        (encode_npy(METRES)[:60], "cannot be decoded"),
        (encode_npy(METRES).replace(b"<f8", b"<f3"), "is an array of <f3; numbers are needed"),
        (encode_npy(METRES).replace(b"<f8", b"<i5"), "is an array of <i5; numbers are needed"),
        (npz_of(True, a=METRES)[:-30], "cannot be decoded"),
        (b"\x93NUMPY\x09\x00", "cannot be decoded"),
        (b"nothing", "cannot be decoded"),
    ],
)  # fmt: skip
def test_what_is_no_depth_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(FieldError, match=rf"^d\.x .*{said}"):
        of(unit="m").read(data, file="d.x")


def test_objects_are_never_unpickled() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(FieldError, match=r"^d\.npy is an array of object; numbers are needed"):
        of(unit="m").read(out.getvalue(), file="d.npy")


def test_an_array_is_judged_by_its_head_alone() -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<f8", "fortran_order": False, "shape": (1 << 30, 1 << 30)}
    )
    with pytest.raises(FieldError, match="it is cut off or damaged"):
        of(unit="m").read(out.getvalue() + bytes(64), file="d.npy")


def test_a_field_is_resized_by_the_median_of_its_kind() -> None:
    codes = np.array([[10, 20], [30, 40]], np.uint16)
    assert DepthField("d").resize(codes, (1, 1))[0, 0] == 20
    inverse = DepthField("d", format=DepthFormat(kind="inverse", bits=16))
    assert inverse.resize(codes, (1, 1))[0, 0] == 30
    assert DepthField("d").resizing == ("median", False, 0)
    assert inverse.resizing == ("median", True, 0)


def test_arrays_are_read_by_many_threads_at_once() -> None:
    """numpy's own reader of heads evaluates text, at which threads hinder one another."""
    data = encode_npy(METRES)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: of(unit="m").read(data, file="d.npy"), range(200)))
    for each in found:
        np.testing.assert_array_equal(each, found[0])
