"""`inspect-shards augment`: what it shows is what a training step gets, bit for bit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.learn.cases import depth_task, mask_task, one_step
from tests.noise import NoiseSource
from wdtrain.commands import inspect_shards
from wdtrain.commands.augment_picture import (
    ALL,
    NONE,
    SOME,
    VALID,
    PlaceInBatch,
    ShownSample,
    augmentation_words,
    see,
    seen_tiles,
    stored_tiles,
)
from wdtrain.commands.inspect_augment import find_place, find_sample
from wdtrain.config import AugmentSettings, Recipe, load_recipe
from wdtrain.disk.failures import StoreError
from wdtrain.learn import Augmentation, TaskSet, augmentation_of, plain_view, rows_of
from wdtrain.learn.inputs import TrainingInput
from wdtrain.learn.view import View
from wdtrain.packing.pack import pack
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Cursor, Order, order_of, stream_of
from wdtrain.targets import Target, target_of

SIDE = 32
AMOUNTS = "{zoom: 0.7, rotation_deg: 20, crop: 0.9, flip: 0.4, colour: 0.3}"
RECIPE = """
data: {url: "URL", seed: 3, lanes: 4, chunk: 4, size: SIZE}
run: {folder: anywhere, seed: 11}
train: {batch_size: 24, steps: 9}
augment: AMOUNTS
precision: fp32
tasks: {mask: {network: seed-mask, loss: bce}}
"""
OFF = ["--zoom", "0", "--rotation-deg", "0", "--flip", "0", "--colour", "0"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    target = tmp_path_factory.mktemp("packed") / "data"
    return pack(NoiseSource(60, SIDE), target, processes=1, shard_samples=20, samples_per_block=7)


def write_recipe(folder: Path, manifest: Manifest, size: str = "null") -> Recipe:
    text = RECIPE.replace("URL", manifest.url).replace("SIZE", size).replace("AMOUNTS", AMOUNTS)
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return load_recipe(folder / "config.yaml", [])


@pytest.fixture
def run_folder(manifest: Manifest, tmp_path: Path) -> Path:
    write_recipe(tmp_path / "run", manifest)
    return tmp_path / "run"


def view_of_training(manifest: Manifest, recipe: Recipe) -> View:
    """The view that the training loop builds."""
    augmentation = augmentation_of(recipe.augment, seed=recipe.run.seed)
    return plain_view(manifest, ["overlay"], recipe.precision).augmented(augmentation)


def targets_of(manifest: Manifest) -> dict[str, Target]:
    return {name: target_of(manifest.fields[name]) for name in ("mask", "depth")}


Given = dict[tuple[str, str, int], tuple[Tensor, Tensor, Tensor]]


class Watched(View):
    """A view that keeps what it hands to the networks of a step, by target, key and epoch."""

    given: Given

    def prepare(self, image: str, target: Target, arrived, rows, *rest) -> TrainingInput:
        prepared = super().prepare(image, target, arrived, rows, *rest)
        parts = (prepared.picture.clone(), prepared.target.clone(), prepared.valid.clone())
        for key, epoch, *of_row in zip(rows.keys, rows.epochs, *parts, strict=True):
            self.given[target.name, key, epoch] = tuple(of_row)
        return prepared


def what_steps_were_given(manifest: Manifest, recipe: Recipe) -> Given:
    """Over the steps of more than an epoch of a real stream."""
    view = view_of_training(manifest, recipe)
    watched = Watched(**{name: getattr(view, name) for name in View.__dataclass_fields__})
    object.__setattr__(watched, "given", {})
    tasks = TaskSet([task(precision="fp32") for task in (mask_task, depth_task)])
    stream = stream_of(recipe.data, manifest, "train", recipe.train.batch_size, epochs=2)
    for _, batch in zip(range(3), stream, strict=False):
        one_step(tasks, rows_of(batch, recipe.norm_group), view=watched)
    return watched.given


@pytest.mark.parametrize("size", [None, 16])
def test_it_is_made_from_what_a_training_step_gets_bit_for_bit(manifest, tmp_path, size):
    recipe = write_recipe(tmp_path / "run", manifest, str(size or "null"))
    given = what_steps_were_given(manifest, recipe)
    view = view_of_training(manifest, recipe)
    assert {epoch for _, _, epoch in given} == {0, 1}
    assert len(given) == 2 * 3 * 24
    for (target, key, epoch), parts in given.items():
        sample = find_sample(manifest, "train", key, size=recipe.data.size)
        shown = see(sample, PlaceInBatch.alone(epoch), view, targets_of(manifest))
        truth = shown.truths[target]
        found = (shown.images["overlay"], truth.wanted, truth.valid)
        for mine, its in zip(found, parts, strict=True):
            assert mine.shape == (1, *its.shape)
            assert torch.equal(mine[0], its)


def held(picture: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a picture holds a tile, magnified by a whole factor."""
    factor = -(-200 // tile.shape[1])
    large = tile.repeat(factor, 0).repeat(factor, 1)
    _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(picture, large, cv2.TM_SQDIFF))
    return np.array_equal(picture[y : y + large.shape[0], x : x + large.shape[1]], large)


def test_a_run_is_shown_by_its_own_seed_and_amounts(manifest, run_folder, tmp_path, capsys):
    out = tmp_path / "new" / "seen.png"
    asked = ["augment", "--run", str(run_folder), "n000017", "--epoch", "0,2", "--out", str(out)]
    assert inspect_shards.main(asked) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    picture = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB)
    assert last == f"wrote {out} ({picture.shape[1]} x {picture.shape[0]})"
    view = view_of_training(manifest, load_recipe(run_folder / "config.yaml", []))
    sample = find_sample(manifest, "train", "n000017")
    targets = targets_of(manifest)
    sights = [see(sample, PlaceInBatch.alone(epoch), view, targets) for epoch in (0, 2)]
    for line, sight in zip(lines, sights, strict=True):
        assert (
            line
            == f"epoch {sight.epoch}: {', '.join(augmentation_words(sight.drawn, (SIDE, SIDE)))}"
        )
        assert all(held(picture, tile) for tile in seen_tiles(sight, view, targets).values())
    stored = stored_tiles(sample, view, targets)
    assert list(stored) == ["overlay", "mask", "depth", VALID]
    assert all(held(picture, tile) for name, tile in stored.items() if name != "overlay")
    other = seen_tiles(see(sample, PlaceInBatch.alone(1), view, targets), view, targets)
    assert not held(picture, other["overlay"])


def test_a_line_says_what_was_drawn(manifest, run_folder, tmp_path):
    view = view_of_training(manifest, load_recipe(run_folder / "config.yaml", []))
    assert view.augmentation is not None
    drawn = view.augmentation.draw(["n000017"], [4])
    numbers = [
        float(n)
        for n in re.findall(r"[-+]?\d+\.\d+", " ".join(augmentation_words(drawn, (20, 40))))
    ]
    room = (drawn.zoom[0] - 1) * np.array([20, 10])
    expected = [drawn.zoom[0], drawn.angle_deg[0], *drawn.shift[0], *drawn.shift[0] * room]
    assert numbers == pytest.approx([*expected, *drawn.gains[0]], abs=0.05)
    mirrored = "not mirrored" not in augmentation_words(drawn, (20, 40))
    assert mirrored == drawn.flipped[0]


def test_with_every_amount_off_what_was_seen_is_what_is_stored(manifest):
    plain = Augmentation(seed=0, zoom=0, rotation_deg=0, crop=0, flip=0, colour=0)
    view = plain_view(manifest, ["overlay"], "fp32").augmented(plain)
    sample, targets = find_sample(manifest, "train", "n000024"), targets_of(manifest)
    assert (sample.fields["depth"] == 0).any(), "unknown depth must be shown too"
    seen = seen_tiles(see(sample, PlaceInBatch.alone(5), view, targets), view, targets)
    stored = stored_tiles(sample, view, targets)
    assert seen.keys() == stored.keys()
    for name, tile in stored.items():
        assert np.array_equal(seen[name], tile), name


def test_tells_what_is_trained_on_by_all_by_some_and_by_none(manifest, run_folder):
    view = view_of_training(manifest, load_recipe(run_folder / "config.yaml", []))
    sample = find_sample(manifest, "train", "n000024")
    targets, half = targets_of(manifest), np.tril(sample.fields["depth"])
    half_known = sample._replace(fields={**sample.fields, "depth": half})
    found = set()
    for epoch in range(4):
        seen: ShownSample = see(half_known, PlaceInBatch.alone(epoch), view, targets)
        shown = seen_tiles(seen, view, targets)[VALID]
        mask, depth = (seen.truths[name].known[0, 0].numpy() for name in ("mask", "depth"))
        for where, colour in ((mask & depth, ALL), (mask & ~depth, SOME), (~mask, NONE)):
            assert (shown[where] == colour).all()
            found |= {colour} if where.any() else set()
    assert found == {ALL, SOME, NONE}


def test_a_recipe_is_tried_with_other_amounts(manifest, run_folder, tmp_path, capsys):
    out = ["--out", str(tmp_path / "seen.png"), "--overwrite"]
    recipe = ["--config", str(run_folder / "config.yaml"), *out]
    assert inspect_shards.main(["augment", "n000024", "--epoch", "3", *recipe, *OFF]) == 0
    told_off = "zoom 1.000, angle +0.00 deg, shift"
    assert capsys.readouterr().out.startswith(f"epoch 3: {told_off}")
    lines = {}
    for seed in ("11", "12"):
        asked = ["augment", manifest.url, "n000024", "--epoch", "3", *recipe, "--seed", seed]
        assert inspect_shards.main(asked) == 0
        lines[seed] = capsys.readouterr().out.splitlines()[0]
    view = view_of_training(manifest, load_recipe(run_folder / "config.yaml", []))
    drawn = see(find_sample(manifest, "train", "n000024"), PlaceInBatch.alone(3), view, {}).drawn
    assert lines["11"] == f"epoch 3: {', '.join(augmentation_words(drawn, (SIDE, SIDE)))}"
    assert lines["12"] != lines["11"]


def test_refuses_to_answer_for_a_run_on_another_dataset(manifest, run_folder, capsys):
    checkpoints = Checkpoints(run_folder / "checkpoints")
    checkpoints.begin(1)
    other = Order(manifest, "train", seed=4, lanes=4, chunk=4)
    checkpoints.commit(1, {"cursor": Cursor.at(other, 24).dumps()})
    asked = ["augment", "--run", str(run_folder), "n000017", "--epoch", "0"]
    assert inspect_shards.main(asked) == 2
    assert f"saved for order {other.digest}" in capsys.readouterr().err


def test_looks_past_damaged_blocks_and_names_them_where_a_key_is_not_found(
    manifest, tmp_path, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(manifest.url, copy)
    path = copy / "train-000000.tar.zst"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    lost = [f"n{index:06d}" for index in range(60) if not is_found(copy, f"n{index:06d}")]
    held_out = sum(split.samples for name, split in manifest.splits.items() if name != "train")
    assert len(lost) == 7 + held_out
    assert inspect_shards.main(["augment", str(copy), lost[0], "--epoch", "0"]) == 2
    assert "train-000000.tar.zst, block 0 is damaged" in capsys.readouterr().err


def is_found(folder: Path, key: str) -> bool:
    try:
        return find_sample(Manifest.load(str(folder)), "train", key).key == key
    except StoreError:
        return False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("DATA n00017 --epoch 0", "holds no sample 'n00017'; most like it are n000017"),
        ("DATA n000017 --epoch -1", "epochs are whole numbers from 0 on"),
        ("DATA n000017 --epoch 1,x", "epochs are whole numbers from 0 on"),
        ("DATA n000017 --epoch 0 --split test", "has no split 'test'"),
        ("DATA n000017 --epoch 0 --zoom 10", "augmentation.zoom is 10"),
        ("DATA n000017 more --epoch 0", "is more than TARGET and KEY"),
        ("n000017 --epoch 0", "name TARGET, or the run's folder"),
        ("--run RUN n000017 --epoch 9", "--epoch 9 is beyond the run's end: its last epoch is"),
        ("--run RUN n000017 --epoch 0 --rotation-deg 3", "--rotation-deg stands in the recipe"),
        ("--run RUN n000017 --epoch 0 --seed 3", "--seed stands in the recipe"),
        ("--run DATA n000017 --epoch 0", "is not a run: it holds no config.yaml"),
        ("--config nothing n000017 --epoch 0", "recipe nothing does not exist"),
        ("nothing n000017 --epoch 0", "holds no manifest.json"),
    ],
)
def test_bad_questions_are_one_clear_error(manifest, run_folder, capsys, arguments, words):
    names = {"DATA": manifest.url, "RUN": str(run_folder)}
    given = [names.get(word, word) for word in arguments.split()]
    assert inspect_shards.main(["augment", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert words in error


def test_the_other_actions_do_not_bring_torch_along():
    code = "import sys, wdtrain.commands.inspect_shards; assert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_what_is_drawn_by_group_is_found_by_the_order(manifest, tmp_path):
    """Bit for bit, also of chunks that an epoch or a batch cuts short."""
    recipe = write_recipe(tmp_path / "run", manifest)
    change = {"image": [{"name": "RandomGaussianNoise", "p": 0.6, "std": 0.2}]}
    settings = AugmentSettings(**{**recipe.augment.model_dump(), **change})
    recipe = recipe.model_copy(update={"augment": settings})
    order, view = order_of(recipe.data, manifest), view_of_training(manifest, recipe)
    for (name, key, epoch), parts in what_steps_were_given(manifest, recipe).items():
        if name == "mask":
            sample = find_sample(manifest, "train", key, size=recipe.data.size)
            place = find_place(order, epoch, sample, recipe)
            shown = see(sample, place, view, targets_of(manifest))
            assert torch.equal(shown.images["overlay"][0], parts[0])
