"""The page on extending: its code is taken from it, packs, trains, scores and predicts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from wdtrain import fields
from wdtrain.fields import ImageField, Sample
from wdtrain.learn.augment import Augmentation, GridWarp
from wdtrain.packing.pack import pack
from wdtrain.targets import target_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
HILLS = 120


def blocks() -> dict[str, str]:
    """Every file of the page, by its name."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Where a person stands: the files of the page, importable."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in blocks().items():
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    fields.register("normals", "normals_field:NormalsField")
    yield folder
    sys.path.remove(str(folder))
    fields.KINDS.pop("normals")


class Slopes:
    """Patches that face somewhere, lit from above: their colours tell their normals."""

    def __init__(self) -> None:
        self.fields = (ImageField("image"), fields.declared("normals", "normals", {}))
        self.description = {"name": "slopes", "count": HILLS}

    def __len__(self) -> int:
        return HILLS

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return indices % 12, indices // 12

    def key(self, index: int) -> str:
        return f"s{index:03d}"

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        tilt = rng.uniform(-0.9, 0.9, (4, 4, 2))
        normal = np.concatenate([tilt, np.ones((4, 4, 1))], 2).repeat(4, 0).repeat(4, 1)
        normal /= np.linalg.norm(normal, axis=2, keepdims=True)
        image = (40 + 200 * (normal + 1) / 2).clip(0, 255).astype(np.uint8)
        normal[:2] = np.nan
        arrays = {"image": image, "normals": self.fields[1].from_array(normal, file="x.npy")}
        meta = {"background": f"b{index % 12}", "cutout": f"c{index // 12}"}
        return Sample(self.key(index), arrays, meta)


def test_a_kind_of_your_own_packs_trains_scores_and_predicts(folder, tmp_path):
    pack(Slopes(), folder / "shards" / "normals", processes=1)
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(folder)}
    how = {"cwd": folder, "env": env, "capture_output": True, "text": True, "timeout": 200}
    train = [sys.executable, str(ROOT / "wdtrain" / "train.py"), "--config", "normals.yaml"]
    small = ["cpu_threads=1", "log.console=plain", "log.trackers=[]", "precision=fp32"]
    done = subprocess.run([*train, *small], check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "runs/normals/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [line["loss/normals"] for line in records if "loss/normals" in line]
    assert len(losses) == 20
    assert losses[-1] < 0.5 * losses[0]
    final = {key: value for line in records for key, value in line.items() if key[:5] == "final"}
    at = "final/val-new-new/normals"
    assert final[f"{at}/mean_angle"] < final[f"{at}/baseline/mean_angle"] < 90
    assert 0 < final[f"{at}/within_30"] <= 1
    assert "mean angle" in (folder / "runs/normals/report.md").read_text()
    picture = Slopes().load(3).arrays["image"]
    assert cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    predict = [sys.executable, str(ROOT / "tools" / "predict"), "runs/normals"]
    given = [*predict, str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    refused = subprocess.run(given, check=False, **how)
    assert refused.returncode == 2
    assert "--trust" in refused.stderr
    done = subprocess.run([*given, "--trust"], check=False, **how)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "out/a.normals.png")).shape == (16, 16, 3)


def test_a_flip_negates_x_and_a_rotation_turns_normals(folder):
    """A field that points away from the middle still does, seen through any warp."""
    y, x = (np.mgrid[:32, :32] - 15.5) / 16
    radial = np.stack([x, y, np.full_like(x, 0.5)], 2)
    field = fields.declared("normals", "normals", {})
    stored = torch.from_numpy(field.from_array(radial, file="x.npy")).permute(2, 0, 1)[None]
    target = target_of(field, {"normals": "normals_target:NormalsTarget"})
    flipped = 0
    for seed in range(12):
        augmentation = Augmentation(seed=seed, zoom=0.0, rotation_deg=60.0)
        drawn = augmentation.draw(["a"], [0])
        flipped += int(drawn.flipped[0])
        truth = target.warped(stored, GridWarp(drawn, (32, 32), torch.device("cpu")))
        expected = target.truth(stored).wanted
        away = (expected[:, :2] ** 2).sum(1, keepdim=True) > 0.2
        near = (truth.wanted * expected).sum(1, keepdim=True)
        assert float(near[truth.known & away].min()) > 0.95
    assert 0 < flipped < 12
