"""A source that is divided already keeps its split, unless it is told to be dealt anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.disks import Disks, write_folder, write_triple
from wdtrain.commands import pack_shards
from wdtrain.disk.failures import StoreError
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import walk_blocks
from wdtrain.record.scores import check_splits
from wdtrain.sources.folder import FolderSource
from wdtrain.store.manifest import Manifest

SMALL: dict[str, Any] = {"processes": 1, "samples_per_block": 8, "say": lambda text: None}


def divided(top: Path, **folders: int) -> Path:
    """A folder with so many triples in each of these folders below."""
    first = 0
    top.mkdir()
    for name, count in folders.items():
        (top / name).mkdir(parents=True)
        for index in range(first, first + count):
            write_triple(top / name, Disks(count=200).load(index))
        first += count
    return top


def keys_of(manifest: Manifest, split: str) -> set[str]:
    return {
        key for _, _, block in walk_blocks(manifest, manifest.split(split)) for key in block.keys
    }


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"train": 20, "val": 8}, {"train": 20, "val": 8}),
        ({"Training": 20, "valid": 8, "validation": 3}, {"train": 20, "val": 11}),
        ({"train": 20, "dev": 5, "test": 6}, {"train": 20, "val": 5, "test": 6}),
        ({"train": 20, "test": 6}, {"train": 20, "test": 6}),
    ],
)
def test_folders_of_a_split_are_that_split(
    tmp_path: Path, folders: dict[str, int], splits: dict[str, int]
) -> None:
    source = divided(tmp_path / "in", **folders)
    manifest = pack(FolderSource(source), tmp_path / "set", **SMALL)
    assert {name: split.samples for name, split in manifest.splits.items()} == splits
    assert all(key.lower().startswith("train") for key in keys_of(manifest, "train"))
    assert pack(FolderSource(source), tmp_path / "set", **SMALL) == manifest
    dealt = pack(FolderSource(source), tmp_path / "dealt", **SMALL, splits="deal")
    assert any(name.startswith("val-") for name in dealt.splits)
    assert dealt.settings["splits"] == "deal"


def test_a_folder_above_the_split_does_not_hide_it(tmp_path: Path) -> None:
    divided(tmp_path / "in", train=12, val=4)
    (tmp_path / "above").mkdir()
    (tmp_path / "in").rename(tmp_path / "above" / "data")
    manifest = pack(FolderSource(tmp_path / "above"), tmp_path / "set", **SMALL)
    assert keys_of(manifest, "val") == {f"data__val__disk-{index:06d}" for index in range(12, 16)}


def test_a_source_of_which_only_a_part_is_divided_is_refused(tmp_path: Path) -> None:
    source = divided(tmp_path / "in", train=8, val=4, more=3)
    with pytest.raises(
        StoreError, match=r"train/ 8, val/ 4\), yet 3 samples lie outside .*more/disk-000012.*deal"
    ):
        pack(FolderSource(source), tmp_path / "set", **SMALL)
    assert not (tmp_path / "set").exists()
    assert pack(FolderSource(source), tmp_path / "set", **SMALL, splits="deal").samples == 15


def test_what_is_not_divided_is_dealt_and_own_is_refused(tmp_path: Path) -> None:
    for folders in ({"train": 20}, {"a": 10, "b": 10}, {"val": 10, "test": 10}):
        source = divided(tmp_path / f"in-{len(folders)}{'a' in folders}", **folders)
        with pytest.raises(StoreError, match=r"splits 'own': the source is not divided"):
            pack(FolderSource(source), tmp_path / "set", **SMALL, splits="own")
        manifest = pack(FolderSource(source), tmp_path / f"{source.name}-set", **SMALL)
        assert manifest.settings["splits"] == "deal"
    with pytest.raises(ValueError, match=r"splits 'mine' is not known; it must be auto, own, deal"):
        pack(FolderSource(source), tmp_path / "set", **SMALL, splits="mine")


def test_that_the_split_is_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = divided(tmp_path / "in", train=20, val=4)
    arguments = [str(source), str(tmp_path / "set"), "--processes", "1"]
    assert pack_shards.main(arguments) == 0
    said = capsys.readouterr()
    assert "divided already (train/ 20, val/ 4), and that split is kept; --splits deal" in said.err
    assert "train 20, val 4" in said.out
    assert pack_shards.main([*arguments, "--splits", "deal"]) == 2
    assert "another source or other settings" in capsys.readouterr().err


def test_kinds_that_pass_for_backgrounds_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "in", Disks(count=80))
    for index, path in enumerate(sorted(folder.glob("disk*.json"))):
        path.write_text('{"background": "%s"}' % ("indoor" if index % 2 else "outdoor"))
    arguments = [str(folder), str(tmp_path / "set"), "--processes", "1"]
    assert pack_shards.main(arguments) == 0
    said = capsys.readouterr().err
    assert "50% of the samples are held out of training, " in said
    assert "only 2 different backgrounds (indoor, outdoor)" in said
    assert "--holdout-backgrounds 0" in said
    arguments[1] += "-2"
    assert pack_shards.main([*arguments, "--holdout-backgrounds", "0"]) == 0
    assert "held out" not in capsys.readouterr().err


def test_a_part_that_is_null_is_not_known(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", Disks(count=40))
    for path in folder.glob("disk*.json"):
        path.write_text('{"background": null, "cutout": NaN}')
    manifest = pack(FolderSource(folder), tmp_path / "set", **SMALL)
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 36,
        "val": 4,
    }


def test_a_test_split_is_not_validated_on_unless_it_is_asked_for() -> None:
    assert check_splits(None, ["train", "val", "test"]) == ["val"]
    assert check_splits(["test"], ["train", "val", "test"]) == ["test"]
    with pytest.raises(ValueError, match="has no validation split"):
        check_splits(None, ["train", "test"])
