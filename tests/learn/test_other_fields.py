"""Whole trainings on samples that are no triples: classes, several images and masks, any names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch

from wdtrain.commands import predict
from wdtrain.config import Recipe
from wdtrain.fields import ClassesField, DepthField, DepthFormat, ImageField, MaskField, Sample
from wdtrain.learn.build import build_tasks, foreground_for, learned_by
from wdtrain.packing.pack import pack

TRAIN = Path(__file__).resolve().parents[2] / "wdtrain" / "train.py"
NAMES = ("wall", "floor", "ceiling", "ground", "sky", "ridge", "box", "figure")
COLOURS = np.random.default_rng(7).integers(30, 226, (8, 3))
FORMAT = DepthFormat(kind="metric", bits=16)


class Quilt:
    """Pictures of coloured patches, of which each colour is a class; `thermal` shows one of them
    and `near` masks another. Some labels are unknown, and the first sample has none."""

    fields = (
        ImageField("photo"),
        ImageField("thermal", lossless=True),
        ClassesField("labels", names=NAMES, ignore=255),
        MaskField("near", partly=True),
        MaskField("far"),
        DepthField("range", format=FORMAT, unit="codes"),
    )
    description: ClassVar[dict[str, Any]] = {"name": "quilt", "count": 160}

    def __len__(self) -> int:
        return 160

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return indices % 16, indices // 16

    def key(self, index: int) -> str:
        return f"quilt-{index:04d}"

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        ids = rng.integers(0, 8, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        photo = (COLOURS[ids] + rng.normal(0, 6, (16, 16, 3))).clip(0, 255).astype(np.uint8)
        thermal = np.repeat((ids == 7)[..., None] * np.uint8(200), 3, 2)
        near = np.where(ids == 6, np.uint8(255), np.uint8(0))
        near[:, :2] = 1  # unknown
        labels = np.where(rng.random(ids.shape) < 0.1, np.uint8(255), ids)
        if index == 0:
            labels[:] = 255
        metres = 1.0 + ids.astype(np.float64)
        meta = {"background": f"b{index % 16}", "cutout": f"c{index // 16}"}
        arrays = {"photo": photo, "thermal": thermal, "labels": labels, "near": near}
        arrays |= {"far": np.uint8(255) * (ids == 7), "range": FORMAT.encode(metres)}
        return Sample(self.key(index), arrays, meta)


@pytest.fixture(scope="module")
def quilt(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("data") / "quilt"
    pack(Quilt(), target, processes=1)
    return str(target)


def train(folder: Path, url: str, tasks: dict[str, Any], **keys: Any) -> tuple[int, str]:
    """(exit code, output) of a run in `folder`/run."""
    recipe: dict[str, Any] = {
        "data": {"url": url, "lanes": 2, "chunk": 4},
        "run": {"folder": str(folder / "run")},
        "train": {"batch_size": 32, "steps": 40},
        "log": {"console": "plain", "trackers": []},
        "augment": {"zoom": 0.2, "colour": 0.0},
        "precision": "fp32",
        "cpu_threads": 1,
        "tasks": tasks,
    }
    for key, value in keys.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, str(TRAIN), "--config", str(folder / "recipe.yaml")],
        cwd=folder,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def of_final(folder: Path) -> dict[str, Any]:
    (found,) = [line for line in records(folder) if any(key.startswith("final/") for key in line)]
    return found


FIELDS = {field.name: field for field in Quilt.fields}
OPTIMIZER = {"name": "adamw", "lr": 0.02}


def test_eight_classes_are_learned_scored_reported_and_predicted(quilt, tmp_path, capsys):
    task = {"network": "seed-mask", "options": {"dropout": 0.0}, "loss": "ce+dice"}
    task |= {"input": "photo", "optimizer": OPTIMIZER}
    code, output = train(tmp_path, quilt, {"labels": task})
    assert code == 0, output
    losses = [line["loss/labels"] for line in records(tmp_path) if "loss/labels" in line]
    assert len(losses) == 40
    assert losses[-1] < 0.5 * losses[0]
    final = of_final(tmp_path)
    at = "final/val-new-new/labels"
    assert final[f"{at}/miou"] > 0.6 > 0.3 > final[f"{at}/baseline/miou"]
    assert final[f"{at}/pixel_accuracy"] > 0.7
    assert {f"{at}/iou/{name}" for name in NAMES} <= set(final)
    report = (tmp_path / "run/report.md").read_text()
    assert "most frequent class of each pixel" in report
    assert "| figure | " in report
    picture = Quilt().load(11).arrays["photo"]
    assert cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    given = [str(tmp_path / "run"), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert predict.main(given) == 0, capsys.readouterr().err
    ids = cv2.imread(str(tmp_path / "out/a.classes.png"), cv2.IMREAD_UNCHANGED)
    rng = np.random.default_rng(11)
    wanted = rng.integers(0, 8, (4, 4)).repeat(4, 0).repeat(4, 1)
    assert (ids == wanted).mean() > 0.7
    assert (tmp_path / "out/a.preview.png").is_file()


def test_two_masks_and_a_depth_of_other_names_and_images_are_learned(quilt, tmp_path):
    network = {"network": "seed-mask", "options": {"dropout": 0.0}, "optimizer": OPTIMIZER}
    tasks = {
        "close": {**network, "loss": "bce", "input": "photo", "target": "near"},
        "figures": {**network, "loss": "bce", "input": "thermal", "target": "far"},
        "range": {"network": "seed-unet", "options": {"init_features": 4}, "loss": "l1"}
        | {"input": "photo", "optimizer": OPTIMIZER},
    }
    code, output = train(tmp_path, quilt, tasks, evaluate={"foreground": "far"})
    assert code == 0, output
    final = of_final(tmp_path)
    assert final["final/val-new-new/close/iou_pooled"] > 0.5
    assert final["final/val-new-new/figures/iou_pooled"] > 0.8
    assert final["final/val-new-new/range/foreground/rmse_log"] > 0
    assert final["final/val-new-new/range/baseline/rmse_log"] > 0
    report = (tmp_path / "run/report.md").read_text()
    assert "By region" in report


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"input": "photo", "loss": "ce", "network": "seed-unet"}, "output is 'unit'"),
        ({"loss": "ce"}, "tasks.labels.input is not given.*photo, thermal"),
        ({"input": "photo", "loss": "ce", "target": "maks"}, "does not hold; it holds photo"),
        ({"input": "photo", "loss": "ce", "target": "thermal"}, "kind image, of which nothing"),
        (
            {"input": "photo", "loss": "ce", "options": {"out_channels": 3}},
            r"SeedMask has 3 output channels; labels \(classes\) needs 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(task, said):
    recipe = recipe_of({"labels": {"network": "seed-mask", **task}})

    def built() -> None:
        learned = learned_by(recipe, FIELDS)
        build_tasks(recipe, learned, total_steps=1, device=torch.device("cpu"), size=(16, 16))

    with pytest.raises(ValueError, match=said):
        built()


def test_the_foreground_is_the_mask_that_is_asked_for_or_the_only_one():
    task = {"range": {"input": "photo", "loss": "l1", "network": "seed-unet"}}
    recipe = recipe_of(task)
    learned = learned_by(recipe, FIELDS)
    assert foreground_for(recipe, learned, FIELDS) is None  # there are two
    only = {name: field for name, field in FIELDS.items() if name != "near"}
    assert foreground_for(recipe, learned, only).name == "far"
    asked = recipe_of(task, evaluate={"foreground": "near"})
    assert foreground_for(asked, learned, FIELDS).name == "near"
    with pytest.raises(ValueError, match="foreground is 'labels'; a mask of the dataset is needed"):
        foreground_for(recipe_of(task, evaluate={"foreground": "labels"}), learned, FIELDS)


def recipe_of(tasks: dict[str, Any], **keys: Any) -> Recipe:
    needed = {"data": {"url": "x"}, "run": {"folder": "x"}, "train": {"steps": 1}}
    return Recipe.model_validate({**needed, "tasks": tasks, **keys})
