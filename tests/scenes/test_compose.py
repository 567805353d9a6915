"""Laws of composing: the exact product, pure triples, figures that stand on the floor."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.scenes.conftest import write_kit
from wdtrain.fields.errors import FieldError
from wdtrain.fields.mask import FOREGROUND
from wdtrain.scenes.compose import LEAST_VISIBLE, Composition
from wdtrain.scenes.lift import Lift, lifts_json

Kit = tuple[Path, Path]
SCENE = ("background", "cutout", "flip", "placement")


def test_counts_the_whole_product(tmp_path: Path) -> None:
    kit = write_kit(tmp_path, backgrounds=80, cutouts=80)
    assert len(Composition(*kit, placements=20)) == 80 * 80 * 2 * 20


def test_the_product_holds_every_scene_once(kit: Kit) -> None:
    source = Composition(*kit, placements=3, size=32)
    assert len(source) == 5 * 4 * 2 * 3
    triples = [source.load(index) for index in range(len(source))]
    assert len({triple.key for triple in triples}) == len(source)
    scenes = {tuple(triple.meta[name] for name in SCENE) for triple in triples}
    expected = {
        (f"bg{b:03d}", f"fg{c:03d}", flip, k)
        for b in range(5)
        for c in range(4)
        for flip in (False, True)
        for k in range(3)
    }
    assert scenes == expected


def test_a_sample_repeats_no_scene(kit: Kit) -> None:
    source = Composition(*kit, placements=3, count=60, size=16, seed=5)
    scenes = [tuple(source.load(index).meta[name] for name in SCENE) for index in range(60)]
    assert len(set(scenes)) == len(source) == 60
    other = Composition(*kit, placements=3, count=60, size=16, seed=6)
    assert scenes != [tuple(other.load(index).meta[name] for name in SCENE) for index in range(60)]


def test_a_triple_is_a_pure_function_of_settings_and_index(kit: Kit) -> None:
    one, two = (Composition(*kit, placements=3, size=40, seed=1) for _ in range(2))
    two.load(7)
    for index in (0, 33, 119):
        for other in (two, pickle.loads(pickle.dumps(one))):
            first, second = one.load(index), other.load(index)
            assert first.meta == second.meta
            for name in ("overlay", "mask", "depth"):
                assert np.array_equal(first.arrays[name], second.arrays[name])


def test_parts_name_what_a_triple_holds(kit: Kit) -> None:
    source = Composition(*kit, placements=2, count=30, size=16)
    backgrounds, cutouts = source.parts(np.arange(30))
    for index in range(30):
        meta = source.load(index).meta
        assert meta["background"] == f"bg{backgrounds[index]:03d}"
        assert meta["cutout"] == f"fg{cutouts[index]:03d}"


def test_a_cutout_stands_on_the_floor_as_tall_as_perspective_makes_it(kit: Kit) -> None:
    source = Composition(*kit, placements=2, size=64)
    for index in range(len(source)):
        triple = source.load(index)
        meta = triple.meta
        assert meta["wall"] * 64 < meta["contact_row"] <= 64
        distance = meta["focal"] * 64 * meta["camera_height_m"]
        distance /= meta["contact_row"] - meta["horizon"] * 64
        assert meta["distance_m"] == pytest.approx(distance, rel=1e-3)
        rows = meta["focal"] * 64 * meta["cutout_height_m"] / distance
        assert meta["pixel_height"] == pytest.approx(rows, abs=0.51)
        metres = source.depth_format.decode(triple.arrays["depth"])[
            triple.arrays["mask"] >= FOREGROUND
        ]
        assert metres.max() <= distance * 1.02
        assert metres.min() >= distance - 0.3


def test_masks_are_the_cutouts_alpha_and_mostly_visible(kit: Kit) -> None:
    source = Composition(*kit, placements=2, size=64)
    for index in range(len(source)):
        triple, scene = source.load(index), source._product.scene(index)
        meta, rows = triple.meta, triple.meta["pixel_height"]
        _, alpha, _ = source._cutouts[scene.cutout].sized(rows, flip=scene.flip)
        top, left = meta["contact_row"] - rows, meta["left"]
        expected = np.zeros((64 + 400, 64 + 400), np.float32)
        place = np.s_[top + 200 : top + 200 + rows, left + 200 : left + 200 + alpha.shape[1]]
        expected[place] = alpha
        assert np.array_equal(triple.arrays["mask"], np.rint(expected[200:264, 200:264] * 255))
        assert triple.arrays["mask"].sum() / 255 >= (LEAST_VISIBLE - 0.01) * alpha.sum()
        assert (triple.arrays["mask"] >= FOREGROUND).any()


def test_without_lift_every_depth_is_unknown(kit: Kit) -> None:
    lifted, none = (Composition(*kit, depth=depth, size=32) for depth in ("lift", "none"))
    assert (lifted.load(3).arrays["depth"] > 0).all()
    assert (none.load(3).arrays["depth"] == 0).all()
    assert np.array_equal(lifted.load(3).arrays["mask"], none.load(3).arrays["mask"])
    assert none.depth_format.kind == "geometric"


def test_a_corrected_lift_is_used(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "lift.json"
    path.write_text(lifts_json({"bg001": Lift(wall=0.9, horizon=0.3)}))
    source = Composition(*kit, size=32, lift=path)
    assert source.lifts()["bg001"] == Lift(wall=0.9, horizon=0.3)
    assert source.lifts()["bg002"] == Composition(*kit, size=32).lifts()["bg002"]
    assert source.description != Composition(*kit, size=32).description


def test_a_cutout_larger_than_the_background_is_scaled_down(kit: Kit) -> None:
    giant = np.zeros((900, 300, 4), np.uint8)
    giant[10:890, 10:290] = (30, 90, 200, 255)
    cv2.imwrite(str(kit[1] / "giant.png"), giant)
    source = Composition(*kit, placements=4, size=32)
    giants = [t for t in map(source.load, range(len(source))) if t.meta["cutout"] == "giant"]
    assert len(giants) == 5 * 2 * 4
    assert all(5 < (t.arrays["mask"] >= FOREGROUND).sum() < 32 * 32 for t in giants)


def test_a_description_follows_the_pictures_not_their_place(kit: Kit, tmp_path: Path) -> None:
    first = Composition(*kit, size=32).description
    moved = (tmp_path / "kit").rename(tmp_path / "moved")
    assert Composition(moved / "bg", moved / "fg", size=32).description == first
    (moved / "bg" / "bg000.png").write_bytes((moved / "bg" / "bg001.png").read_bytes())
    assert Composition(moved / "bg", moved / "fg", size=32).description != first


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("fg000.png", b"", "cannot be decoded"),
        ("fg000.png", b"\x89PNG\r\n\x1a\nbroken", "cannot be decoded"),
        ("fg000.png", np.zeros((9, 9, 3), np.uint8), "no alpha channel"),
        ("fg000.png", np.zeros((9, 9, 4), np.uint8), "transparent everywhere"),
    ],
)
def test_a_bad_cutout_is_rejected_by_name(
    kit: Kit, name: str, data: bytes | np.ndarray, words: str
) -> None:
    if isinstance(data, np.ndarray):
        data = cv2.imencode(".png", data)[1].tobytes()
    (kit[1] / name).write_bytes(data)
    source = Composition(*kit, size=32)
    with pytest.raises(FieldError, match=f"{name}.*{words}"):
        source.load(0)


def test_a_bad_background_is_rejected_by_name(kit: Kit) -> None:
    (kit[0] / "bg000.png").write_bytes(b"no picture")
    source = Composition(*kit, size=32)
    with pytest.raises(FieldError, match=r"bg000\.png cannot be decoded"):
        source.load(0)
    assert "bg000" not in source.lifts()


def test_refuses_folders_without_pictures(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"backgrounds folder .* holds no picture"):
        Composition(tmp_path / "empty", kit[1])
    with pytest.raises(ValueError, match=r"cutouts folder .* does not exist"):
        Composition(kit[0], tmp_path / "nowhere")


def test_refuses_two_pictures_of_one_name(kit: Kit) -> None:
    (kit[1] / "fg000.webp").write_bytes(b"")
    with pytest.raises(ValueError, match="have the same name"):
        Composition(*kit)


def test_refuses_wrong_settings(kit: Kit) -> None:
    for options, words in (
        ({"depth": "guess"}, "must be lift or none"),
        ({"size": 8}, "at least 16"),
        ({"placements": 0}, "placements is 0"),
        ({"count": 10**6}, "ask for fewer"),
    ):
        with pytest.raises(ValueError, match=words):
            Composition(*kit, **options)  # type: ignore[arg-type]


def test_a_pipe_among_the_pictures_is_an_error_and_not_waited_for(
    kit: tuple[Path, Path], tmp_path: Path
) -> None:
    os.mkfifo(kit[0] / "pipe.png")
    with pytest.raises(OSError, match="it is a pipe or a device, and no file"):
        Composition(*kit, size=32)
