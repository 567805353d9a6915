"""Files that are mended between two packings are seen by what is in them, and never mixed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disks import Disks, write_folder
from tests.packing.test_pack import Killed
from wdtrain.disk.failures import StoreError
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.png import decode_png, encode_png
from wdtrain.packing import contents
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import FolderSource
from wdtrain.sources.layouts import open_layout
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

Read = Callable[[Path], dict[str, bytes]]
NOTHING = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)
SMALL: dict[str, Any] = {
    "processes": 1,
    "shard_samples": 10,
    "samples_per_block": 8,
    "holdout": NOTHING,
}
COUNT = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "folder", Disks(count=COUNT))
    for path in folder.glob("*.mask.png"):  # stored, so that another mask has as many bytes
        mask = decode_png(path.read_bytes(), name="mask", dtype=np.dtype(np.uint8))
        path.write_bytes(encode_png(mask, stored=True))
    return folder


def mend(folder: Path, index: int) -> None:
    """The mask of a triple is inverted; its file keeps its name, size and time of change."""
    path = folder / f"disk-{index:06d}.mask.png"
    before = path.stat()
    mask = decode_png(path.read_bytes(), name="mask", dtype=np.dtype(np.uint8))
    path.write_bytes(encode_png(255 - mask, stored=True))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def first_mask_pixels(manifest: Manifest) -> dict[str, int]:
    return {
        key: int(decode_row(block, row)["mask"][0, 0])
        for _, _, block in walk_blocks(manifest, manifest.split("train"))
        for row, key in enumerate(block.keys)
    }


@pytest.mark.parametrize("is_noted", [True, False])
def test_what_was_mended_is_named_and_the_dataset_left(
    folder: Path, tmp_path: Path, folder_bytes: Read, is_noted: bool
) -> None:
    pack(FolderSource(folder), tmp_path / "set", **SMALL)
    if not is_noted:
        (tmp_path / "set" / contents.PACKED_FROM).unlink()
    before = folder_bytes(tmp_path / "set")
    assert pack(FolderSource(folder), tmp_path / "set", **SMALL).samples == COUNT
    mend(folder, 7)
    mend(folder, 31)
    which = r"2 of 40 samples \(disk-000007, disk-000031\)" if is_noted else "files of the source"
    with pytest.raises(StoreError, match=f"{which} changed since .* holds the old ones"):
        pack(FolderSource(folder), tmp_path / "set", **SMALL)
    assert folder_bytes(tmp_path / "set") == before
    pixels = first_mask_pixels(pack(FolderSource(folder), tmp_path / "new", **SMALL))
    assert {key for key, pixel in pixels.items() if pixel} == {"disk-000007", "disk-000031"}


def test_only_what_was_touched_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(FolderSource(folder), tmp_path / "set", **SMALL)
    (folder / "disk-000009.overlay.jpg").touch()
    read: list[int] = []
    content = FolderSource.content
    monkeypatch.setattr(
        FolderSource, "content", lambda self, i: (read.append(i), content(self, i))[1]
    )
    assert pack(FolderSource(folder), tmp_path / "set", **SMALL).samples == COUNT
    assert read == [9]


def test_a_note_of_another_packing_is_not_believed(folder: Path, tmp_path: Path) -> None:
    pack(FolderSource(folder), tmp_path / "old", **SMALL)
    mend(folder, 3)
    pack(FolderSource(folder), tmp_path / "new", **SMALL)
    shutil.copy(tmp_path / "new" / contents.PACKED_FROM, tmp_path / "old" / contents.PACKED_FROM)
    with pytest.raises(StoreError, match="changed since"):
        pack(FolderSource(folder), tmp_path / "old", **SMALL)


def test_the_dataset_tells_contents_and_no_times(
    folder: Path, tmp_path: Path, folder_bytes: Read
) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    pack(FolderSource(folder), tmp_path / "one", **SMALL)
    pack(FolderSource(tmp_path / "copy"), tmp_path / "two", **SMALL | {"processes": 2})
    one, two = folder_bytes(tmp_path / "one"), folder_bytes(tmp_path / "two")
    assert one.pop(contents.PACKED_FROM) != two.pop(contents.PACKED_FROM)
    assert one == two
    mend(folder, 5)
    other = pack(FolderSource(folder), tmp_path / "three", **SMALL)
    assert other.source["contents"] != json.loads(one["manifest.json"])["source"]["contents"]


def stop_after(samples: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= samples:
            raise Killed

    return progress


def test_a_stopped_packing_packs_the_shards_again_whose_files_were_mended(
    folder: Path, tmp_path: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        pack(FolderSource(folder), tmp_path / "set", **SMALL, progress=stop_after(30))
    waiting = sorted((tmp_path / "set" / ".packing").glob("*.tar.zst"))
    finished = {path.name: path.stat().st_ino for path in waiting}
    packed = np.fromfile(f"{waiting[0]}.files", "<u8").reshape(3, -1)[0]
    mend(folder, int(packed[4]))
    pack(FolderSource(folder), tmp_path / "set", **SMALL)
    again = {name for name, i in finished.items() if (tmp_path / "set" / name).stat().st_ino != i}
    assert again == {waiting[0].name}
    pack(FolderSource(folder), tmp_path / "whole", **SMALL)
    assert folder_bytes(tmp_path / "set") == folder_bytes(tmp_path / "whole")


def test_files_that_are_mended_while_they_are_packed_are_not_half_packed(
    folder: Path, tmp_path: Path, folder_bytes: Read
) -> None:
    def progress(done: int, total: int) -> None:
        if done == total:
            for index in range(COUNT):
                mend(folder, index)

    with pytest.raises(StoreError, match="changed while they were packed; give the same command"):
        pack(FolderSource(folder), tmp_path / "set", **SMALL, progress=progress)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert set(
        first_mask_pixels(pack(FolderSource(folder), tmp_path / "set", **SMALL)).values()
    ) == {255}


def test_parts_of_files_mended_between_them_are_refused_by_name(
    folder: Path, tmp_path: Path
) -> None:
    pack(FolderSource(folder), tmp_path / "set", **SMALL, part=(1, 2))
    for index in range(COUNT):
        mend(folder, index)
    for part in ((2, 2), (1, 2)):
        with pytest.raises(StoreError, match=r"of 40 samples \(.*\) changed after they were pa"):
            pack(FolderSource(folder), tmp_path / "set", **SMALL, part=part)
        assert not (tmp_path / "set" / "manifest.json").exists()
    assert set(
        first_mask_pixels(pack(FolderSource(folder), tmp_path / "set", **SMALL)).values()
    ) == {255}


def test_parts_of_json_that_names_other_parts_meanwhile_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    pack(FolderSource(folder), tmp_path / "set", **SMALL, part=(1, 2))
    path = folder / "disk-000003.json"
    path.write_text(path.read_text().replace("bg-3", "bg-4"))
    with pytest.raises(StoreError, match="unfinished packing of another source"):
        pack(FolderSource(folder), tmp_path / "set", **SMALL, part=(2, 2))


def test_rejects_that_are_mended_are_seen_too(folder: Path, tmp_path: Path) -> None:
    mask = folder / "disk-000002.mask.png"
    whole = mask.read_bytes()
    mask.write_bytes(bytes(len(whole)))
    settings = SMALL | {"max_rejects": 0.1}
    assert pack(FolderSource(folder), tmp_path / "set", **settings).rejects["count"] == 1
    mask.write_bytes(whole)
    with pytest.raises(StoreError, match=r"1 of 40 samples \(disk-000002\) changed since"):
        pack(FolderSource(folder), tmp_path / "set", **settings)


def test_the_seed_projects_files_are_watched_as_well(tmp_path: Path) -> None:
    grey = np.full((16, 16), 200, np.uint8)
    for name, prefix in (("fg", ""), ("mask", "mask_"), ("depth", "depth_")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(12):
            picture = np.repeat(grey[..., None], 3, 2) - number
            path = tmp_path / "in" / name / f"{prefix}im{number}.jpg"
            path.write_bytes(encode_jpeg(picture))
    pack(open_layout("seed", tmp_path / "in", []), tmp_path / "set", **SMALL)
    path = tmp_path / "in" / "mask" / "mask_im4.jpg"
    path.write_bytes((tmp_path / "in" / "mask" / "mask_im5.jpg").read_bytes())
    with pytest.raises(StoreError, match=r"1 of 12 samples \(im4\) changed since"):
        pack(open_layout("seed", tmp_path / "in", []), tmp_path / "set", **SMALL)
