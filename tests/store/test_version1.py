"""Datasets of manifest version 1 are read as before: these were packed by the code of that time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdtrain.fields import DepthFormat, triple_of
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
                arrays = {name: digest(array) for name, array in decode_row(block, row).items()}
                found[key] = {"split": split.name, **arrays, "meta": block.meta(row)}
    assert found == EXPECTED[form]


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_says_what_it_said(form: str) -> None:
    manifest, facts = Manifest.load(str(FOLDER / form)), EXPECTED[f"{form}.facts"]
    assert manifest.version == 1
    assert manifest.digest == facts["digest"]
    assert {name: split.samples for name, split in manifest.splits.items()} == facts["splits"]
    assert list(manifest.fields.values()) == list(triple_of(DepthFormat(**facts["depth"])))
    assert list(map(list, manifest.mean_and_std("overlay"))) == [facts["mean"], facts["std"]]
    assert verify(manifest, lambda done, total: None) == []
