"""Laws of the camera: perspective as in the textbook."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.scenes.camera import Camera

CAMERA = Camera(size=100, focal_px=90.0, height_m=1.5, horizon_row=40.0)


def test_the_ground_lies_at_f_times_height_over_rows_below_the_horizon() -> None:
    assert CAMERA.ground_depth(100) == pytest.approx(90 * 1.5 / 60)


def test_there_is_no_ground_above_the_horizon() -> None:
    with pytest.raises(ValueError, match="not below the horizon"):
        CAMERA.ground_depth(40)


@given(height_m=st.floats(0.2, 3), rows=st.floats(1, 100))
def test_pixel_height_and_contact_row_are_inverse(height_m: float, rows: float) -> None:
    contact = CAMERA.contact_row(height_m, rows)
    assert CAMERA.pixel_height(height_m, contact) == pytest.approx(rows)


def test_what_is_as_tall_as_the_camera_ends_at_the_horizon() -> None:
    assert 90 - CAMERA.pixel_height(1.5, 90) == pytest.approx(40)


def test_rays_go_through_pixel_centres() -> None:
    across, down = CAMERA.rays()
    assert across[50] == pytest.approx(0.5 / 90)
    assert down[39] == pytest.approx(-0.5 / 90)
