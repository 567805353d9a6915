"""Pictures of a kit are read by the rule of all tools: turned as shown, named where they fail."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fields.test_pictures import png_of, saved, some_pixels
from wdtrain.fields.errors import FieldError
from wdtrain.scenes.kit_pictures import read_background, read_cutout


def figure(dtype: type, alpha: float) -> np.ndarray:
    pixels = np.zeros((20, 12, 4), dtype)
    pixels[2:18, 3:9] = alpha
    pixels[2:6, 3:9, 0] = 0
    return pixels


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_background_is_turned_as_it_is_shown(tmp_path: Path, kind: str) -> None:
    pixels = some_pixels(40, 40)
    for name, stored, turn in (("as", pixels, 1), ("turned", pixels[::-1, ::-1], 3)):
        (tmp_path / name).write_bytes(saved(np.ascontiguousarray(stored), kind, turn))
    one, other = (read_background(tmp_path / name, 20) for name in ("as", "turned"))
    assert np.abs(one.astype(int) - other).max() <= 4


@pytest.mark.parametrize("turn", [1, 6])
def test_a_cutout_is_turned_as_it_is_shown(tmp_path: Path, turn: int) -> None:
    (tmp_path / "figure.png").write_bytes(saved(figure(np.uint8, 255), "PNG", turn))
    assert read_cutout(tmp_path / "figure.png").shape == ((16, 6, 4) if turn == 1 else (6, 16, 4))


def test_a_cutout_of_sixteen_bits_is_used(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(cv2.imencode(".png", figure(np.uint16, 65535))[1].tobytes())
    np.testing.assert_array_equal(read_cutout(tmp_path / "f.png")[..., 3], 255)


def test_a_cutout_of_floats_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "f.tif").write_bytes(cv2.imencode(".tiff", figure(np.float32, 1.0))[1].tobytes())
    with pytest.raises(FieldError, match=r"f\.tif cannot be decoded .*; save it as PNG"):
        read_cutout(tmp_path / "f.tif")


def test_a_picture_too_large_to_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png_of(40_000, 40_000, colour=6))
    for read in (
        lambda: read_background(tmp_path / "b.png", 32),
        lambda: read_cutout(tmp_path / "b.png"),
    ):
        with pytest.raises(FieldError, match=r"b\.png is 40,000 x 40,000 pixels"):
            read()


def test_a_picture_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"gone\.png cannot be read"):
        read_background(tmp_path / "gone.png", 32)
