"""The shards of the playground and its like are those that were packed when a sample was a triple.

`packed_before.json` holds the SHA-256 of each shard as the code of manifest version 1 wrote it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disks import Disks
from tests.noise import NoiseSource
from wdtrain.packing.pack import pack
from wdtrain.scenes.playground import Playground

BEFORE: dict[str, Any] = json.loads((Path(__file__).parent / "packed_before.json").read_text())
SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "playground": (Playground(120, 32, difficulty=0.4, seed=3, backgrounds=12, cutouts=10), {}),
    "noise": (NoiseSource(90, 24, bits=16), {}),
    "disks": (Disks(count=90), {}),
    "disks-jpeg": (Disks(count=90, as_jpeg=True), {}),
    "disks-smaller": (Disks(count=90, as_jpeg=True), {"size": 12}),
    "disks-stretched": (Disks(count=90, bits=16), {"size": (20, 20), "fit": "stretch"}),
}


def drawn(source: Any) -> str:
    """Of the pixels that a source makes, before any packing."""
    found = hashlib.sha256()
    for index in range(len(source)):
        for array in source.load(index).arrays.values():
            found.update(
                array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
            )
    return found.hexdigest()


@pytest.mark.parametrize("form", ["image zstd:9", "image none", "raw zstd:9", "raw none"])
@pytest.mark.parametrize("name", SOURCES)
def test_shards_are_byte_for_byte_those_of_version_1(tmp_path: Path, name: str, form: str) -> None:
    source, how = SOURCES[name]
    if drawn(source) != BEFORE[name]["drawn"]:
        pytest.skip("this processor draws other pixels, so their shards are others too")
    encoding, compression = form.split()
    target = tmp_path / "set"
    pack(
        source, target, processes=1, encoding=encoding, compression=compression,
        samples_per_block=8, shard_samples=40, **how,
    )  # fmt: skip
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.glob("*.tar*")
    }
    assert found == BEFORE[name]["shards"][form]
