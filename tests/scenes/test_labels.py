"""Laws of the playground's label maps: what is drawn is what they say, edge upon edge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wdtrain.fields.mask import FOREGROUND
from wdtrain.packing.pack import pack
from wdtrain.scenes import figures, playground, rooms
from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.figures import Figure
from wdtrain.scenes.playground import Playground
from wdtrain.scenes.rooms import SKY_DEPTH_M, build_background
from wdtrain.scenes.scene_classes import CLASSES, LABELS, class_id
from wdtrain.scenes.textures import Texture
from wdtrain.store.manifest import Manifest
from wdtrain.stream import open_stream

FIGURE = class_id("figure")
_REACH = 3
# One corner of the colour cube a class, the sky black: a pixel's class shows through any light.
_CORNERS = {"sky": 0, "floor": 1, "wall": 2, "ceiling": 3, "ground": 4, "ridge": 5, "box": 6}


def corner(name: str) -> np.ndarray:
    bits = _CORNERS.get(name, 7)
    return np.float32(0.5) * np.array([bits & 1, bits >> 1 & 1, bits >> 2], np.float32)


@pytest.fixture
def flat_paint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every surface in one colour, which names its class; no haze, no shadow, no shading."""

    def draw(_: np.random.Generator, palette: str, *, coarse: float = 1.0) -> Texture:
        return Texture("plain", np.stack([corner(palette)] * 2), coarse, (0, 0), 0, 0)

    def colours(_: np.random.Generator, name: str, *, contrast: float) -> np.ndarray:
        return np.stack([corner(name)] * 2)

    def figure(*arguments: int, build: Callable[..., Figure] = figures.build_figure) -> Figure:
        drawn = build(*arguments)
        light = drawn.cover[..., :1] * np.float32([1, 0, 0, 0])
        return dataclasses.replace(drawn, light=light, colours=np.stack([corner("figure")] * 4))

    monkeypatch.setattr(rooms.Texture, "draw", staticmethod(draw))
    monkeypatch.setattr(rooms, "draw_colours", colours)
    monkeypatch.setattr(rooms, "any_palette", lambda _: "box")
    monkeypatch.setattr(playground, "build_figure", figure)
    monkeypatch.setattr(playground, "cast_shadow", lambda *_: None)


def test_classes_stand_in_their_order() -> None:
    assert CLASSES == ("floor", "wall", "ceiling", "ground", "sky", "ridge", "box", "figure")
    assert [class_id(name) for name in CLASSES] == list(range(8))


@pytest.mark.parametrize("fresh", [False, True])
def test_labels_change_nothing_else(fresh: bool) -> None:
    plain, labelled = (Playground(90, 40, fresh=fresh, labels=labels) for labels in (False, True))
    for index in range(0, 90, 3):
        one, two = plain.load(index), labelled.load(index)
        assert (one.key, one.meta) == (two.key, two.meta)
        assert list(two.arrays) == [*one.arrays, "labels"]
        for name, array in one.arrays.items():
            assert array.tobytes() == two.arrays[name].tobytes()


def test_a_figure_is_where_its_mask_is_and_its_depth_too() -> None:
    source = Playground(200, 64, labels=True)
    for index in range(60):
        sample = source.load(index)
        labels = sample.arrays["labels"]
        background = source._backgrounds[source._scene(index).background]
        assert labels.dtype == np.uint8
        assert np.array_equal(labels == FIGURE, sample.arrays["mask"] >= FOREGROUND)
        behind = source.depth_format.encode(background.depth)
        assert (sample.arrays["depth"] <= behind)[labels == FIGURE].all()
        assert np.array_equal(sample.arrays["depth"][labels != FIGURE], behind[labels != FIGURE])
        assert np.array_equal(labels[labels != FIGURE], background.labels[labels != FIGURE])


def test_every_class_occurs_and_only_where_it_belongs() -> None:
    source, seen = Playground(500, 32, seed=3, labels=True), np.zeros(len(CLASSES), np.int64)
    rooms_own = {"floor", "wall", "ceiling"}
    for index in range(500):
        sample = source.load(index)
        labels = sample.arrays["labels"]
        counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
        seen += counts
        names = {CLASSES[number] for number in np.flatnonzero(counts)} - {"box", "figure"}
        assert names <= (
            rooms_own if sample.meta["scene"] == "room" else {"ground", "sky", "ridge"}
        )
    share = dict(zip(CLASSES, seen / seen.sum(), strict=True))
    assert share.pop("box") > 0.01
    assert min(share.values()) > 0.05, share


@pytest.mark.parametrize("knob", [0.0, 1.0])
def test_each_class_has_the_depth_of_its_surface(knob: float) -> None:
    for number in range(60):
        background = build_background(3, number, 48, Difficulty.of(knob))
        camera = background.camera
        _, down = camera.rays()
        with np.errstate(divide="ignore"):
            ground = np.broadcast_to((camera.height_m / down)[:, None], background.depth.shape)
        level = np.isin(background.labels, [class_id("floor"), class_id("ground")])
        assert np.isclose(background.depth, ground, rtol=1e-5)[level].all()
        sky = background.labels == class_id("sky")
        assert np.array_equal(background.depth > 0.999 * SKY_DEPTH_M, sky)
        ridges = np.unique(background.depth[background.labels == class_id("ridge")])
        assert len(ridges) <= 3
        boxes = background.depth[background.labels == class_id("box")]
        assert (boxes > 0.2).all()


@pytest.mark.usefixtures("flat_paint")
def test_each_pixel_is_painted_as_its_class() -> None:
    palette = np.stack([corner(name) for name in CLASSES]) > 0
    for number in range(150):
        background = build_background(5, number, 48, Difficulty.of(0.7))
        brightest = np.maximum(background.rgb.max(-1, keepdims=True), 1e-3)
        assert np.array_equal(background.rgb > 0.5 * brightest, palette[background.labels])


def test_edges_lie_where_they_lie_in_the_same_scene_drawn_finer() -> None:
    """What is drawn at `finer` times the size says where an edge is, to a fraction of a pixel."""
    finer, size, places = 5, 32, []
    for number in range(500):
        small, large = (
            build_background(2, number, side, Difficulty.of(0.6)).labels
            for side in (size, finer * size)
        )
        for coarse, fine in ((small, large), (small.T, large.T)):
            lines = fine[finer // 2 :: finer]  # the rays of the small picture's pixels
            changes = np.diff(lines.astype(np.int8), axis=1) != 0
            rows, columns = np.nonzero(np.diff(coarse.astype(np.int8), axis=1))
            begin = columns * finer + finer // 2
            window = changes[rows[:, None], begin[:, None] + np.arange(finer)]
            single = window.sum(1) == 1  # else a thing narrower than a pixel lies between
            exact = (begin + window.argmax(1) + 1) / finer
            places.append((exact - (columns + 1))[single])
    difference = np.concatenate(places)
    assert len(difference) > 30_000
    assert np.abs(difference).max() <= 0.5
    assert abs(difference.mean()) <= 0.02


def edges_of_figures(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows [n, 1], columns [n, 2 _REACH]) around edges between a figure and what is no figure."""
    inside = labels == FIGURE
    window = np.lib.stride_tricks.sliding_window_view(inside, 2 * _REACH, axis=1)
    left, right = window[..., :_REACH], window[..., _REACH:]
    rows, columns = np.nonzero((left.all(-1) & ~right.any(-1)) | (right.all(-1) & ~left.any(-1)))
    return rows[:, None], columns[:, None] + np.arange(2 * _REACH)


def soft_edges(values: np.ndarray) -> np.ndarray:
    """Where values [n, 2 _REACH] step from one level to another, in px from the middle: what lies
    under the step says it, also of a blurred one. Weak steps are left out."""
    first, last = values[:, :2].mean(1), values[:, -2:].mean(1)
    strong = np.abs(last - first) >= 150
    share = (values - first[:, None])[strong] / (last - first)[strong, None]
    return np.asarray((1 - share).sum(1) - _REACH)


def crossings(alpha: np.ndarray) -> np.ndarray:
    """Where alpha [n, 2 _REACH] crosses the threshold between its middle pixels."""
    before, after = alpha[:, _REACH - 1], alpha[:, _REACH]
    return np.asarray((FOREGROUND - 0.5 - before) / (after - before) - 0.5)


def hard_edges(codes: np.ndarray) -> np.ndarray:
    """Where the largest step of codes [n, 2 _REACH] is, from the middle. Weak ones are left out."""
    steps = np.abs(np.diff(codes, axis=1))
    return np.asarray(steps.argmax(1) - _REACH + 1.0)[steps.max(1) >= 20]


@pytest.mark.usefixtures("flat_paint")
@pytest.mark.parametrize("turned", [False, True], ids=["across", "down"])
def test_edges_of_figures_are_aligned_in_picture_mask_depth_and_labels(turned: bool) -> None:
    source = Playground(1000, 64, difficulty=0.0, seed=1, labels=True)
    measures = {"picture": soft_edges, "mask": crossings, "depth": hard_edges}
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for index in range(500):
        sample = source.load(index)
        labels = sample.arrays["labels"]
        layers = {
            "picture": sample.arrays["overlay"].sum(-1),
            "mask": sample.arrays["mask"],
            "depth": sample.arrays["depth"],
        }
        around = edges_of_figures(labels.T if turned else labels)
        for name, layer in layers.items():
            values = (layer.T if turned else layer)[around].astype(np.float64)
            found[name].append(measures[name](values))
    # The picture's edges are blurred, noisy and measured among others.
    for name, within in {"picture": 0.9, "mask": 1.0, "depth": 0.99}.items():
        difference = np.concatenate(found[name])
        assert len(difference) > 20_000
        assert (np.abs(difference) <= 0.5).mean() >= within
        assert abs(difference.mean()) <= 0.02


def test_labels_come_back_from_a_dataset_as_they_were_drawn(tmp_path: Path) -> None:
    source = Playground(60, 32, labels=True)
    manifest = pack(source, tmp_path / "set", processes=1)
    assert isinstance(manifest, Manifest)
    assert manifest.fields["labels"] == LABELS
    drawn = {source.key(index): source.load(index).arrays["labels"] for index in range(60)}
    for split in manifest.splits:
        for batch in open_stream(tmp_path / "set", split=split, batch_size=32, seed=0):
            for key, labels in zip(batch.keys, batch.fields["labels"].numpy(), strict=True):
                assert np.array_equal(labels[0], drawn.pop(key))
    assert not drawn
