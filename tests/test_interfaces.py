"""The stable names that others build on: a change here breaks somebody's program."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import torch

from wdtrain import networks
from wdtrain.config import Recipe, recipe_keys
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Batch, Cursor, open_stream
from wdtrain.targets import TARGETS, losses, metrics

ROOT = Path(__file__).resolve().parent.parent
KEYS = (
    "data.url data.lanes data.chunk run.folder train.steps train.batch_size train.epochs "
    "checkpoint.every_steps log.every_steps step.micro_batch memory precision "
    "tasks.NAME.network tasks.NAME.loss"
)


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_pack_and_open_stream_keep_their_arguments() -> None:
    wanted = {"source", "target", "encoding", "compression", "size", "processes", "seed"}
    assert wanted | {"part", "engine"} <= set(parameters(pack))
    packing = inspect.signature(pack).parameters
    assert (packing["part"].default, packing["engine"].default) == (None, "processes")
    assert (packing["fit"].default, packing["max_rejects"].default) == (None, 0.001)
    assert parameters(open_stream)[:13] == [
        "url", "split", "batch_size", "seed", "rank", "world", "threads", "cursor", "epochs",
        "size", "lanes", "chunk", "fields",
    ]  # fmt: skip
    defaults = inspect.signature(open_stream).parameters
    assert (defaults["epochs"].default, defaults["lanes"].default) == (1, 32)
    assert defaults["chunk"].default == 32


def test_manifest_batch_and_cursor_keep_their_names() -> None:
    assert callable(Manifest.load)
    assert callable(Manifest.verify)
    fields = {*Batch.__dataclass_fields__, *vars(Batch)}
    assert {"fields", "__getitem__", "__len__", "keys", "chunks", "cursor"} <= fields
    assert {"position", "samples", "digest"} <= set(Cursor.__dataclass_fields__)
    assert Cursor(70, 32, "d").epoch == 2


def test_networks_losses_and_metrics_keep_their_names() -> None:
    assert isinstance(networks.build("seed-mask"), torch.nn.Module)
    assert {"bce", "bce+dice", "l1", "smooth-l1"} <= set(TARGETS["mask"].losses)
    assert {"l1", "smooth-l1", "bce"} <= set(TARGETS["depth"].losses)
    assert {"ce", "ce+dice", "focal"} <= set(TARGETS["classes"].losses)
    assert callable(losses.mean_over_valid)
    assert callable(metrics.mask_metrics)
    assert callable(metrics.classes_metrics)
    assert callable(metrics.depth_metrics)


def test_recipes_keep_their_keys() -> None:
    assert set(KEYS.split()) <= {key for key, _, _ in recipe_keys(Recipe)}


def test_the_readme_names_what_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    for word in text.replace("(", " ").replace(")", " ").split():
        if word.startswith(("tools/", "recipes/", "docs/")) and "*" not in word:
            assert (ROOT / word.rstrip(".,:`")).exists(), word


def test_log_lines_keep_their_names(tmp_path: Path) -> None:
    from wdtrain.record.runlog import RunLog, read_log

    with RunLog(tmp_path) as log:
        log.append({"step": 1, "loss/mask": 0.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss/mask": 0.5}
    assert list(read_log(tmp_path)) == [{"step": 1, "loss/mask": 0.5}]
