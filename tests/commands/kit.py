"""A run that predicts without having been trained: a recipe and a checkpoint of first weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from wdtrain.fields import DepthFormat, triple_of
from wdtrain.networks import build
from wdtrain.record.checkpoint import Checkpoints, save_weights

SIDE = 16
RECIPE = """data: {url: "URL", lanes: 4, chunk: 4}
run: {folder: anywhere}
train: {batch_size: 8, steps: 1}
precision: fp32
tasks: {mask: {network: seed-mask, loss: bce}, depth: {network: seed-unet, loss: l1}}
"""


def make_run(folder: Path, url: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(RECIPE.replace("URL", url))
    checkpoints = Checkpoints(folder / "checkpoints")
    aside = checkpoints.begin(1)
    for task, network in (("mask", "seed-mask"), ("depth", "seed-unet")):
        save_weights(aside / f"{task}.safetensors", build(network, init_seed=1).state_dict())
    normalisations = {"overlay": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    learned = {
        field.name: {"input": "overlay", "field": field.name, "declared": field.as_dict()}
        for field in triple_of(DepthFormat())
    }
    learned["other"] = learned["mask"]
    about = {"view": {"normalisations": normalisations, "precision": "fp32"}, "learned": learned}
    checkpoints.commit(1, {**about, "side": SIDE}, metric=0.5)
    return folder


def soft_picture(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """uint8 [height, width, 3], one of its own for each number."""
    few = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC)


def write_picture(path: Path, number: int = 0, height: int = 24, width: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), soft_picture(number, height, width)[..., ::-1])
    return path


def below(folder: Path) -> set[str]:
    """The files below a folder, without the record."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files if path.name[0] != "."}


def results(*names: str) -> set[str]:
    return {f"{name}.{what}.png" for name in names for what in ("mask", "depth", "preview")}
