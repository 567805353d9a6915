"""The index of foreign tars opens at any size, and names nothing that it must not."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign import index_of, make_tars
from wdtrain.disk.failures import StoreError
from wdtrain.store import manifest as manifests
from wdtrain.store.foreign import _extents
from wdtrain.store.foreign_index import (
    INDEX_MAGIC,
    members_checksum,
    record_layout,
    sample_checksum,
)
from wdtrain.store.manifest import Manifest, parse_manifest
from wdtrain.stream import Order

MOST_CPU_SECONDS = 4.0
"""Of this process, on a machine that others use as well: it takes 0.6 alone."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("foreign")
    index_of(make_tars(home), home, holdout=0.2)
    found: dict[str, Any] = json.loads((home / "manifest.json").read_bytes())
    return found


def signed(document: dict[str, Any]) -> bytes:
    return manifests.canonical({**document, "digest": manifests.digest_of(document)})


def test_a_billion_samples_open_in_a_second(document: dict[str, Any], tmp_path: Path) -> None:
    """The file of records is a hole in the disk here: nothing of it is read but what is asked."""
    samples, per_shard = 10**9, 8192
    index = document["index"]
    shards = [
        {
            "name": f"https://host.example/some/dataset/data-{number:06d}.tar",
            "samples": min(per_shard, samples - number * per_shard),
            "bytes": 1 << 30,
            "sha256": "0" * 64,
        }
        for number in range(-(-samples // per_shard))
    ]
    num_bytes = len(INDEX_MAGIC) + samples * record_layout(index["key_bytes"], 3).itemsize
    entry = {
        **index,
        "bytes": num_bytes,
        "splits": {"train": {"first_row": 0, "bytes": samples * 10**5}},
    }
    splits = {"train": {"samples": samples, "shards": shards}}
    (tmp_path / "manifest.json").write_bytes(signed({**document, "index": entry, "splits": splits}))
    with (tmp_path / index["name"]).open("wb") as file:
        file.truncate(num_bytes)
    begun = time.process_time()
    manifest = Manifest.load(str(tmp_path))
    order = Order(manifest, "train", seed=1)
    shard, block, row = order.locate(987_654_321)
    found = manifest.split("train").shards[shard]
    first = found.first_row + block * order.block_rows + row
    assert len(manifest.index_file.read(first, 1)) == 1
    assert time.process_time() - begun < MOST_CPU_SECONDS
    assert manifest.split("train").shards[-1].first_row + found.samples > samples - 2 * per_shard


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def act(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = to(document[path[-1]]) if callable(to) else to

    return act


TRAIN = ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (change("index", "name", to="/etc/passwd"), "index.name"),
        (change("index", "name", to="0" * 64 + ".index"), "index.name"),
        (change("index", "key_bytes", to=100), "index.key_bytes"),
        (change("index", "bytes", to=lambda old: old + 1), "index.bytes"),
        (change("index", "block_bytes", to=1 << 50), "index.block_bytes"),
        (change("index", "splits", "train", "first_row", to=60), "first_row"),
        (change("index", "splits", to=lambda old: {"train": old["train"]}), "index.splits"),
        (change("index", "sizes", "largest", to=[99, 32]), "index.sizes.largest"),
        (change("index", "sizes", "smallest", to=[25, 32]), "index.sizes.smallest"),
        (change(*TRAIN, "name", to="a\nb.tar"), "shards.0.name"),
        (change(*TRAIN, "name", to="zip://a.tar::https://host/b.zip"), "shards.0.name"),
        (change(*TRAIN, "name", to="data-001.tar"), "shards.1.name"),
        (change(*TRAIN, "samples", to=3), "splits.train.samples"),
        (change(*TRAIN, "bytes", to=0), "shards.0.bytes"),
        (change(*TRAIN, "sha256", to="x"), "shards.0.sha256"),
        (change(*TRAIN, "sha256", to="0" * 64), "what other splits say of it"),
    ],
)
def test_what_no_index_says_is_refused_by_name(
    document: dict[str, Any], act: Callable[[dict[str, Any]], None], said: str
) -> None:
    assert parse_manifest(signed(document), url="somewhere").samples == 70
    spoilt = json.loads(json.dumps(document))
    act(spoilt)
    with pytest.raises(StoreError, match=said):
        parse_manifest(signed(spoilt), url="somewhere")


@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [
        ("data/a.tar", True),
        ("https://other.example/a.tar", True),
        ("s3://bucket/a.tar", True),
        ("/etc/passwd", False),
        ("data/../../a.tar", False),
        ("file:///etc/passwd", False),
        ("local://etc/passwd", False),
        ("memory://a.tar", False),
    ],
)
def test_a_manifest_from_afar_names_no_file_of_this_machine(
    document: dict[str, Any], name: str, is_allowed: bool
) -> None:
    spoilt = json.loads(json.dumps(document))
    for split in ("train", "val"):
        spoilt["splits"][split]["shards"][0]["name"] = name
    data = signed(spoilt)
    if is_allowed:
        found = parse_manifest(data, url="https://host.example/data").split("train").shards[0]
        assert found.name == name
    else:
        with pytest.raises(StoreError, match=r"shards.0.name"):
            parse_manifest(data, url="https://host.example/data")


def test_an_index_that_was_cut_off_or_is_gone_is_refused(tmp_path: Path) -> None:
    manifest = index_of(make_tars(tmp_path), tmp_path)
    assert manifest.index is not None
    path = tmp_path / manifest.index.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="it was cut off or replaced"):
        _ = Manifest.load(str(tmp_path)).index_file
    path.unlink()
    with pytest.raises(StoreError, match=r"\.index is missing"):
        _ = Manifest.load(str(tmp_path)).index_file


def test_the_records_are_what_the_format_page_says(tmp_path: Path) -> None:
    """Read with nothing of ours."""
    import struct

    import xxhash

    urls = make_tars(tmp_path)
    index_of(urls, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    index = manifest["index"]
    data = (tmp_path / index["name"]).read_bytes()
    assert data[:16] == b"wdtrain-index-1\n"
    width = index["key_bytes"] + 8 + 8 * 3 + 4 * 3
    row = index["splits"]["train"]["first_row"]
    for shard in manifest["splits"]["train"]["shards"]:
        tar = (tmp_path / shard["name"]).read_bytes()
        assert len(tar) == shard["bytes"]
        for _ in range(shard["samples"]):
            record = data[16 + row * width :][:width]
            key, facts = record[: index["key_bytes"]].rstrip(b"\0"), record[index["key_bytes"] :]
            checksum, *places = struct.unpack("<Q3Q3I", facts)
            members = sorted(zip(places[:3], places[3:], strict=True))
            digest = xxhash.xxh64()
            for start, size in members:
                digest.update(tar[start : start + size])
            told = struct.pack("<Q", digest.intdigest()) + key + struct.pack("<3Q3I", *places)
            assert xxhash.xxh64_intdigest(told) == checksum
            assert tar[places[0] :][:2] == b"\xff\xd8"
            row += 1
    assert 16 + row * width == len(data)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), min_size=1, max_size=12
    )
)  # fmt: skip
def test_extents_hold_all_members_and_lie_apart(places: list[tuple[int, int]]) -> None:
    records = np.zeros(len(places), record_layout(4, 1))
    records["starts"][:, 0], records["sizes"][:, 0] = np.array(places).T
    extents = list(zip(*_extents(records), strict=True))
    assert all(a[1] + (64 << 10) < b[0] for a, b in itertools.pairwise(extents))
    for start, size in places:
        assert not size or any(a <= start and start + size <= b for a, b in extents)
    read = sum(stop - start for start, stop in extents)
    assert read <= sum(size for _, size in places) + len(places) * (64 << 10)


def test_the_checksum_knows_what_belongs_to_whom() -> None:
    starts, sizes = np.array([512, 2048]), np.array([3, 4])
    held = members_checksum([b"abc", b"defg"])
    base = sample_checksum(held, b"key", starts, sizes)
    assert base == sample_checksum(held, b"key", starts.astype("<u8"), sizes.astype("<u4"))
    for other in (
        sample_checksum(held, b"kez", starts, sizes),
        sample_checksum(held, b"key", starts[::-1], sizes),
        sample_checksum(held, b"key", starts, sizes[::-1]),
        sample_checksum(members_checksum([b"abc", b"defh"]), b"key", starts, sizes),
    ):
        assert other != base
