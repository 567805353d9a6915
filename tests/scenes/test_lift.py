"""Laws of lifting: a floor, a back wall, and numbers that a person can correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scenes.conftest import draw_background
from wdtrain.scenes.lift import Lift, fit_lift, lifts_json, read_lifts


@st.composite
def lifts(draw: st.DrawFn) -> Lift:
    horizon = draw(st.floats(0.1, 0.6))
    return Lift(
        horizon=horizon,
        wall=draw(st.floats(horizon + 0.01, 1.0)),
        focal=draw(st.floats(0.3, 3)),
        camera_height_m=draw(st.floats(0.3, 5)),
    )


@given(lift=lifts(), size=st.integers(16, 80))
def test_depth_never_grows_from_row_to_row(lift: Lift, size: int) -> None:
    depth = lift.depth(size)
    assert depth.shape == (size, size)
    assert np.isfinite(depth).all()
    assert (depth > 0).all()
    assert (np.diff(depth, axis=0) <= 1e-6).all()
    assert (depth == depth[:, :1]).all()


@given(lift=lifts(), size=st.integers(16, 80))
def test_the_floor_and_the_wall_lie_where_perspective_puts_them(lift: Lift, size: int) -> None:
    depth = lift.depth(size)[:, 0]
    rows = np.arange(size) + 0.5
    floor = rows > lift.wall * size
    expected = lift.focal * lift.camera_height_m / (rows[floor] / size - lift.horizon)
    assert np.allclose(depth[floor], expected, rtol=1e-3)
    wall = lift.focal * lift.camera_height_m / (lift.wall - lift.horizon)
    assert np.allclose(depth[~floor], wall, rtol=1e-3)


@pytest.mark.parametrize("number", range(8))
def test_finds_the_foot_of_the_wall(number: int) -> None:
    picture = draw_background(number, 160)[..., ::-1]
    foot = np.abs(np.diff(picture.astype(int), axis=0)).sum(axis=(1, 2)).argmax() + 1
    assert fit_lift(np.ascontiguousarray(picture)).wall == pytest.approx(foot / 160, abs=0.01)


def test_a_picture_without_an_edge_still_gets_a_floor() -> None:
    lift = fit_lift(np.full((50, 90, 3), 128, np.uint8))
    assert 0.5 < lift.wall < 0.9


@given(given=st.dictionaries(st.text(min_size=1, max_size=8), lifts(), max_size=4))
def test_lifts_are_read_back_as_written(
    given: dict[str, Lift], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lift") / "lift.json"
    path.write_text(lifts_json(given), encoding="utf-8")
    assert read_lifts(path) == given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not readable JSON"),
        ("[]", "holds no object"),
        ('{"a": {"wall": 0.3}}', "a: wall is 0.3 and horizon"),
        ('{"a": {"wall": "low"}}', "a: wall is 'low'"),
        ('{"a": {"wall": 0.7, "roof": 1}}', "a: .*roof"),
        ('{"a": {"wall": 0.7, "focal": 0}}', "above 0"),
        ('{"a": 7}', "a: "),
    ],
)
def test_refuses_wrong_numbers_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "lift.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_lifts(path)
