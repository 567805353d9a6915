"""Laws of the playground's backgrounds: exact depth, the same scene at every size."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.rooms import Background, build_background

PLAIN = Difficulty.of(0.0)


def backgrounds(kind: str, count: int, size: int = 48) -> list[Background]:
    found = (build_background(3, number, size, PLAIN) for number in range(200))
    return list(islice((background for background in found if background.kind == kind), count))


@pytest.mark.parametrize("kind", ["room", "landscape"])
def test_the_ground_has_the_depth_of_its_row(kind: str) -> None:
    for background in backgrounds(kind, 10):
        camera = background.camera
        row = camera.size - 1
        expected = camera.focal_px * camera.height_m / (row + 0.5 - camera.horizon_row)
        shown = np.isclose(background.depth[row], expected, rtol=1e-5)
        assert shown.mean() > 0.5
        assert (background.depth[row] <= expected * (1 + 1e-5)).all()


def test_nothing_is_seen_through_the_ground() -> None:
    for background in backgrounds("room", 10) + backgrounds("landscape", 10):
        camera = background.camera
        for row in range(camera.size):
            if row + 0.5 > camera.horizon_row + 1:
                assert (background.depth[row] <= camera.ground_depth(row + 0.5) * (1 + 1e-5)).all()


def test_a_room_is_closed() -> None:
    for background in backgrounds("room", 10):
        assert background.depth.max() < 60


def test_a_plane_of_a_room_is_linear_in_inverse_depth() -> None:
    """1/Z of a plane is linear in the pixel: second differences vanish but for seams and edges."""
    for background in backgrounds("room", 5, size=96):
        bends = np.abs(np.diff(1 / background.depth, 2, axis=1))
        assert (bends < 1e-5).mean() > 0.85


def test_the_same_scene_at_every_size() -> None:
    for number in range(8):
        small, large = (build_background(0, number, size, PLAIN) for size in (32, 96))
        middle = large.depth[1::3, 1::3]
        assert np.isclose(small.depth, middle, rtol=1e-3).mean() > 0.98


def test_pictures_are_colours() -> None:
    for background in backgrounds("room", 4) + backgrounds("landscape", 4):
        assert background.rgb.shape == (48, 48, 3)
        assert background.rgb.min() >= 0
        assert background.rgb.max() <= 1
        assert background.rgb.std() > 0.01
