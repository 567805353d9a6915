"""Laws of the playground."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scenes.colour_threshold import best_threshold_iou
from wdtrain.fields import Sample
from wdtrain.fields.mask import FOREGROUND
from wdtrain.scenes.pasting import Spot, visible_fraction
from wdtrain.scenes.playground import LEAST_VISIBLE_SHARE, Playground


def same(first: Sample, second: Sample) -> bool:
    return (
        first.key == second.key
        and first.meta == second.meta
        and all(
            np.array_equal(first.arrays[name], second.arrays[name])
            for name in ("overlay", "mask", "depth")
        )
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 499), fresh=st.booleans())
def test_a_triple_is_a_pure_function_of_settings_and_index(
    seed: int, index: int, fresh: bool
) -> None:
    one, two = (Playground(500, 32, seed=seed, fresh=fresh) for _ in range(2))
    one.load((index + 1) % 500)
    assert same(one.load(index), two.load(index))
    assert same(pickle.loads(pickle.dumps(one)).load(index), two.load(index))


@pytest.mark.parametrize(
    ("index", "options", "means"),
    [
        (0, {"size": 64}, (113.84, 137.98, 125.0, 22.13, 187.47)),
        (7, {"size": 32, "fresh": True}, (109.95, 128.76, 128.2, 34.68, 167.27)),
        (3, {"size": 48, "difficulty": 1.0, "seed": 7}, (123.62, 123.05, 125.01, 12.82, 136.4)),
        (299, {"size": 96, "difficulty": 0.0, "seed": 3}, (127.38, 135.24, 117.95, 37.54, 143.31)),
    ],
)
def test_scenes_are_drawn_as_they_always_were(
    index: int, options: dict[str, Any], means: tuple[float, ...]
) -> None:
    """Means of red, green, blue, mask and depth. A processor may round a pixel otherwise; a change
    in what is drawn, or in the order of the draws, moves them by far more."""
    arrays = Playground(300, **options).load(index).arrays
    found = [*arrays["overlay"].mean((0, 1)), arrays["mask"].mean(), arrays["depth"].mean()]
    assert found == pytest.approx(list(means), abs=0.02)


def test_another_seed_gives_other_scenes() -> None:
    one, two = (Playground(5, 32, seed=seed).load(0) for seed in (0, 1))
    assert not np.array_equal(one.arrays["overlay"], two.arrays["overlay"])


def test_another_description_for_every_setting() -> None:
    changed = [
        Playground(30, 32),
        Playground(31, 32),
        Playground(30, 33),
        Playground(30, 32, seed=1),
        Playground(30, 32, difficulty=0.4),
        Playground(30, 32, backgrounds=7),
        Playground(30, 32, cutouts=7),
        Playground(30, 32, placements=21),
        Playground(30, 32, fresh=True),
        Playground(30, 32, labels=True),
    ]
    texts = {json.dumps(source.description, sort_keys=True) for source in changed}
    assert len(texts) == len(changed)


@pytest.mark.parametrize("count", [1, 7, 50])
def test_makes_exactly_the_count_and_no_scene_twice(count: int) -> None:
    source = Playground(count, 16, backgrounds=2, cutouts=3, placements=1)
    assert len(source) == count
    triples = [source.load(index) for index in range(count)]
    assert len({triple.key for triple in triples}) == count
    names = ("background", "cutout", "flip", "placement")
    assert len({tuple(t.meta[name] for name in names) for t in triples}) == count
    with pytest.raises(IndexError):
        source.load(count)


@pytest.mark.parametrize("fresh", [False, True])
def test_parts_name_what_a_triple_holds(fresh: bool) -> None:
    source = Playground(40, 16, backgrounds=5, cutouts=6, fresh=fresh)
    backgrounds, cutouts = source.parts(np.arange(40))
    for index in range(40):
        meta = source.load(index).meta
        assert meta["background"] == f"bg-{backgrounds[index]:04d}"
        assert meta["cutout"] == f"fg-{cutouts[index]:04d}"
    assert (len(set(backgrounds)), len(set(cutouts))) == ((40, 40) if fresh else (5, 6))


def test_parts_of_other_numbers_are_other_pictures() -> None:
    """So splits whose part numbers are disjoint share no background and no figure."""
    source = Playground(100, 32, backgrounds=30, cutouts=30)
    rooms = [source._background(number).rgb for number in range(30)]
    figures = [source._figure(number).cover for number in range(30)]
    assert len({room.tobytes() for room in rooms}) == 30
    assert len({figure.tobytes() for figure in figures}) == 30


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_masks_are_never_empty_and_mostly_visible(difficulty: float) -> None:
    source = Playground(2000, 32, difficulty=difficulty, seed=4)
    for index in range(400):
        triple, scene = source.load(index), source._scene(index)
        meta, depth = triple.meta, source._backgrounds[scene.background].depth
        rows = meta["pixel_height"]
        alpha = source._figures[scene.cutout].sized(rows, flip=scene.flip)[0][..., 0]
        spot = Spot(meta["contact_row"] - rows, meta["left"])
        assert (
            visible_fraction(alpha, meta["distance_m"], depth, spot) >= LEAST_VISIBLE_SHARE - 1e-3
        )
        assert triple.arrays["mask"].sum() / 255 >= (LEAST_VISIBLE_SHARE - 0.01) * alpha.sum()
        assert (triple.arrays["mask"] >= FOREGROUND).any()


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_a_colour_threshold_does_not_solve_it(difficulty: float) -> None:
    source = Playground(2000, 64, difficulty=difficulty, seed=2)
    triples = [source.load(index) for index in range(300)]
    overlays, masks = (np.stack([t.arrays[n] for t in triples]) for n in ("overlay", "mask"))
    assert best_threshold_iou(overlays, masks) <= 0.15


def test_a_figure_stands_on_the_ground_as_tall_as_perspective_makes_it() -> None:
    source = Playground(200, 64, difficulty=0.5)
    for index in range(100):
        meta = source.load(index).meta
        below = meta["contact_row"] - meta["horizon_row"]
        distance = meta["focal_px"] * meta["camera_height_m"] / below
        assert meta["distance_m"] == pytest.approx(distance, rel=1e-3)
        rows = meta["focal_px"] * meta["figure_height_m"] / distance
        assert meta["pixel_height"] == pytest.approx(rows, rel=1e-3)
        assert 0.6 < meta["figure_height_m"] < 2.1


def test_a_figures_depth_is_its_distance_less_its_relief() -> None:
    source = Playground(200, 64, difficulty=0.0)
    for index in range(100):
        triple = source.load(index)
        metres = source.depth_format.decode(triple.arrays["depth"])[
            triple.arrays["mask"] >= FOREGROUND
        ]
        distance = max(triple.meta["distance_m"], source.depth_format.near_m)
        assert metres.max() <= distance * 1.02
        assert metres.min() >= distance - 0.6 * triple.meta["figure_height_m"]
        assert metres.std() > 0


def test_depth_outside_the_figure_is_the_backgrounds() -> None:
    source = Playground(50, 48)
    for index in range(30):
        triple = source.load(index)
        background = source._backgrounds[source._scene(index).background]
        outside = triple.arrays["mask"] < FOREGROUND
        expected = source.depth_format.encode(background.depth)
        assert np.array_equal(triple.arrays["depth"][outside], expected[outside])


@pytest.mark.parametrize("knob", [-0.1, 1.1, float("nan")])
def test_refuses_a_difficulty_outside_0_to_1(knob: float) -> None:
    with pytest.raises(ValueError, match="between 0"):
        Playground(5, difficulty=knob)


def test_refuses_no_scenes_and_tiny_pictures() -> None:
    with pytest.raises(ValueError, match="at least 1 scene"):
        Playground(0)
    with pytest.raises(ValueError, match="at least 1 scene"):
        Playground(5, 8)
    with pytest.raises(ValueError, match="backgrounds is 0"):
        Playground(5, backgrounds=0)
