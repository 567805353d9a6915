"""The manifest describes what is stored, and is refused when it cannot be what was written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.datasets import MANY, document_of, manifest_of
from tests.store.test_version1 import FOLDER
from wdtrain.disk.failures import StoreError
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest, digest_of, mean_and_std, parse_manifest
from wdtrain.store.samples import decode_row

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
            decode_row(block, row)["overlay"]
            for _, _, block in walk_blocks(manifest, manifest.split("train"))
            for row in range(block.num_samples)
        ]
        values = np.stack(overlays).reshape(-1, 3) / 255
        mean, std = manifest.mean_and_std(manifest.image)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(std, values.std(0), rtol=1e-9)


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
    rewrite(copy, version=3)
    with pytest.raises(StoreError, match=r"format version 3.*reads up to 2.*update wdtrain"):
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


SHARD = "splits.train.shards.0"
WRONG = {
    "encoding": ["jpeg", None, 1],
    "compression": ["lz4", "zstd:0", "zstd:23", "zstd:-8", "none\n", None],
    "height": [0, -24, 2**31, 2**70, 24.0, "24", None, True, [24]],
    "width": [0, 65_536, 1.5],
    "samples_per_block": [0, -1, 1.5, "16", 2**22, None],
    "fields": [None, [], {}],
    "splits": [[], {}, None, {"train": 1}, {"../x": {"samples": 0, "shards": []}}],
    "splits.train.samples": [2**62, -8, 8.0, "8", True, 2**80],
    "splits.train.shards": [None, {}, "x", [1], [[]]],
    f"{SHARD}.name": ["../train-000000.tar", "train-000000.tar.zst", "/a.tar", "", None, 5,
                      "train-000001.tar", "val-seen-seen-000000.tar"],
    f"{SHARD}.samples": [2**62, -8, 0, 1, 8.0, None, True],
    f"{SHARD}.bytes": [-1, 0, "x", 1e6, None, 2**60, 1024],
    f"{SHARD}.sha256": [5, "xyz", "A" * 64, None, ["a"] * 64],
    f"{SHARD}.blocks": [None, [], [[1]], [[1, "xyz"]], 7, {}],
    f"{SHARD}.blocks.0": [1, [1, "0" * 16], [-4096, "0" * 16], ["x", "y"], []],
    f"{SHARD}.blocks.0.1": ["xyz", 5, "0x" + "0" * 14, "_" * 16, None],
    "settings": [None, []],
    "source": ["x"],
    "rejects": [[], {"count": "0", "reasons": {}, "list": []}, {"count": 0}],
}  # fmt: skip


def check_refused(folder: Path, field: str, values: list[Any]) -> None:
    """A manifest is refused, naming the field, with each of these values in it."""
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    *above, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    for value in values:
        document = json.loads(json.dumps(whole))
        inner = document
        for part in above:
            inner = inner[part]
        inner[last] = value
        document["digest"] = digest_of(document)
        path.write_text(json.dumps(document))
        with pytest.raises(StoreError, match="is not one that a packer writes: ") as caught:
            Manifest.load(str(folder))
        named = str(caught.value).partition(": ")[2].split(" is ")[0]
        top = field.split(".")[0]
        assert named.split(".")[0] == top, named
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("field", WRONG)
def test_a_field_that_no_packer_writes_is_named(copy: Path, field: str) -> None:
    check_refused(copy, field, WRONG[field])


def test_an_unknown_name_is_passed_over_and_a_missing_one_is_not(copy: Path) -> None:
    path = copy / "manifest.json"
    whole = json.loads(path.read_text())
    rewrite(copy, remark="ours")
    assert Manifest.load(str(copy)).samples == 300
    for name in whole.keys() - {"format", "version", "digest"}:
        document = {key: value for key, value in whole.items() if key != name}
        path.write_text(json.dumps({**document, "digest": digest_of(document)}))
        with pytest.raises(StoreError, match=f"{name} is missing"):
            Manifest.load(str(copy))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format":' * 100_000, "1" * 5000, "\xff", ""])
def test_json_that_no_parser_takes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"manifest\.json .* is not"):
        Manifest.load(str(tmp_path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
)


def documents(packed: Packed) -> dict[str, Any]:
    """Manifests of both versions, of compressed and uncompressed datasets, of few and many
    fields."""
    old = FOLDER / "image-none" / "manifest.json"
    shard = {"name": "train-0.tar.zst", "samples": 8, "bytes": 9999, "sha256": "0" * 64}
    found = {"old": json.loads(old.read_text()), "many": document_of(manifest_of(MANY), [shard])}
    for compression in ("none", "zstd:3"):
        path = Path(packed("image", compression).url) / "manifest.json"
        found[compression] = json.loads(path.read_text())
    return found


@given(data=st.data())
def test_whatever_a_manifest_says_it_is_read_or_refused_in_our_words(
    packed: Packed, data: st.DataObject
) -> None:
    document = data.draw(st.sampled_from(list(documents(packed).values())))
    for _ in range(data.draw(st.integers(1, 3))):
        inner: Any = document
        while isinstance(inner, dict | list) and inner:
            keys = list(inner) if isinstance(inner, dict) else list(range(min(9, len(inner))))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(inner[key], dict | list) or data.draw(st.integers(0, 4)) == 0:
                inner[key] = data.draw(VALUES)
                break
            inner = inner[key]
    document["digest"] = digest_of(document)
    with suppress(StoreError):
        found = parse_manifest(json.dumps(document).encode(), url="somewhere")
        assert found.samples == sum(
            s.samples for split in found.splits.values() for s in split.shards
        )
        assert all(np.isfinite(found.mean_and_std(image)).all() for image in found.sums)
        assert all(field.name == name for name, field in found.fields.items())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(StoreError):
        parse_manifest(data, url="somewhere")


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
