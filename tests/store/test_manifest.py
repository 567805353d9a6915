"""The manifest says what lies there, and is refused when it cannot be what was written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store.errors import StoreError
from wdtrain.store.manifest import Manifest, digest_of, mean_and_std
from wdtrain.store.samples import decode_row
from wdtrain.store.verify import walk_blocks

Packed = Callable[..., Manifest]


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(packed("image", "none").url, target)
    return target


def rewrite(folder: Path, *, redigest: bool = True, **changes: Any) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text()) | changes
    if redigest:
        document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))


def test_loads_from_a_folder_a_path_and_a_url(packed: Packed) -> None:
    manifest = packed()
    for url in (manifest.url, f"{manifest.url}/", f"{manifest.url}/manifest.json"):
        assert Manifest.load(url) == manifest
    remote = Manifest.load(f"file://{manifest.url}")
    assert remote.digest == manifest.digest
    remote.verify()


def test_mean_and_std_are_those_of_the_decoded_train_split(packed: Packed) -> None:
    for encoding in ("image", "raw"):
        manifest = packed(encoding, "zstd:3")
        overlays = [
            decode_row(block, row)[0]
            for _, _, block in walk_blocks(manifest, manifest.split("train"))
            for row in range(block.num_samples)
        ]
        values = np.stack(overlays).reshape(-1, 3) / 255
        np.testing.assert_allclose(manifest.overlay_mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(manifest.overlay_std, values.std(0), rtol=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=40))
def test_mean_and_std_of_whole_number_sums_are_exact(pixels: list[tuple[int, int, int]]) -> None:
    values = np.array(pixels, np.int64)
    sums = {
        "pixels": len(pixels),
        "sum": values.sum(0).tolist(),
        "square_sum": (values**2).sum(0).tolist(),
    }
    mean, std = mean_and_std(sums)
    np.testing.assert_allclose(mean, values.mean(0) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, values.std(0) / 255, rtol=1e-9, atol=1e-12)


def test_names_no_time_host_path_or_number_of_processes(packed: Packed) -> None:
    text = (Path(packed().url) / "manifest.json").read_text()
    assert str(Path(packed().url).parent) not in text
    assert not re.search(r"host|process|created|time|/tmp", text)


def test_refuses_a_manifest_of_a_newer_format(copy: Path) -> None:
    rewrite(copy, version=2)
    with pytest.raises(StoreError, match=r"format version 2.*reads up to 1.*update wdtrain"):
        Manifest.load(str(copy))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"height": 25}, "changed after it was written"),
        ({"format": "other"}, "is not that of a wdtrain-dataset"),
    ],
)
def test_refuses_a_changed_manifest(copy: Path, change: dict[str, Any], why: str) -> None:
    rewrite(copy, redigest=False, **change)
    with pytest.raises(StoreError, match=why):
        Manifest.load(str(copy))


def test_refuses_shard_names_that_leave_the_folder(copy: Path) -> None:
    document = json.loads((copy / "manifest.json").read_text())
    document["splits"]["train"]["shards"][0]["name"] = "../train-000000.tar"
    rewrite(copy, splits=document["splits"])
    with pytest.raises(StoreError, match="no packer writes"):
        Manifest.load(str(copy))


def test_refuses_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json.*pack-shards"):
        Manifest.load(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="not readable JSON"):
        Manifest.load(str(tmp_path))


def test_verify_finds_a_missing_and_a_changed_shard(copy: Path) -> None:
    manifest = Manifest.load(str(copy))
    manifest.verify()
    shard = copy / manifest.split("train").shards[0].name
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=f"{shard.name}.*SHA-256"):
        manifest.verify()
    shard.unlink()
    with pytest.raises(StoreError, match=f"{shard.name} .* is missing"):
        manifest.verify()


def test_an_unknown_split_is_refused_with_those_there_are(packed: Packed) -> None:
    with pytest.raises(StoreError, match="no split 'test'; it has train, val-"):
        packed().split("test")
