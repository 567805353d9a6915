"""The laws of packing: the same bytes however it is done, and no triple lost or half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disks import FORMS, Disks, write_folder
from wdtrain.disk.failures import StoreError
from wdtrain.packing import duplicates, jobs, staging
from wdtrain.packing.options import PackingOptions
from wdtrain.packing.pack import pack
from wdtrain.packing.plan import make_plan
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import FolderSource
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

Read = Callable[[Path], dict[str, bytes]]
SMALL: dict[str, Any] = {"processes": 1, "shard_samples": 50, "samples_per_block": 8}
NO_HOLDOUT = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)


def keys_of(manifest: Manifest) -> list[str]:
    return [
        key
        for split in manifest.splits.values()
        for _, _, block in walk_blocks(manifest, split)
        for key in block.keys
    ]


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_one_or_more_processes_give_the_same_bytes(
    tmp_path: Path, folder_bytes: Read, encoding: str, compression: str
) -> None:
    for processes in (1, 2):
        pack(
            Disks(count=200, broken=(7,)),
            tmp_path / str(processes),
            **SMALL | {"processes": processes},
            encoding=encoding,
            compression=compression,
            max_rejects=0.1,
        )
    one = folder_bytes(tmp_path / "1")
    assert one == folder_bytes(tmp_path / "2")
    assert set(one) == {"manifest.json"} | {name for name in one if ".tar" in name}


def test_packing_again_changes_nothing(tmp_path: Path, folder_bytes: Read) -> None:
    first = pack(Disks(), tmp_path / "set", **SMALL)
    before = folder_bytes(tmp_path / "set")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert pack(Disks(), tmp_path / "set", **SMALL) == first
    assert folder_bytes(tmp_path / "set") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == times


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"encoding": "raw"}, {"source": Disks(count=299)}, {"size": 16}]
)
def test_a_dataset_of_other_settings_is_left_as_it_is(
    tmp_path: Path, folder_bytes: Read, other: dict[str, Any]
) -> None:
    pack(Disks(), tmp_path / "set", **SMALL)
    before = folder_bytes(tmp_path / "set")
    with pytest.raises(StoreError, match="another source or other settings; it is left as it is"):
        pack(target=tmp_path / "set", **{"source": Disks()} | SMALL | other)
    assert folder_bytes(tmp_path / "set") == before


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


class Countdown:
    """Lets so many writes through, then kills: before a rename or a removal."""

    def __init__(self, patch: pytest.MonkeyPatch, writes: int) -> None:
        self._left = writes
        patch.setattr(Path, "replace", self._guard(Path.replace))
        patch.setattr(Path, "unlink", self._guard(Path.unlink))
        patch.setattr(Path, "rename", self._guard(Path.rename))
        patch.setattr(Path, "rmdir", self._guard(Path.rmdir))

    def _guard(self, write: Any) -> Any:
        def guarded(path: Path, *rest: Any, **named: Any) -> None:
            if named.get("missing_ok") and not path.exists():
                return
            self._left -= 1
            if self._left < 0:
                raise Killed
            write(path, *rest, **named)

        return guarded


def test_stopped_at_any_write_it_goes_on_to_the_same_bytes(
    tmp_path: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Disks(count=24, backgrounds=3, cutouts=3, twins={20: 3, 7: 6})
    settings = SMALL | {"max_rejects": 0.2, "shard_samples": 12, "holdout": NO_HOLDOUT}
    pack(source, tmp_path / "whole", **settings)
    whole = folder_bytes(tmp_path / "whole")
    for writes in range(200):
        target = tmp_path / f"stopped-{writes}"
        with monkeypatch.context() as patch, suppress(Killed):
            Countdown(patch, writes)
            pack(source, target, **settings)
            break
        _check_nothing_half_written(target, whole)
        pack(source, target, **settings)
        assert folder_bytes(target) == whole
    assert folder_bytes(target) == whole
    assert 20 < writes < 199


def _check_nothing_half_written(target: Path, whole: dict[str, bytes]) -> None:
    """Under a final name are final bytes; a shard that waits for its own is whole."""
    published = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}
    assert published.items() <= whole.items()
    assert "manifest.json" not in published or published == whole
    for path in target.glob(".packing/*.tar.zst"):
        assert path.read_bytes()[-4:] == b"\xb1\xea\x92\x8f"


def test_a_rerun_packs_no_finished_shard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    load = Disks.load
    monkeypatch.setattr(Disks, "load", lambda self, i: (loads.append(i), load(self, i))[1])

    def stop(done: int, total: int) -> None:
        if done > 160:
            raise Killed

    with pytest.raises(Killed):
        pack(Disks(), tmp_path / "set", **SMALL, progress=stop)
    waiting = (tmp_path / "set").glob(".packing/*.tar.zst")
    finished = {path.name: path.stat().st_ino for path in waiting}
    assert len(finished) == 3
    loads.clear()
    make_plan(Disks(), PackingOptions())
    probes = len(loads)
    loads.clear()
    manifest = pack(Disks(), tmp_path / "set", **SMALL)
    for name, inode in finished.items():
        assert (tmp_path / "set" / name).stat().st_ino == inode
    assert 9 <= probes <= 25
    assert len(loads) == manifest.samples - 150 + probes


@pytest.mark.parametrize("ending", ["", ".keys", ".json"])
@pytest.mark.parametrize("damage", ["changed", "zeroed", "cut", "gone"])
def test_a_finished_shard_that_was_damaged_meanwhile_is_packed_again(
    tmp_path: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch, ending: str, damage: str
) -> None:
    twins = {index: index - 60 for index in range(60, 120)} if ending == ".keys" else {}
    source = Disks(count=120, twins=twins)
    settings = SMALL | {"max_rejects": 0.5}
    pack(source, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "commit", lambda self, document, shards: _kill())
        with pytest.raises(Killed):
            pack(source, tmp_path / "set", **settings)
    shard = tmp_path / "set" / ".packing" / f"train-000000.tar.zst{ending}"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    damaged = {"changed": data, "zeroed": bytes(len(data))}  # zeroed: as power cuts leave files
    shard.write_bytes(damaged.get(damage, b""))
    if damage == "gone":
        shard.unlink()
    pack(source, tmp_path / "set", **settings)
    assert folder_bytes(tmp_path / "set") == folder_bytes(tmp_path / "whole")


def _kill() -> None:
    raise Killed


def test_an_unfinished_packing_is_not_gone_on_with_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "commit", lambda self, document, shards: _kill())
        with pytest.raises(Killed):
            pack(Disks(), tmp_path / "set", **SMALL)
    with pytest.raises(StoreError, match="unfinished packing of another source, other settings"):
        pack(Disks(), tmp_path / "set", **SMALL | {"seed": 5})


def test_two_packers_do_not_share_a_target(tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(StoreError, match="another process is packing"):
            pack(Disks(), tmp_path / "set", **SMALL)

    pack(Disks(count=80), tmp_path / "set", **SMALL, progress=second)


def test_a_folder_with_other_things_in_it_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"not empty \(it holds 'photo.jpg'\)"):
        pack(Disks(), tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_every_triple_is_packed_once_or_rejected_with_its_reason(tmp_path: Path) -> None:
    source = Disks(count=300, broken=(3, 77, 200))
    manifest = pack(source, tmp_path / "set", **SMALL, max_rejects=0.01)
    rejected = [entry["key"] for entry in manifest.rejects["list"]]
    assert manifest.rejects["reasons"] == {"broken": 3}
    assert {entry["reason"] for entry in manifest.rejects["list"]} == {"broken: on purpose"}
    assert sorted(keys_of(manifest) + rejected) == [source.key(i) for i in range(300)]


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_rejects_stop_the_packing_and_leave_nothing(
    tmp_path: Path, processes: int
) -> None:
    source = Disks(count=300, broken=(3, 77, 200))
    with pytest.raises(StoreError, match=r"(?s)of 300 samples cannot be packed.*on purpose"):
        pack(source, tmp_path / "set", **SMALL | {"processes": processes}, max_rejects=0.005)
    assert not (tmp_path / "set").exists()


def test_duplicate_keys_keep_the_first_of_the_source(tmp_path: Path) -> None:
    source = Disks(count=300, twins={250: 3, 100: 3, 8: 9})
    manifest = pack(source, tmp_path / "set", **SMALL, max_rejects=0.02)
    keys = keys_of(manifest)
    assert len(set(keys)) == len(keys) == 297
    assert manifest.rejects["reasons"] == {"duplicate key": 3}
    rejected = sorted(entry["key"] for entry in manifest.rejects["list"])
    assert rejected == ["disk-000003", "disk-000003", "disk-000009"]
    for _, _, block in walk_blocks(manifest, manifest.split("train")):
        if "disk-000003" in block.keys:
            mask = decode_row(block, block.keys.index("disk-000003"))["mask"]
            np.testing.assert_array_equal(mask, source.load(3).arrays["mask"])


def test_duplicates_are_found_in_any_number_of_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def watch(source: Any, work: Any, todo: Any) -> dict[str, frozenset[int]]:
        few = duplicates.find_duplicates(source, work, todo, keys_a_pass=7)
        assert few == duplicates.find_duplicates(source, work, todo)
        found.append(few)
        return few

    monkeypatch.setattr("wdtrain.packing.pack.find_duplicates", watch)
    pack(Disks(twins={250: 3, 100: 3}), tmp_path / "set", **SMALL, max_rejects=0.02)
    assert sorted(i for rows in found[0].values() for i in rows) == [100, 250]
    assert len(found) == 1


def test_a_shard_whose_samples_are_all_rejected_is_left_out(tmp_path: Path) -> None:
    settings = SMALL | {"shard_samples": 1, "samples_per_block": 1, "holdout": NO_HOLDOUT}
    manifest = pack(Disks(count=20, broken=(3,)), tmp_path / "set", **settings, max_rejects=0.1)
    names = [shard.name for shard in manifest.split("train").shards]
    assert len(names) == 19
    assert sorted(path.name for path in (tmp_path / "set").glob("*.zst")) == names


def test_an_error_in_a_packing_process_comes_back_clear(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=200))
    local = type("Local", (Disks,), {})(count=200)
    with pytest.raises(StoreError, match="cannot travel to packing processes"):
        pack(local, tmp_path / "set", **SMALL | {"processes": 2})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        pack(FolderSource(folder), tmp_path / "file" / "set", **SMALL)


def test_full_disk_is_a_clear_error_and_packing_goes_on_after(
    tmp_path: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(Disks(), tmp_path / "whole", **SMALL)
    write = jobs.ShardFile.add_block
    room = 20

    def full(self: jobs.ShardFile, data: bytes) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(jobs.ShardFile, "add_block", full)
        with pytest.raises(StoreError, match=r"No space left on device.*goes on from there"):
            pack(Disks(), tmp_path / "set", **SMALL)
    whole = folder_bytes(tmp_path / "whole")
    left = folder_bytes(tmp_path / "set")
    assert "manifest.json" not in left
    assert not [name for name in left if name.endswith(".part")]
    for name, data in left.items():
        assert name.startswith(".packing/") or data == whole[name]
    pack(Disks(), tmp_path / "set", **SMALL)
    assert folder_bytes(tmp_path / "set") == whole


VERSION_1 = Path(__file__).parent.parent / "store" / "version1" / "image-zstd"
PACKED_SO: dict[str, Any] = {
    "processes": 1,
    "compression": "zstd:9",
    "shard_samples": 8,
    "samples_per_block": 4,
}


def packed_before(**changes: Any) -> Disks:
    """The source that the dataset of version 1 was packed from, by those options."""
    of_old = {"count": 8, "backgrounds": 3, "cutouts": 3, "as_jpeg": True}
    return Disks(**{**of_old, **changes})


def test_what_an_older_wdtrain_packed_is_packed_already(tmp_path: Path) -> None:
    said: list[str] = []
    how: dict[str, Any] = {**PACKED_SO, "say": said.append}
    target = tmp_path / "set"
    shutil.copytree(VERSION_1, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert pack(packed_before(), target, **how) == Manifest.load(str(target))
    assert "was packed by an older wdtrain" in said[-1]
    assert "remove it, or name another target, to pack anew" in said[-1]
    for other in ({"seed": 1}, {"size": 16}, {"jpeg_quality": 50}, {"fit": "pad"}):
        with pytest.raises(StoreError, match="another source or other settings"):
            pack(packed_before(), target, **how, **other)
    with pytest.raises(StoreError, match="another source or other settings"):
        pack(packed_before(count=9), target, **how)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    new = pack(packed_before(), tmp_path / "new", **how)
    assert {path.name for path in (tmp_path / "new").glob("*.zst")} < set(before)
    assert new.version > 1


def test_a_folder_that_an_older_wdtrain_packed_is_refused_in_true_words(tmp_path: Path) -> None:
    source = FolderSource(write_folder(tmp_path / "in", packed_before()))
    shutil.copytree(VERSION_1, tmp_path / "set")
    with pytest.raises(StoreError, match="or of an older wdtrain, which told folders in other"):
        pack(source, tmp_path / "set", **PACKED_SO)
