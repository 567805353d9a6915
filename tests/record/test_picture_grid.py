"""Laws of the picture grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wdtrain.fields import ClassesField, DepthFormat, triple_of
from wdtrain.record.picture_grid import Example, picture_grid, save_png
from wdtrain.targets import target_of
from wdtrain.targets.colouring import UNKNOWN_COLOUR

_, MASK, DEPTH = triple_of(DepthFormat())
CLASSES = ClassesField("labels", classes=4)


def example(size: int = 64) -> Example:
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    picture = np.repeat(ramp[..., None], 3, 2)
    return Example("clé-07", tuple(picture // share for share in (1, 2, 3, 4)), "IoU 0.5")


def test_nearer_is_brighter_and_unknown_is_grey():
    unit, valid = np.array([[[0.0, 0.25, 0.5, 0.75, 1.0, 0.3]]]), np.ones((1, 6), bool)
    valid[0, 5] = False
    colours = target_of(DEPTH).colour(unit, valid)
    brightness = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[0, :5].astype(int)
    assert (np.diff(brightness) < -10).all()
    picture = np.zeros((1, 6, 3), np.uint8)
    for field in (MASK, DEPTH, CLASSES):
        target = target_of(field)
        assert tuple(target.colour(unit, valid)[0, 5]) == UNKNOWN_COLOUR
        error = target.colour_error(picture, unit, np.zeros_like(unit), valid)
        assert tuple(error[0, 5]) == UNKNOWN_COLOUR
        assert tuple(error[0, 1]) != UNKNOWN_COLOUR
    assert target_of(MASK).colour(unit, valid)[0, :5, 0].tolist() == [0, 64, 128, 191, 255]


def test_hits_misses_and_false_alarms_of_a_mask_are_told_apart():
    picture, valid = np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), bool)
    truth, found = np.array([[[1.0, 1, 0, 0]]]), np.array([[[0.9, 0.1, 0.9, 0.1]]])
    hit, miss, alarm, right = target_of(MASK).colour_error(picture, truth, found, valid)[0]
    assert [int(colour.argmax()) for colour in (hit, miss, alarm)] == [1, 2, 0]
    assert right.tolist() == [0, 0, 0]


def test_classes_have_colours_of_their_own():
    colours = target_of(ClassesField("labels", classes=200)).colour(
        np.arange(200).reshape(1, 10, 20)
    )
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 200
    assert colours[0, 0].tolist() == [0, 0, 0]
    assert colours[0, 15].tolist() == [192, 128, 128]  # a person, in PASCAL VOC


@pytest.mark.parametrize("size", [32, 64, 160, 500])
def test_a_grid_shows_each_pixel_of_input_truth_prediction_and_error(size):
    one = example(size)
    picture = picture_grid([one, one], title="best")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    factor = max(1, round(144 / size))
    left, top = 6, 40
    for tile in one.pictures:
        shown = picture[top : top + size * factor : factor, left : left + size * factor : factor]
        assert np.array_equal(shown, tile)
        left += size * factor + 6
    assert picture.shape[1] == 4 * (size * factor + 6) + 6
    assert picture.shape[0] == 40 + 2 * (size * factor + 20)


def test_examples_of_several_sizes_stand_in_one_grid():
    picture = picture_grid([example(64), example(96)])
    assert picture.shape[1] == 4 * (96 * 2 + 6) + 6


def test_a_png_is_written_as_the_picture_is(tmp_path):
    picture = picture_grid([example()])
    save_png(tmp_path / "report" / "depth.png", picture)
    read = cv2.imread(str(tmp_path / "report" / "depth.png"))
    assert np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), picture)


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        picture_grid([])
