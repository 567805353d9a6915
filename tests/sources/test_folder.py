"""A folder of triples: listed small, split by its parts, its damage named and nothing guessed."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.disks import Disks, write_folder, write_triple
from tests.sources.people import trimap
from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import PassedOver
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.packing.audit import audit
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources import listing
from wdtrain.sources.asking import ask
from wdtrain.sources.folder import FolderSource

COUNT = 40
SMALL: dict[str, Any] = {"processes": 1, "samples_per_block": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder", Disks(count=COUNT))


def png(pixels: np.ndarray) -> bytes:
    coded, data = cv2.imencode(".png", pixels)
    assert coded
    return data.tobytes()


def palette_png() -> bytes:
    """A 24 x 32 PNG of colour type 3, made from a greyscale one."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", 32, 24, 8, 3, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(32) for _ in range(24)))
    parts = (b"IHDR", header), (b"PLTE", bytes(6)), (b"IDAT", body), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_gives_the_triples_that_were_written(folder: Path) -> None:
    source, disks = FolderSource(folder), Disks(count=COUNT, as_jpeg=False)
    assert len(source) == COUNT
    assert source.fields == disks.fields
    for index in range(COUNT):
        got, expected = source.load(index), disks.load(index)
        assert got.key == source.key(index) == expected.key
        assert got.arrays["overlay"] == encode_jpeg(expected.arrays["overlay"])  # type: ignore[arg-type]
        np.testing.assert_array_equal(got.arrays["mask"], expected.arrays["mask"])
        np.testing.assert_array_equal(got.arrays["depth"], expected.arrays["depth"])
        assert got.meta == expected.meta


def test_parts_are_those_that_the_json_names(folder: Path) -> None:
    (folder / "disk-000003.json").unlink()
    (folder / "disk-000004.json").write_text("{")
    source, disks = FolderSource(folder), Disks(count=COUNT)
    indices = np.arange(COUNT)
    known = np.setdiff1d(indices, [3, 4])
    for got, expected in zip(source.parts(indices), disks.parts(indices), strict=True):
        assert got[[3, 4]].tolist() == [-1, -1]
        assert (got[known] >= 0).all()
        same = got[known][:, None] == got[known]
        assert np.array_equal(same, expected[known][:, None] == expected[known])


def test_a_folder_is_split_without_a_leak(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=300))
    manifest = pack(FolderSource(folder), tmp_path / "set", **SMALL)
    found = audit(manifest, lambda done, total: None)
    assert found.problems == []
    assert len(found.splits["val-new-new"].backgrounds) == 1


def test_travels_to_another_process_and_says_no_path(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(FolderSource(folder)))
    assert source.load(7).key == FolderSource(folder).load(7).key
    assert str(folder) not in json.dumps(source.description)


def test_a_moved_folder_is_the_same_source_and_a_changed_one_another(folder: Path) -> None:
    before = FolderSource(folder).description
    moved = folder.rename(folder.with_name("moved"))
    assert FolderSource(moved).description == before
    source = FolderSource(moved)
    seen = source.signal(2), source.content(2)
    with (moved / "disk-000002.mask.png").open("ab") as file:
        file.write(b"\0")
    assert source.signal(2) != seen[0]
    assert source.content(2) != seen[1]
    (moved / "disk-000002.mask.png").unlink()
    assert FolderSource(moved).description != before


def test_nested_folders_have_joined_keys(tmp_path: Path) -> None:
    disks = Disks(count=8)
    for name in ("a", "a/b", "c"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        write_triple(tmp_path / "folder" / name, disks.load(1))
    write_triple(tmp_path / "folder", disks.load(1))
    (tmp_path / "folder" / ".hidden").mkdir()
    write_triple(tmp_path / "folder" / ".hidden", disks.load(1))
    source = FolderSource(tmp_path / "folder")
    names = ["a__b__disk-000001", "a__disk-000001", "c__disk-000001", "disk-000001"]
    assert [source.key(index) for index in range(len(source))] == names
    assert all(source.load(index).arrays["mask"].any() for index in range(4))


def test_overlays_may_be_png_or_jpeg_by_another_name(folder: Path, tmp_path: Path) -> None:
    disks = Disks(count=COUNT)
    rgb = disks.load(3).arrays["overlay"]
    assert isinstance(rgb, np.ndarray)
    (folder / "disk-000003.overlay.jpg").unlink()
    (folder / "disk-000003.overlay.png").write_bytes(png(rgb[:, :, ::-1]))
    (folder / "disk-000004.overlay.jpg").rename(folder / "disk-000004.overlay.jpeg")
    source = FolderSource(folder)
    np.testing.assert_array_equal(source.load(3).arrays["overlay"], rgb)
    assert source.load(4).arrays["overlay"] == encode_jpeg(disks.load(4).arrays["overlay"])  # type: ignore[arg-type]


Break = Callable[[Path], None]


def writes(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data) and None  # type: ignore[return-value]


def removes(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def renames(old: str, new: str) -> Break:
    def rename(folder: Path) -> None:
        for path in list(folder.glob(f"{old}.*")):
            path.rename(folder / path.name.replace(old, new))

    return rename


def truncates(name: str) -> Break:
    def truncate(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * 9 // 10])

    return truncate


GREY = np.full((24, 32), 200, np.uint8)
RGBA = np.full((24, 32, 4), 200, np.uint8)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (removes("disk-000005.mask.png"), "missing mask"),
        (removes("disk-000005.depth.png"), "missing depth"),
        (removes("disk-000005.overlay.jpg"), "missing overlay"),
        (truncates("disk-000005.overlay.jpg"), "overlay cannot be decoded"),
        (truncates("disk-000005.mask.png"), "mask cannot be decoded"),
        (writes("disk-000005.overlay.jpg", b""), "overlay cannot be decoded"),
        (writes("disk-000005.depth.png", b""), "depth is not a PNG"),
        (writes("disk-000005.json", b"nonsense"), "json is not readable"),
        (writes("disk-000005.mask.png", png(GREY[:12])), "mask of another size"),
        (writes("disk-000005.mask.png", png(GREY.astype(np.uint16))), "mask is a 16-bit greyscale"),
        (writes("disk-000005.depth.png", png(GREY.astype(np.uint16))), "depth is a 16-bit"),
        (writes("disk-000005.mask.png", palette_png()), "mask is a 8-bit palette PNG"),
        (writes("disk-000005.mask.png", png(RGBA)), "mask is a 8-bit RGBA PNG"),
        (writes("disk-000005.mask.png", png(GREY // 2)), "mask without foreground"),
        (writes("disk-000006.overlay.png", png(RGBA[:, :, :3])), "duplicate key"),
        (renames("disk-000005", "disk.000005"), "key"),
        (renames("disk-000005", "disk 000005"), "key"),
        (renames("disk-000005", "dïsk-000005"), "key"),
    ],
)
def test_bad_input_is_rejected_with_its_reason(
    folder: Path, tmp_path: Path, spoil: Break, reason: str
) -> None:
    spoil(folder)
    manifest = pack(FolderSource(folder), tmp_path / "set", **SMALL, max_rejects=0.05)
    (kind,) = manifest.rejects["reasons"]
    assert kind.startswith(reason)
    assert manifest.samples + manifest.rejects["count"] == len(FolderSource(folder))
    assert manifest.samples >= COUNT - 1
    with pytest.raises(StoreError, match=f"(?s)cannot be packed.*{reason}"):
        pack(FolderSource(folder), tmp_path / "strict", **SMALL)
    assert not (tmp_path / "strict").exists()


def test_overlay_pngs_of_other_kinds_are_brought_to_rgb(folder: Path) -> None:
    (folder / "disk-000003.overlay.jpg").unlink(missing_ok=True)
    (folder / "disk-000003.overlay.png").write_bytes(png(GREY))
    overlay = FolderSource(folder).load(3).arrays["overlay"]
    np.testing.assert_array_equal(overlay, np.dstack([GREY] * 3))
    (folder / "disk-000003.overlay.png").write_bytes(png(RGBA))
    with pytest.raises(FieldError, match="overlay is transparent in parts"):
        FolderSource(folder).load(3)


def test_what_is_no_folder_of_triples_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        FolderSource(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"holds no triples.*KEY\.overlay\.jpg"):
        FolderSource(tmp_path / "empty")
    (folder / "triples.json").unlink()
    for path in folder.glob("*.depth.png"):
        path.unlink()
    with pytest.raises(StoreError, match="holds no depth"):
        FolderSource(folder)


def test_undeclared_depth_is_relative_with_the_bits_it_has(tmp_path: Path) -> None:
    for bits in (8, 16):
        disks = Disks(count=4, bits=bits)
        source = FolderSource(write_folder(tmp_path / str(bits), disks, declare=False))
        depth = source.fields[2].format
        assert (depth.kind, depth.bits) == ("relative", bits)
        assert not source.declares_depth
        np.testing.assert_array_equal(source.load(2).arrays["depth"], disks.load(2).arrays["depth"])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"depth": {"kind": "far"}}', '{"depth": {"near": 1}}', '{"depth": 3}']
)
def test_a_declaration_that_cannot_be_is_refused(folder: Path, text: str) -> None:
    (folder / "triples.json").write_text(text)
    with pytest.raises(StoreError, match=r"triples\.json"):
        FolderSource(folder)


def test_an_extracted_shard_is_the_same_source_again(tmp_path: Path) -> None:
    settings = SMALL | {"compression": "none"}
    manifest = pack(Disks(count=64, as_jpeg=True), tmp_path / "set", **settings)
    import tarfile

    folder = tmp_path / "extracted"
    for path in (tmp_path / "set").glob("*.tar"):
        with tarfile.open(path) as file:
            file.extractall(folder, filter="data")
    again = pack(FolderSource(folder), tmp_path / "again", **settings)
    assert again.samples == manifest.samples
    for _, _, block in walk_blocks(again, again.split("train")):
        assert all(Disks(as_jpeg=True).load(int(key[5:])).key == key for key in block.keys)


def test_listing_takes_at_most_100_bytes_a_triple(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    suffixes = (b"overlay.jpg", b"mask.png", b"depth.png", b"json")

    def files(folder: bytes, passed_over: PassedOver) -> Iterator[bytes]:
        for index in range(count):
            yield from (b"playground-%09d.%s" % (index, suffix) for suffix in suffixes)

    monkeypatch.setattr(listing, "files_below", files)
    tracemalloc.start()
    names = listing.list_folder(tmp_path).names
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == count
    assert kept <= 25 * count
    assert peak <= 100 * count


def test_source_is_a_pure_function_of_the_index(folder: Path) -> None:
    source = FolderSource(folder)
    first, second = source.load(5), source.load(5)
    assert (first.key, first.meta) == (second.key, second.meta)
    for name in ("overlay", "mask", "depth"):
        assert np.array_equal(first.arrays[name], second.arrays[name])


METRIC = {"depth": {"kind": "metric", "unit": "mm"}}


def test_a_declaration_of_depth_alone_leaves_the_mask_open(folder: Path) -> None:
    for path in folder.glob("*.mask.png"):
        path.write_bytes(png(trimap(0)))
    for path in folder.glob("*.depth.png"):
        path.write_bytes(png(np.full((24, 32), 3000, np.uint16)))

    def opened(**more: Any) -> FolderSource:
        (folder / "triples.json").write_text(json.dumps({**METRIC, **more}))
        return FolderSource(folder)

    with pytest.raises(FieldError) as raised:
        ask(opened())
    told = str(raised.value)
    assert "have values 0, 128 and 255, which fill areas" in told
    assert "triples.json does not say" in told
    assert '"mask": {"foreground": [255]}' in told
    assert "--field 'mask=mask:{key}.mask.png,unknown=128'" in told
    said = opened(mask={"foreground": [255]})
    ask(said)
    assert set(np.unique(said.load(3).arrays["mask"])) == {0, 255}
    ask(opened(source={"made": "by make-triples"}))  # whose masks are alpha
