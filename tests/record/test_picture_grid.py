"""Laws of the picture grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wdtrain.record.picture_grid import (
    UNKNOWN_COLOUR,
    Example,
    colour_depth,
    colour_error,
    colour_mask,
    colour_mask_error,
    picture_grid,
    save_png,
)


def example(kind: str, size: int = 64) -> Example:
    ramp = np.tile(np.linspace(0, 1, size, dtype=np.float32), (size, 1))
    overlay = np.repeat((ramp[..., None] * 255).astype(np.uint8), 3, 2)
    return Example("clé-07", overlay, ramp, ramp[:, ::-1].copy(), kind, "IoU 0.5")  # type: ignore[arg-type]


def test_nearer_is_brighter_and_unknown_is_grey():
    unit = np.array([[0.0, 0.25, 0.5, 0.75, 1.0, np.nan]])
    colours = colour_depth(unit)
    brightness = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[0, :5].astype(int)
    assert (np.diff(brightness) < -10).all()
    assert tuple(colours[0, 5]) == UNKNOWN_COLOUR
    assert tuple(colour_error(unit, np.zeros_like(unit))[0, 5]) == UNKNOWN_COLOUR
    assert tuple(colour_mask(unit)[0, 5]) == UNKNOWN_COLOUR
    assert colour_mask(unit)[0, :5, 0].tolist() == [0, 64, 128, 191, 255]


def test_hits_misses_and_false_alarms_of_a_mask_are_told_apart():
    overlay = np.zeros((1, 4, 3), np.uint8)
    truth, found = np.array([[1.0, 1, 0, 0]]), np.array([[0.9, 0.1, 0.9, 0.1]])
    hit, miss, alarm, right = colour_mask_error(overlay, truth, found)[0]
    assert [int(colour.argmax()) for colour in (hit, miss, alarm)] == [1, 2, 0]
    assert right.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mask", "depth"])
@pytest.mark.parametrize("size", [32, 64, 160, 500])
def test_a_grid_shows_each_pixel_of_input_truth_prediction_and_error(kind, size):
    one = example(kind, size)
    picture = picture_grid([one, one], title="best")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    factor = max(1, round(144 / size))
    left, top = 6, 40
    shown = picture[top : top + size * factor : factor, left : left + size * factor : factor]
    assert np.array_equal(shown, one.overlay)
    assert picture.shape[1] == 4 * (size * factor + 6) + 6
    assert picture.shape[0] == 40 + 2 * (size * factor + 20)


def test_examples_of_several_sizes_stand_in_one_grid():
    picture = picture_grid([example("mask", 64), example("depth", 96)])
    assert picture.shape[1] == 4 * (96 * 2 + 6) + 6


def test_a_png_is_written_as_the_picture_is(tmp_path):
    picture = picture_grid([example("depth")])
    save_png(tmp_path / "report" / "depth.png", picture)
    read = cv2.imread(str(tmp_path / "report" / "depth.png"))
    assert np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), picture)


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        picture_grid([])
