"""Damage is found and named; a leak is proven from the samples, not from the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.disks import FORMS, Disks
from tests.store.blocks import block_of, samples_of
from tests.stream.spoiling import rewrite
from wdtrain.commands.contact_sheet import contact_sheet
from wdtrain.fields import DepthField, DepthFormat
from wdtrain.fields.source import SPLITS
from wdtrain.packing.audit import audit
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Splitter
from wdtrain.packing.verify import verify
from wdtrain.store.manifest import Manifest, digest_of

Packed = Callable[..., Manifest]


def silent(done: int, total: int) -> None:
    """Shows no progress."""


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_a_whole_dataset_has_no_problems(packed: Packed, encoding: str, compression: str) -> None:
    calls: list[tuple[int, int]] = []
    assert verify(packed(encoding, compression), lambda *call: calls.append(call)) == []
    assert calls[-1] == (300, 300)
    found = audit(packed(encoding, compression), silent)
    assert found.problems == []
    assert {name: parts.samples for name, parts in found.splits.items()} == {
        name: split.samples for name, split in packed(encoding, compression).splits.items()
    }


@pytest.fixture(params=["zstd:3", "none"])
def copy(packed: Packed, tmp_path: Path, request: pytest.FixtureRequest) -> Manifest:
    shutil.copytree(packed("image", request.param).url, tmp_path / "copy")
    return Manifest.load(str(tmp_path / "copy"))


def flip(manifest: Manifest, at: int) -> str:
    shard = manifest.split("train").shards[0]
    path = Path(manifest.shard_url(shard))
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return shard.name


def test_a_flipped_byte_anywhere_in_a_shard_is_found_and_named(copy: Manifest) -> None:
    shard = copy.split("train").shards[0]
    whole = Path(copy.shard_url(shard)).read_bytes()
    step = len(whole) // 23
    for at in [*range(0, len(whole), step), len(whole) - 1]:
        name = flip(copy, at)
        problems = verify(copy, silent)
        assert problems, f"byte {at}"
        assert all(name in problem for problem in problems)
        Path(copy.shard_url(shard)).write_bytes(whole)


def test_damage_in_the_first_block_is_named_by_block(copy: Manifest) -> None:
    name = flip(copy, 700)
    assert verify(copy, silent)[0].startswith(f"shard {name}, block 0 is damaged")


def test_a_missing_shard_is_named_and_the_others_are_checked_still(copy: Manifest) -> None:
    first, second = copy.split("train").shards[:2]
    Path(copy.shard_url(first)).unlink()
    path = Path(copy.shard_url(second))
    path.write_bytes(path.read_bytes()[:-1])
    problems = verify(copy, silent)
    assert len(problems) == 2
    assert f"shard {first.name} is missing" in problems[0]
    assert f"shard {second.name} holds" in problems[1]


def test_wrong_sums_are_found(copy: Manifest) -> None:
    path = Path(copy.url) / "manifest.json"
    document = json.loads(path.read_text())
    document["statistics"]["overlay"]["sum"][0] += 1
    document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))
    assert "the sums of overlay differ" in verify(Manifest.load(copy.url), silent)[0]


def test_audit_finds_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = Splitter.codes

    def leaky(self: Splitter, indices: np.ndarray, *parts: np.ndarray) -> np.ndarray:
        return np.where(indices % 17 == 0, 0, codes(self, indices, *parts)).astype(np.int8)

    monkeypatch.setattr(Splitter, "codes", leaky)
    manifest = pack(Disks(), tmp_path / "set", processes=1)
    problems = audit(manifest, silent).problems
    assert any("train and val-new-seen share 1 backgrounds" in problem for problem in problems)
    assert any("cut-outs" in problem for problem in problems)


def test_audit_finds_keys_that_come_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdtrain.packing.pack.find_duplicates", lambda *arguments: {})
    manifest = pack(Disks(twins={5: 3}), tmp_path / "set", processes=1)
    assert audit(manifest, silent).problems == ["1 keys come more than once in the dataset"]


def test_a_contact_sheet_shows_the_stored_pixels(packed: Packed) -> None:
    manifest = packed("raw", "none")
    sheet = contact_sheet(manifest, split="train", count=5)
    factor = -(-128 // 24)
    assert sheet.shape == (2 * (24 * factor + 6 + 18), 3 * (3 * 32 * factor + 12), 3)
    from wdtrain.packing.verify import walk_blocks
    from wdtrain.store.samples import decode_row

    _, _, block = next(walk_blocks(manifest, manifest.split("train")))
    overlay, mask, _ = decode_row(block, 0).values()
    shown = sheet[6 : 6 + 24 * factor : factor, 6:]
    np.testing.assert_array_equal(shown[:, : 32 * factor : factor], overlay)
    shown_mask = shown[:, 32 * factor : 64 * factor : factor, 0]
    np.testing.assert_array_equal(shown_mask, mask)


def test_depth_is_coloured_from_near_to_far_and_grey_where_unknown() -> None:
    field = DepthField("z", format=DepthFormat(), unit="codes")
    colours = field.preview(np.array([[0, 1, 128, 255]], np.uint8))[0].astype(int)
    assert colours[0].tolist() == [128, 128, 128]
    assert colours[1].sum() > colours[2].sum() > colours[3].sum()


def test_every_split_has_its_name_in_one_place() -> None:
    assert SPLITS[0] == "train"
    assert len(set(SPLITS)) == len(SPLITS)


def test_a_key_that_comes_twice_in_a_shard_is_named(packed: Packed, tmp_path: Path) -> None:
    data = packed("image", "zstd:3")

    def twice(shard: int, block: int, content: bytes) -> bytes:
        samples = samples_of(content, data)
        if (shard, block) == (0, 1):
            samples[3] = (first[0], samples[3][1])
        first.append(samples[0][0])
        return block_of(samples)

    first: list[str] = []
    problems = verify(rewrite(data, tmp_path / "twice", twice), silent)
    assert [problem for problem in problems if "more than once" in problem] == [
        f"shard train-000000.tar.zst, block 1: key {first[0]} comes more than once in the shard"
    ]
