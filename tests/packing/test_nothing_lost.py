"""Every file of a folder is in a shard, in a reject with its reason, or in a counted line."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.disks import Disks, write_folder, write_triple
from wdtrain.commands import pack_shards
from wdtrain.disk.sourcefiles import is_clutter
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import FolderSource
from wdtrain.store.manifest import Manifest

ANYHOW: dict[str, Any] = {
    "processes": 1,
    "max_rejects": 1.0,
    "holdout": Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0),
    "size": 24,
    "say": lambda text: None,
}
SUFFIXES = (
    *(".overlay.jpg", ".overlay.JPG", ".OVERLAY.jpeg", ".overlay.png", ".overlay.heic"),
    *(".overlay.webp", ".mask.png", ".mask.PNG", ".mask.tif", ".depth.png", ".Depth.Png"),
    *(".depth.npy", ".json", ".JSON", ".txt", ".overlay", ".jpg"),
)
KINDS = ("good", "good", "good", "empty", "garbage", "pipe", "socket", "dangling", "loop", "folder")


def contents_of(suffix: str, kind: str) -> bytes:
    """What a good file of this name holds, or a bad one."""
    if kind in ("empty", "garbage"):
        return b"" if kind == "empty" else b"\x89PNG nonsense"
    sample = Disks(count=1).load(0)
    pixels: Any = sample.arrays["overlay"][..., ::-1]  # type: ignore[index]
    if ".mask" in suffix.lower() or ".depth" in suffix.lower():
        pixels = sample.arrays["mask"] if "mask" in suffix.lower() else sample.arrays["depth"]
    ending = suffix.lower().rpartition(".")[2]
    if ending == "json":
        return b'{"name": NaN}'
    if ending not in ("jpg", "jpeg", "png", "tif", "webp"):
        return b"text"
    return cv2.imencode(f".{ending}", pixels)[1].tobytes()


def put(path: Path, kind: str) -> None:
    """Something of this kind at a path, unless something is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the path of a socket may not be long
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
    elif kind in ("dangling", "loop"):
        path.symlink_to("gone" if kind == "dangling" else path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(contents_of(path.name, kind))


entries = st.tuples(
    st.sampled_from(["", "sub/", "sub/deep/", ".hidden/"]),
    st.sampled_from(["a", "A", "b c", "x.y", ".z", "._q", ".DS_Store"]),
    st.sampled_from(SUFFIXES),
    st.sampled_from(KINDS),
)


def expected(top: Path) -> tuple[set[str], int]:
    """(keys that must be packed or rejected, files that must be counted), by another way."""
    members: dict[str, set[str]] = {}
    counted = 0
    for folder, folders, files in os.walk(top):
        inside = Path(folder).relative_to(top)
        counted += sum(name.startswith(".") and not is_clutter(name) for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_clutter(name) or str(inside / name) == "triples.json":
                continue
            words = name.split(".")
            role = words[-2].lower() if len(words) > 2 else ""
            if name.startswith("."):
                counted += 1
            elif role in ("overlay", "mask", "depth"):
                stem = ".".join(words[:-2])
                members.setdefault(str(inside / stem), set()).add(role)
            elif len(words) > 1 and words[-1].lower() == "json":
                members.setdefault(str(inside / ".".join(words[:-1])), set()).add(name)
            else:
                counted += 1
    triples = {key for key, roles in members.items() if roles & {"overlay", "mask", "depth"}}
    counted += sum(len(roles) for key, roles in members.items() if key not in triples)
    return {key.replace("/", "__") for key in triples}, counted


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(entries, max_size=14))
def test_every_file_is_accounted_for(drawn: list[tuple[str, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = write_folder(Path(name) / "in", Disks(count=3))
        for folder, stem, suffix, kind in drawn:
            with suppress(FileExistsError, NotADirectoryError):
                put(top / folder / f"{stem}{suffix}", kind)
        keys, counted = expected(top)
        manifest = pack(FolderSource(top), Path(name) / "set", **ANYHOW)
        packed = packed_keys(manifest)
    reasons = reasons_of(manifest)
    # Of two files with one key, the first is packed and the other rejected as a duplicate.
    twice = {key for key in packed & reasons.keys() if reasons[key].startswith("duplicate key")}
    assert packed & reasons.keys() == twice
    assert packed | reasons.keys() == keys
    assert manifest.source["passed_over"]["count"] == counted


def packed_keys(manifest: Manifest) -> set[str]:
    return {
        key
        for split in manifest.splits.values()
        for _, _, block in walk_blocks(manifest, split)
        for key in block.keys
    }


def reasons_of(manifest: Manifest) -> dict[str, str]:
    return {entry["key"]: entry["reason"] for entry in manifest.rejects["list"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "in", Disks(count=12))


def test_links_to_folders_are_followed_once_and_loops_end(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk2"
    disk.mkdir()
    write_triple(disk, Disks(count=30).load(20))
    (folder / "more").symlink_to(disk)
    (folder / "again").symlink_to(disk)
    (disk / "back").symlink_to(folder)
    (disk / "self").symlink_to(".")
    source = FolderSource(folder)
    keys = [source.key(index) for index in range(len(source))]
    assert [key for key in keys if "__" in key] == ["again__disk-000020"]
    assert len(keys) == 13
    assert source.passed_over.count == 3
    assert "a link to a folder that is listed already" in source.passed_over.first[0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.symlink_to("gone"), "missing mask: .mask.png is a link, and what"),
        (os.mkfifo, "unreadable mask: .mask.png: it is a pipe"),
        (
            lambda path: path.symlink_to("/dev/zero"),
            "unreadable mask: .mask.png: it is a pipe",
        ),
        (lambda path: put(path, "socket"), "unreadable mask: .mask.png: No such device"),
        (
            lambda path: path.symlink_to(path.name),
            "unreadable mask: .mask.png: Too many levels",
        ),
        (lambda path: path.with_suffix(".tif").touch(), "mask of another kind: it ends on '.mask."),
        (lambda path: path.mkdir(), "unreadable mask: .mask.png: it is a pipe"),
    ],
)
def test_what_is_no_file_is_a_reject_and_not_waited_for(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    mask = folder / "disk-000005.mask.png"
    mask.unlink()
    spoil(mask)
    manifest = pack(FolderSource(folder), tmp_path / "set", **ANYHOW)
    assert manifest.samples == 11
    assert reasons_of(manifest)["disk-000005"].startswith(reason)


def test_two_files_for_one_part_are_a_reject_that_names_both(folder: Path, tmp_path: Path) -> None:
    for suffix in (".mask.PNG", ".JSON"):
        (folder / f"disk-000003{suffix}").write_bytes(b"")
        found = reasons_of(pack(FolderSource(folder), tmp_path / suffix, **ANYHOW))["disk-000003"]
        assert found.startswith("more than one ")
        assert f" and {suffix}" in found or f"{suffix} and " in found
        (folder / f"disk-000003{suffix}").unlink()


@pytest.mark.parametrize(
    "ending", ["JPG", "jpeg", "Jpe", "jfif", "PNG", "webp", "TIF", "tiff", "bmp"]
)
def test_endings_of_the_same_formats_are_read(folder: Path, tmp_path: Path, ending: str) -> None:
    from PIL import Image

    rgb = Disks(count=12).load(4).arrays["overlay"]
    (folder / "disk-000004.overlay.jpg").unlink()
    Image.fromarray(rgb).save(folder / f"disk-000004.overlay.{ending}", lossless=True, quality=95)
    for name in ("mask.png", "depth.png", "json"):
        (folder / f"disk-000004.{name}").rename(folder / f"disk-000004.{name.upper()}")
    source = FolderSource(folder)
    sample = source.load(4)
    assert sample.meta["background"] == "bg-4"
    assert source.parts(np.array([4]))[0][0] > 0
    if isinstance(sample.arrays["overlay"], np.ndarray):
        np.testing.assert_array_equal(sample.arrays["overlay"], rgb)
    manifest = pack(FolderSource(folder), tmp_path / "set", **ANYHOW)
    assert (manifest.samples, manifest.rejects["count"]) == (12, 0)


def test_what_is_no_part_of_a_triple_is_counted_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes.txt", "photo.jpg", "info.json", ".secret", ".DS_Store", "Thumbs.db", "._a"):
        (folder / name).touch()
    arguments = [str(folder), str(tmp_path / "set"), "--processes", "1", "--holdout-cutouts", "0"]
    for _ in range(2):
        assert pack_shards.main(arguments) == 0
        said = capsys.readouterr().err
        assert "files that are no part of a sample: 4, e.g. .secret (hidden), info.json" in said
    found = Manifest.load(str(tmp_path / "set")).source["passed_over"]
    assert found == {"count": 4, "first": [".secret (hidden)", "info.json", "notes.txt"]}


def test_what_a_system_puts_into_the_target_is_nobodys(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in (".DS_Store", "desktop.ini", "._x"):
        (tmp_path / "set" / name).touch()
    assert pack(FolderSource(folder), tmp_path / "set", **ANYHOW).samples == 12
