"""Masks of every sort become alpha, or are refused with the declarations that would settle it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fields.making import PALETTE, png_of, saved
from wdtrain.fields import FieldError, MaskField, declared
from wdtrain.fields.errors import AmbiguousError, kind_and_options
from wdtrain.fields.npy import encode_npy
from wdtrain.fields.resize import known_area

PLAIN = MaskField("mask")
DISK = np.hypot(*np.mgrid[-10:10, -12:12]) < 7
LABELS = DISK.astype(np.uint8)
EXPECTED = np.where(DISK, 255, 0)


def of(**options: str) -> Any:
    return declared("mask", "mask", options)


def with_palette(indices: np.ndarray, colours: list[int]) -> bytes:
    picture = Image.fromarray(indices)
    picture.putpalette(colours)
    return saved(picture)


def void() -> np.ndarray:
    """uint8: label 1, with a rim of 255, as VOC leaves it out."""
    labels = np.where(np.hypot(*np.mgrid[-10:10, -12:12]) < 9, 255, 0).astype(np.uint8)
    labels[DISK] = 1
    return labels


RED = np.dstack([255 * LABELS, 0 * LABELS, 0 * LABELS])
GREY_RAMP = [value for value in range(256) for _ in range(3)]


@pytest.mark.parametrize(
    "data",
    [
        saved(255 * LABELS),
        saved(DISK),  # 1 bit
        saved(DISK.astype(np.uint16) * 65535),
        saved(np.dstack([255 * LABELS] * 3)),  # grey, saved in colours
        saved(np.dstack([np.full_like(RED, 90), 255 * LABELS])),  # a cut-out: its alpha
        saved(np.dstack([255 * LABELS] * 3 + [np.full_like(LABELS, 255)])),  # opaque
        with_palette(255 * LABELS, GREY_RAMP),
        with_palette(LABELS, [0, 0, 0, 255, 255, 255]),
        saved(255 * LABELS, "TIFF"),
        saved(DISK, "TIFF"),
        saved(255 * LABELS, "BMP"),
        encode_npy(255 * LABELS),
        encode_npy(DISK),
        encode_npy(DISK.astype(np.float32)),
        encode_npy(255 * LABELS.astype(np.int64)[..., None]),
        encode_npy(DISK[None]),
    ],
)
def test_what_is_not_ambiguous_is_read_as_it_is(data: bytes) -> None:
    np.testing.assert_array_equal(PLAIN.read(data, file="m"), EXPECTED)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("pixels", [255 * LABELS, np.dstack([255 * LABELS] * 3)])
def test_a_lossy_mask_is_cut_at_half(kind: str, pixels: np.ndarray) -> None:
    got = PLAIN.read(saved(pixels, kind, quality=60), file="m.jpg")
    assert set(np.unique(got)) == {0, 255}
    assert (got != EXPECTED).mean() < 0.03


def levels_of(*values: int, number: int = 0, size: int = 48) -> np.ndarray:
    """uint8 [size, size]: rings of these values, the last in the middle."""
    y, x = np.mgrid[:size, :size]
    far = np.hypot(y - size / 2, x - size / 2 + number % 5)
    at = len(values) - 1 - np.minimum(far // (size / 2 / len(values)), len(values) - 1)
    return np.array(values, np.uint8)[at.astype(int)]


def shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    return cv2.resize(mask, None, fx=1 / by, fy=1 / by, interpolation=cv2.INTER_AREA)


def asked(masks: list[np.ndarray | bytes], **options: str) -> list[str]:
    """The choices of the question that several masks are; [] where there is none."""
    try:
        of(**options).judge([(each, f"{at}.png") for at, each in enumerate(masks)])
    except AmbiguousError as error:
        return list(error.choices)
    return []


TRIMAP = ["unknown=128", "classes:classes=3,map=0:0|128:1|255:2", "alpha"]


@pytest.mark.parametrize("form", ["png", "npy", "npy of int64", "16 bits", "one file"])
def test_a_trimap_is_asked_about_and_each_answer_settles_it(form: str) -> None:
    masks: list[Any] = [levels_of(0, 128, 255, number=number) for number in range(6)]
    files = {
        "png": [saved(mask) for mask in masks],
        "npy": [encode_npy(mask) for mask in masks],
        "npy of int64": [encode_npy(mask.astype(np.int64)) for mask in masks],
        "16 bits": [saved(mask.astype(np.uint16) * 257) for mask in masks],
        "one file": [saved(masks[0])],
    }[form]
    choices = asked(files)
    if form == "16 bits":
        assert choices[0] == "unknown=32896"
    else:
        assert choices == TRIMAP
    with pytest.raises(AmbiguousError, match="as alpha, some would be half foreground") as raised:
        of().judge([(data, "a.png") for data in files])
    told = str(raised.value)
    assert f"--field 'mask=mask:PATTERN,{choices[0]}'" in told
    assert "--field 'mask=classes:PATTERN,classes=3,map=0:0|" in told
    for choice in choices:
        kind, options = kind_and_options(choice, "mask")
        read = dict(each.partition("=")[::2] for each in options.split(","))
        field = declared("mask", kind, read)
        field.judge([(data, "a.png") for data in files])
        assert len(np.unique(field.read(files[0], file="a.png"))) == 3


def test_masks_of_a_few_classes_are_asked_about() -> None:
    choices = asked([levels_of(0, 85, 170, 255, number=number) for number in range(6)])
    assert choices == ["classes:classes=4,map=0:0|85:1|170:2|255:3", "alpha", "foreground=any"]


@pytest.mark.parametrize("by", [2, 3, 4, 7])
def test_masks_that_were_resized_are_not_asked_about(by: int) -> None:
    assert not asked([shrunk(levels_of(0, 255, number=n, size=96), by) for n in range(9)])
    lines = [cv2.line(np.zeros((48, 48), np.uint8), (n, 3), (40, 9 * n), 255, by) for n in range(5)]
    assert not asked([shrunk(line, 2) for line in lines])


def test_what_is_alpha_is_not_asked_about() -> None:
    hard: list[Any] = [levels_of(0, 255, number=number) for number in range(9)]
    assert not asked(hard)
    assert not asked([hard[0] // 255, DISK])
    assert not asked([saved(hard[0], "JPEG", quality=50), saved(levels_of(0, 128, 255), "JPEG")])
    again = [cv2.imdecode(cv2.imencode(".jpg", mask)[1], 0) for mask in hard]
    assert not asked(again)
    assert not asked([np.where((mask > 3) & (mask < 252), 255, mask // 4 * 4) for mask in again])
    ramps = [np.tile(np.arange(0, 256, 8, dtype=np.uint8).repeat(4), (40, 1)) for _ in range(9)]
    assert not asked(ramps)
    blank = np.zeros((48, 48), np.uint8)
    disks = [cv2.circle(blank.copy(), (20, 20), n + 3, 255, -1, cv2.LINE_AA) for n in range(9)]
    assert not asked(disks)
    assert not asked([levels_of(0, 128, 255)], unknown="128")
    assert not asked([levels_of(0, 128, 255)], foreground="any")
    assert not asked([levels_of(0, 128, 255)], alpha="")


def test_one_mask_that_differs_from_the_others_asks_nothing() -> None:
    masks: list[Any] = [levels_of(0, 255, number=number) for number in range(11)]
    odd = levels_of(0, 128, 255)
    for count in (1, 3, 11):
        assert not asked([*masks[:count], odd])
    assert asked([*masks[:6], odd, odd]) == TRIMAP


def test_alpha_is_declared_alone_and_kept() -> None:
    with pytest.raises(FieldError, match="alpha and foreground are declared; choose"):
        of(alpha="", foreground="1")
    assert of(alpha="").as_dict()["alpha"] is True
    assert "alpha" not in of().as_dict()
    np.testing.assert_array_equal(of(alpha="").read(saved(void()), file="m"), void())


def test_alpha_stays_alpha() -> None:
    y, x = np.mgrid[:32, :32]
    soft = np.clip(255 - 40 * (np.hypot(y - 15.5, x - 15.5) - 8), 0, 255).astype(np.uint8)
    thin = np.where(soft > 128, 255, 0).astype(np.uint8)
    thin[3, 4:20] = 25  # a box whose edge covers a tenth of its pixels
    for mask in (soft, thin, np.full_like(soft, 255)):
        np.testing.assert_array_equal(PLAIN.read(saved(mask), file="m"), mask)


@pytest.mark.parametrize(
    "empty",
    [
        saved(0 * LABELS),
        saved(DISK & False),
        saved(np.zeros((5, 5, 3), np.uint8)),
        with_palette(0 * LABELS, [0, 0, 0, 128, 0, 0]),
        saved(0 * LABELS, "JPEG"),
        encode_npy(DISK & False),
        encode_npy(np.zeros((5, 5))),
    ],
)
def test_an_empty_mask_is_a_mask(empty: bytes) -> None:
    got = PLAIN.read(empty, file="m")
    assert not got.any()
    PLAIN.check(got)
    assert not of(foreground="1").read(saved(0 * LABELS), file="m").any()


@pytest.mark.parametrize(
    ("data", "found", "choices"),
    [
        (saved(LABELS), "values 0 and 1", ["foreground=1", "foreground=0"]),
        (encode_npy(LABELS.astype(np.int64)), "values 0 and 1", ["foreground=1", "foreground=0"]),
        (saved(3 * LABELS), "values 0 and 3", ["foreground=3", "foreground=any"]),
        (saved(3 * LABELS.astype(np.uint16)), "values 0 and 3", ["foreground=3", "foreground=any"]),
        (
            saved(void()),
            "values 0, 1 and 255",
            ["foreground=1,unknown=255", "foreground=1,background=0|255", "foreground=any"],
        ),
        (
            with_palette(LABELS, [0, 0, 0, 128, 0, 0]),
            "a picture with a palette",
            ["foreground=1", "foreground=any"],
        ),
        (saved(RED), "a picture of colours", ["foreground=#ff0000", "foreground=any"]),
    ],
)
def test_an_ambiguous_mask_names_declarations_that_each_work(
    data: bytes, found: str, choices: list[str]
) -> None:
    with pytest.raises(AmbiguousError) as raised:
        PLAIN.read(data, file="m.png")
    assert str(raised.value).startswith(f"m.png {'has' if found[0] == 'v' else 'is'} {found}")
    assert list(raised.value.choices) == choices
    for text in choices:
        assert f"--field 'mask=mask:PATTERN,{text}'" in str(raised.value)
        options = dict(option.split("=", 1) for option in text.split(","))
        got = of(**options).read(data, file="m.png")
        inside = got == 255
        if text == "foreground=0":
            inside = ~inside
        elif text == "foreground=any" and "255" in found:
            continue
        np.testing.assert_array_equal(inside, DISK)


@pytest.mark.parametrize(
    ("options", "labels", "foreground", "unknown"),
    [
        ({"foreground": "1"}, [0, 1, 2, 7], [1], []),
        ({"foreground": "1|7"}, [0, 1, 2, 7], [1, 7], []),
        ({"foreground": "any"}, [0, 1, 2, 255], [1, 2, 255], []),
        ({"foreground": "any", "unknown": "255"}, [0, 1, 2, 255], [1, 2], [255]),
        ({"foreground": "any", "background": "2"}, [0, 1, 2, 255], [1, 255], []),
        ({"foreground": "1", "unknown": "255|9"}, [0, 1, 9, 255], [1], [9, 255]),
        ({"foreground": "255", "unknown": "128"}, [0, 128, 255], [255], [128]),
        ({"unknown": "128"}, [0, 128, 255], [255], [128]),
        ({"foreground": "1", "background": "0|255"}, [0, 1, 255], [1], []),
    ],
)
@pytest.mark.parametrize("form", ["png", "palette", "npy"])
def test_declared_values_are_what_they_are_declared_to_be(
    form: str, options: dict[str, str], labels: list[int], foreground: list[int], unknown: list[int]
) -> None:
    if form == "palette" and "foreground" not in options:
        return
    values = np.random.default_rng(0).choice(labels, (20, 24)).astype(np.uint8)
    data = {
        "png": lambda: saved(values),
        "palette": lambda: with_palette(values, list(range(256)) * 3),
        "npy": lambda: encode_npy(values),
    }[form]()
    field = of(**options)
    got = field.read(data, file="m")
    expected = np.where(np.isin(values, foreground), 255, 0)
    expected[np.isin(values, unknown)] = 1
    np.testing.assert_array_equal(got, expected)
    assert field.has_unknown == bool(unknown)


def test_colours_are_compared_exactly() -> None:
    pixels = RED.copy()
    pixels[:4] = (254, 0, 0)
    pixels[-3:] = (255, 255, 255)
    got = of(foreground="#ff0000", unknown="#ffffff").read(saved(pixels), file="m")
    expected = np.where((pixels == (255, 0, 0)).all(-1), 255, 0)
    expected[-3:] = 1
    np.testing.assert_array_equal(got, expected)
    data = with_palette(LABELS, [0, 0, 0, 255, 0, 0])
    np.testing.assert_array_equal(of(foreground="#ff0000").read(data, file="m"), EXPECTED)


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        ({"foreground": "1"}, {"unknown=255", "background=0|255"}),
        ({"foreground": "1", "background": "0"}, {"unknown=255", "background=0|255"}),
        ({"foreground": "1", "unknown": "9"}, {"unknown=9|255", "background=0|255"}),
    ],
)
def test_values_that_nothing_is_said_of_are_refused(
    options: dict[str, str], choices: set[str]
) -> None:
    with pytest.raises(AmbiguousError, match=r"m.png has values 0, 1 and 255.*255 is") as raised:
        of(**options).read(saved(void()), file="m.png")
    assert set(raised.value.choices) == choices
    for text in choices:
        word, value = text.split("=")
        assert of(**{**options, word: value}).read(saved(void()), file="m").max() == 255


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_values_are_not_read_from_a_lossy_picture(kind: str) -> None:
    for options in ({"foreground": "1"}, {"foreground": "#ff0000"}):
        with pytest.raises(FieldError, match=r"^m\.jpg is a lossy picture.*save the mask as PNG"):
            of(**options).read(saved(RED, kind, quality=90), file="m.jpg")
    with pytest.raises(FieldError, match=r"^m\.jpg is a lossy picture of colours"):
        PLAIN.read(saved(RED, kind, quality=90), file="m.jpg")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4), 1.5), "not all from 0 to 1"),
        (np.full((4, 4), np.nan), "not all from 0 to 1"),
        (np.zeros((4, 4, 3)), "one number a pixel"),
        (np.zeros(4), "one number a pixel"),
        (np.full((4, 4), 1 << 20), "too large"),
        (np.zeros((4, 4), np.complex64), "numbers are needed"),
        (np.zeros((0, 4)), "holds no picture"),
        (np.full((4, 4), -1), "no value but -1"),
    ],
)
def test_an_array_that_is_no_mask_is_refused_by_name(array: np.ndarray, said: str) -> None:
    with pytest.raises(FieldError, match=rf"^m\.npy .*{said}"):
        PLAIN.read(encode_npy(array), file="m.npy")


def test_a_real_one_is_kept_only_where_nothing_is_unknown() -> None:
    soft = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(PLAIN.read(saved(soft), file="m"), soft)
    for field in (of(optional=""), PLAIN.padded()):
        np.testing.assert_array_equal(field.read(saved(soft), file="m"), [[0, 0, 2, 255]])


def test_a_mask_that_is_missing_is_unknown_where_it_is_optional() -> None:
    assert PLAIN.missing(3, 4) is None
    np.testing.assert_array_equal(of(optional="").missing(3, 4), np.ones((3, 4)))
    assert (PLAIN.blank, PLAIN.padded().blank) == (0, 1)


def test_values_below_foreground_alone_are_no_alpha() -> None:
    with pytest.raises(
        FieldError, match=r"mask without foreground: values 0 and 127 were found"
    ) as error:
        PLAIN.check(127 * LABELS)
    assert "PATTERN" not in str(error.value)
    of(optional="").check(LABELS)  # unknown
    with pytest.raises(FieldError, match="uint8"):
        PLAIN.check(LABELS.astype(np.uint16))
    with pytest.raises(FieldError, match=r"\[h, w\] is needed"):
        PLAIN.check(RED)


def test_alpha_that_is_declared_may_stay_below_foreground() -> None:
    glass = 100 * LABELS
    field = of(alpha="")
    for data in (saved(glass), encode_npy(glass), encode_npy(glass / np.float32(255))):
        got = field.read(data, file="m")
        np.testing.assert_array_equal(got, glass)
        field.check(got)
    of(alpha="", optional="").check(glass)


def test_alpha_as_an_answer_is_said_to_be_what_it_is() -> None:
    masks = [levels_of(0, 100, 200, number=number) for number in range(4)]
    with pytest.raises(AmbiguousError) as raised:
        PLAIN.judge([(saved(mask), f"{at}.png") for at, mask in enumerate(masks)])
    assert raised.value.choices["alpha"] == "they are shares of 255, which is all foreground"
    got = of(alpha="").read(saved(masks[0]), file="m")
    assert set(np.unique(got)) == {0, 100, 200}


def test_a_palette_of_few_bits_is_read_by_its_indices() -> None:
    samples = np.random.default_rng(0).integers(0, 4, (9, 13, 1)).astype(np.uint16)
    data = png_of(samples, PALETTE, 2, PLTE=bytes(range(12)))
    got = of(foreground="2").read(data, file="m")
    np.testing.assert_array_equal(got == 255, samples[..., 0] == 2)


# ---------------------------------------------------------------------------- another size


@given(st.tuples(*[st.integers(1, 9)] * 4), st.integers(0, 99))
def test_a_pixel_is_the_mean_of_what_is_known_or_mostly_unknown(
    sides: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    alpha = rng.choice([0, 1, 2, 3, 128, 255], sides[:2]).astype(np.uint8)
    size = sides[2:]
    fine = np.kron(alpha, np.ones(size, np.int64))
    got = known_area(alpha, size, unknown=1)
    for y in range(size[0]):
        for x in range(size[1]):
            window = fine[y * sides[0] : (y + 1) * sides[0], x * sides[1] : (x + 1) * sides[1]]
            known = window[window != 1].astype(float)
            if 2 * known.size < window.size:
                assert got[y, x] == 1
            elif alpha.shape != size:
                mean = known.mean()
                assert got[y, x] != 1
                assert abs(got[y, x] - mean) <= (0.5 if not 0.5 <= mean <= 1.5 else 1)
                assert got[y, x] != 0 or mean <= 1
                assert got[y, x] == 0 or mean >= 1


def test_where_all_is_known_it_is_the_mean_of_the_area() -> None:
    alpha = np.random.default_rng(0).integers(2, 256, (48, 40)).astype(np.uint8)
    for size in ((24, 20), (17, 31), (96, 13)):
        plain, known = PLAIN.resize(alpha, size), of(optional="").resize(alpha, size)
        assert np.abs(plain.astype(int) - known).max() <= 1
    assert PLAIN.resizing.loop == "area"
    assert of(optional="").resizing == ("known_area", False, 1)
