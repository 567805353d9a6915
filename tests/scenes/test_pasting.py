"""Laws of pasting: what is nearer covers; mask, picture and depth agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.scenes.pasting import Layer, Spot, paste, visible_fraction


def square(depth_m: float, alpha: float = 1.0) -> Layer:
    cover = np.full((4, 4), alpha, np.float32)
    return Layer(np.full((4, 4, 3), alpha, np.float32), cover, np.full((4, 4), depth_m, np.float32))


def test_what_is_behind_is_not_seen() -> None:
    rgb, depth = np.zeros((10, 10, 3), np.float32), np.full((10, 10), 5.0, np.float32)
    depth[:, 5:] = 2.0
    mask = paste(rgb, depth, square(3.0), Spot(3, 3))
    assert (mask[3:7, 3:5] == 255).all()
    assert mask.astype(bool).sum() == 8
    assert np.array_equal(rgb[..., 0], mask / 255)
    assert (depth[3:7, 3:5] == 3).all()
    assert (depth[:, 5:] == 2).all()


@pytest.mark.parametrize(("alpha", "depth_m"), [(0.49, 5.0), (0.51, 3.0)])
def test_depth_is_the_layers_where_alpha_is_foreground(alpha: float, depth_m: float) -> None:
    rgb, depth = np.zeros((10, 10, 3), np.float32), np.full((10, 10), 5.0, np.float32)
    mask = paste(rgb, depth, square(3.0, alpha), Spot(0, 0))
    assert mask[0, 0] == round(255 * alpha)
    assert depth[0, 0] == depth_m


@given(top=st.integers(-8, 14), left=st.integers(-8, 14))
def test_the_visible_fraction_is_what_the_mask_holds(top: int, left: int) -> None:
    rgb, depth = np.zeros((10, 10, 3), np.float32), np.full((10, 10), 5.0, np.float32)
    depth[6:] = 1.0
    layer = square(3.0)
    fraction = visible_fraction(layer.alpha, layer.depth, depth, Spot(top, left))
    mask = paste(rgb, depth, layer, Spot(top, left))
    assert (mask == 255).sum() == round(16 * fraction)
