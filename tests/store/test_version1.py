"""Datasets of manifest version 1 are read as before: these were packed by the code of that time."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdtrain.fields import DepthField
from wdtrain.packing.verify import verify, walk_blocks
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

FOLDER = Path(__file__).parent / "version1"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
FORMS = ("image-zstd", "image-none", "raw-zstd", "raw-none")


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("form", FORMS)
def test_every_sample_decodes_to_what_it_was(form: str) -> None:
    manifest = Manifest.load(str(FOLDER / form))
    found = {}
    for split in manifest.splits.values():
        for _, _, block in walk_blocks(manifest, split):
            for row, key in enumerate(block.keys):
                values = {name: digest(array) for name, array in decode_row(block, row).items()}
                found[key] = {"split": split.name, **values, "meta": block.meta(row)}
    assert found == EXPECTED[form]


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_says_what_it_said(form: str) -> None:
    manifest, facts = Manifest.load(str(FOLDER / form)), EXPECTED[f"{form}.facts"]
    assert manifest.version == 1
    assert manifest.digest == facts["digest"]
    assert {name: split.samples for name, split in manifest.splits.items()} == facts["splits"]
    assert list(manifest.fields) == ["overlay", "mask", "depth"]
    depth = manifest.fields["depth"]
    assert isinstance(depth, DepthField)
    assert depth.format.as_dict() == facts["depth"]
    assert manifest.image == "overlay"
    assert list(map(list, manifest.mean_and_std("overlay"))) == [facts["mean"], facts["std"]]
    assert verify(manifest, lambda done, total: None) == []


WRONG: dict[str, list[Any]] = {
    "fields.overlay.member": ["overlay.png", "/etc/passwd", 5],
    "fields.overlay.shape": [[24, 32], [24, 32, 4], [32, 24, 3], "x"],
    "fields.mask.dtype": ["uint16", "float32", None],
    "fields.depth.kind": ["other", None],
    "fields.depth.near_m": ["x", float("nan"), 0, -1.0, 20.0, 30, None, True],
    "fields.depth.far_m": [float("inf"), 0.5, "20"],
    "fields.depth.bits": [16, 32, "8", 8.0],
    "fields.meta": [None, {"member": 5}],
    "overlay": [{}, None],
    "overlay.pixels": [0, -1, 1.0, None],
    "overlay.sum": [[1, 2], [-1, 0, 0], [1.0, 2.0, 3.0], "abc", [0, 0, 0]],
    "overlay.square_sum": [[0, 0, 0], [2**70] * 3],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_what_no_packer_wrote_of_the_three_fields_is_named(field: str, tmp_path: Path) -> None:
    from tests.store.test_manifest import check_refused

    folder = tmp_path / "copy"
    shutil.copytree(FOLDER / "image-none", folder)
    check_refused(folder, field, WRONG[field])
