"""An index says where the samples of other people's tars lie, or why they cannot be used."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from tests.foreign import (
    FIELDS,
    Members,
    index_of,
    jpeg,
    make_tars,
    members_of,
    name_of,
    npy,
    plain_key,
    png,
    write_tar,
)
from wdtrain.disk.failures import StoreError
from wdtrain.disk.locks import take
from wdtrain.fields import ClassesField, DepthField, FieldError, ImageField, MaskField
from wdtrain.packing.foreign_records import ForeignRecords
from wdtrain.packing.foreign_scan import ForeignField, scan_layout
from wdtrain.packing.verify import verify, walk_blocks
from wdtrain.store.manifest import Manifest

IMAGE = ForeignField(ImageField("image"), ("jpg",))


def keys_of(manifest: Manifest, split: str) -> list[str]:
    return [
        key for _, _, block in walk_blocks(manifest, manifest.split(split)) for key in block.keys
    ]


def without(*endings: str) -> Callable[[int], Members]:
    """Every tenth sample lacks these members."""

    def members(number: int) -> Members:
        found = members_of(number)
        return [each for each in found if number % 10 or each[0] not in endings]

    return members


@pytest.mark.filterwarnings("ignore")
def test_every_member_is_the_one_that_webdataset_finds(tmp_path: Path) -> None:
    import webdataset

    urls = make_tars(tmp_path)
    manifest = index_of(urls, tmp_path / "index")
    expected = {
        plain_key(sample["__key__"]): [sample[e] for e in ("jpg", "seg.png", "depth.npy")]
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    }
    found = {
        key: [bytes(data) for data in block.members(row)]
        for _, _, block in walk_blocks(manifest, manifest.split("train"))
        for row, key in enumerate(block.keys)
    }
    assert found == expected
    assert list(found) == list(expected)
    assert len(found) == manifest.samples == 70
    assert verify(manifest, lambda done, total: None) == []


def test_the_same_tars_give_the_same_bytes(
    tmp_path: Path, folder_bytes: Callable[[Path], dict[str, bytes]]
) -> None:
    """And name their place from the folder on, where they lie in it; whatever a killed one left."""
    found = []
    for home in (tmp_path / "a", tmp_path / "b"):
        urls = make_tars(home / "data")
        if home.name == "b":
            (home / ".indexing").mkdir()
            (home / ".indexing" / "records").write_bytes(b"of one that was killed")
        index_of(urls, home, holdout=0.2)
        found.append(folder_bytes(home))
    assert found[0] == found[1]
    names = [name for name in found[0] if not name.startswith("data/")]
    document = json.loads(found[0]["manifest.json"])
    assert sorted(names) == sorted(["manifest.json", document["index"]["name"]])
    shards = document["splits"]["train"]["shards"]
    assert [shard["name"] for shard in shards] == [f"data/data-00{n}.tar" for n in range(3)]


def test_a_moved_folder_with_its_tars_is_read_as_before(tmp_path: Path) -> None:
    keys = keys_of(index_of(make_tars(tmp_path / "a" / "data"), tmp_path / "a"), "train")
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    assert keys_of(Manifest.load(str(tmp_path / "elsewhere")), "train") == keys


def test_held_out_samples_are_in_no_other_split(tmp_path: Path) -> None:
    urls = make_tars(tmp_path)
    manifest = index_of(urls, tmp_path / "index", holdout=0.2)
    train, val = keys_of(manifest, "train"), keys_of(manifest, "val")
    assert sorted(train + val) == sorted(plain_key(name_of(i)) for i in range(70))
    assert len(val) == 14
    other = index_of(urls, tmp_path / "other", holdout=0.2, seed=1)
    assert set(keys_of(other, "val")) != set(val)


def test_a_group_lies_whole_on_one_side(tmp_path: Path) -> None:
    manifest = index_of(make_tars(tmp_path), tmp_path / "index", holdout=0.34, group=r"scene(\d+)/")
    train, val = ({key.split("__")[0] for key in keys_of(manifest, s)} for s in ("train", "val"))
    assert not train & val
    assert len(val) == 2
    assert len(train) == 4


def test_all_of_train_is_what_its_mean_is_of(tmp_path: Path) -> None:
    manifest = index_of(make_tars(tmp_path), tmp_path / "index")
    import simplejpeg

    pixels = np.stack([simplejpeg.decode_jpeg(jpeg(i), "RGB") for i in range(70)])
    mean, std = manifest.mean_and_std("image")
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)) / 255)


# ------------------------------------------------------------------ what cannot be used


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (plain,) = make_tars(tmp_path, 5)
    packed = tmp_path / "data.tar"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    with pytest.raises(StoreError, match=r"is compressed .gzip.*; unpack it .gzip -dc. and give"):
        index_of([str(packed)], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_sample_without_a_field_is_rejected_with_its_reason(tmp_path: Path) -> None:
    urls = make_tars(tmp_path, members=without("seg.png"))
    with pytest.raises(StoreError, match=r"7 of 70 samples.*7 x missing mask.*--max-rejects"):
        index_of(urls, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    manifest = index_of(urls, tmp_path / "index", max_rejects=0.1)
    assert manifest.samples == 63
    assert manifest.rejects["count"] == 7
    first = manifest.rejects["list"][0]
    assert first["key"] == "scene0/00000"
    assert first["reason"].startswith("missing mask: no member ends on seg.png, only on cls, jpg")


def test_an_optional_field_may_be_missing(tmp_path: Path) -> None:
    urls = make_tars(tmp_path, members=without("seg.png"))
    fields = (IMAGE, ForeignField(MaskField("mask", foreground=(1,), optional=True), ("seg.png",)))
    assert index_of(urls, tmp_path / "index", fields).samples == 70


def test_where_no_sample_can_be_used_it_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        index_of(make_tars(tmp_path), tmp_path / "i", [ForeignField(ImageField("image"), ("png",))])
    assert "its members end on cls, seg.png, jpg, json, depth.npy" in str(refused.value)
    assert "--field 'image=image:png' was asked for" in str(refused.value)


def test_what_a_declaration_leaves_open_is_asked_at_once(tmp_path: Path) -> None:
    """Not at the millionth sample, nor in training."""

    def members(number: int) -> Members:
        return [("jpg", jpeg(number)), ("png", png(np.full((24, 32), 1500, np.uint16)))]

    fields = (IMAGE, ForeignField(DepthField.declared("depth", {}), ("png",)))
    with pytest.raises((StoreError, FieldError), match="unit=mm"):
        index_of(make_tars(tmp_path, members=members), tmp_path / "index", fields)


def test_values_that_are_none_of_the_field_are_asked_at_once(tmp_path: Path) -> None:
    fields = (IMAGE, ForeignField(ClassesField.declared("labels", {"classes": "2"}), ("png",)))

    def members(number: int) -> Members:
        return [("jpg", jpeg(number)), ("png", png(np.full((24, 32), 7, np.uint8)))]

    with pytest.raises((StoreError, FieldError), match="7"):
        index_of(make_tars(tmp_path, members=members), tmp_path / "index", fields)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("jpg", b"")], "image of a size that cannot be"),
        ([("jpg", jpeg(1)), ("jpeg", jpeg(2))], "more than one image"),
        ([("jpg", b"no picture")], "cannot be decoded"),
        (
            [("jpg", jpeg(1)), ("m.png", png(np.zeros((9, 9), np.uint8)))],
            "members of different sizes",
        ),
    ],
)
def test_a_sample_that_cannot_be_is_left_out(tmp_path: Path, members: Members, reason: str) -> None:
    samples = [(f"{i}", members_of(i)) for i in range(20)]
    path = write_tar(tmp_path / "a.tar", [*samples, ("bad", members)])
    fields = (
        ForeignField(ImageField("image"), ("jpg", "jpeg")),
        ForeignField(MaskField("mask", foreground=(1,), optional=True), ("m.png",)),
    )
    manifest = index_of([str(path)], tmp_path / "index", fields, max_rejects=0.1)
    assert manifest.samples == 20
    assert manifest.rejects["list"][0]["key"] == "bad"
    assert reason in manifest.rejects["list"][0]["reason"]


def test_what_is_left_out_is_not_asked_about(tmp_path: Path) -> None:
    trimap = np.zeros((9, 9), np.uint8)
    trimap[3:6], trimap[6:] = 128, 255
    whole = np.repeat(np.array([[0, 255]], np.uint8), 12, 0).repeat(16, 1).repeat(2, 0)
    good = [("jpg", jpeg(1)), ("m.png", png(whole))]
    others = [(f"other{i}", [("jpg", jpeg(i)), ("m.png", png(trimap))]) for i in range(20)]
    path = write_tar(tmp_path / "a.tar", [*others, ("good", good)])
    fields = (IMAGE, ForeignField(MaskField("mask"), ("m.png",)))
    manifest = index_of([str(path)], tmp_path / "index", fields, max_rejects=1)
    assert (manifest.samples, manifest.rejects["count"]) == (1, 20)


def members_by_key(manifest: Manifest) -> dict[str, bytes]:
    blocks = [block for _, _, block in walk_blocks(manifest, manifest.split("train"))]
    return {key: bytes(b.members(row)[0]) for b in blocks for row, key in enumerate(b.keys)}


def test_of_samples_with_one_name_the_first_stays(tmp_path: Path) -> None:
    samples = [(f"{i}", members_of(i)) for i in range(20)]
    path = write_tar(tmp_path / "a.tar", [*samples, ("8", members_of(50)), ("9", members_of(51))])
    manifest = index_of([str(path)], tmp_path / "index", max_rejects=0.2)
    assert manifest.samples == 20
    assert manifest.rejects["count"] == 2
    assert "duplicate name: " in manifest.rejects["list"][0]["reason"]
    assert members_by_key(manifest)["a__8"] == jpeg(8)


def test_tars_that_each_count_from_0_tell_their_samples_apart(tmp_path: Path) -> None:
    """By their own names, as packing does it."""
    urls = [
        str(write_tar(tmp_path / f"{tar}.tar", [(f"{i}", members_of(i + at)) for i in range(10)]))
        for at, tar in ((0, "a"), (10, "b"))
    ]
    found = members_by_key(index_of(urls, tmp_path / "index"))
    assert found == {
        f"{tar}__{i}": jpeg(i + at) for at, tar in ((0, "a"), (10, "b")) for i in range(10)
    }


def test_duplicates_are_found_in_any_number_of_passes(tmp_path: Path) -> None:
    names = [b"a", b"b", b"a", b"c", b"b", b"a"]
    layout = scan_layout(1)
    table = np.zeros(len(names), layout)
    table["name_at"], table["name_bytes"] = np.arange(len(names)), 1
    table["name_hash"] = [xxhash.xxh3_64_intdigest(name) for name in names]
    table["name_hash"][3] = table["name_hash"][0]  # a collision rejects nothing
    (tmp_path / "names").write_bytes(b"".join(names))
    for passes in (1, 3, 6):
        (tmp_path / "records").write_bytes(table.tobytes())
        records = ForeignRecords(tmp_path / "records", tmp_path / "names", layout)
        found = sorted(records.leave_out_duplicates(keys_a_pass=-(-len(names) // passes)))
        assert found == [(2, "a", 0), (4, "b", 1), (5, "a", 0)]


def test_a_folder_with_a_manifest_is_not_written_over(tmp_path: Path) -> None:
    urls = make_tars(tmp_path)
    index_of(urls, tmp_path / "index")
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=r"holds a manifest.json already"):
        index_of(urls, tmp_path / "index", holdout=0.5)
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["gone.tar"], "is not there"),
        (["https://user:secret@host/a.tar"], "a user, a password or a query"),
        (["https://host/a.tar?sig=secret"], "a user, a password or a query"),
    ],
)
def test_urls_that_cannot_be_are_refused(tmp_path: Path, urls: list[str], said: str) -> None:
    with pytest.raises(StoreError, match=said) as refused:
        index_of(urls, tmp_path / "index")
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "index").exists()


def test_fields_that_cannot_be_are_refused(tmp_path: Path) -> None:
    urls = make_tars(tmp_path, 3)
    for fields, said in (
        (FIELDS[1:], "no field of kind image"),
        ((IMAGE, IMAGE), "the field image is declared twice"),
        ((IMAGE, ForeignField(MaskField("mask"), ("jpg",))), "the ending jpg is declared twice"),
    ):
        with pytest.raises(StoreError, match=said):
            index_of(urls, tmp_path / "index", fields)
    with pytest.raises(StoreError, match="given twice"):
        index_of([*urls, urls[0]], tmp_path / "index")


def test_a_folder_is_indexed_by_one_at_a_time(tmp_path: Path) -> None:
    urls = make_tars(tmp_path, 3)
    (tmp_path / "index").mkdir()
    held = take(tmp_path / "index" / ".indexing.lock")
    try:
        with pytest.raises(StoreError, match="is being indexed by another process"):
            index_of(urls, tmp_path / "index")
    finally:
        os.close(held)
    assert index_of(urls, tmp_path / "index").samples == 3
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert len(names) == 2


def test_a_depth_array_of_another_layout_is_of_its_own_size(tmp_path: Path) -> None:
    fields = (IMAGE, ForeignField(DepthField.declared("depth", {"unit": "m"}), ("npy",)))

    def members(number: int) -> Members:
        return [("jpg", jpeg(number)), ("npy", npy(np.full((24, 32, 1), 2.0, np.float32)))]

    assert index_of(make_tars(tmp_path, members=members), tmp_path / "i", fields).samples == 70
