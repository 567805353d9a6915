"""Other people's programs read the shards, and get the same pixels as our reader."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

from tests.disks import FORMS
from wdtrain.fields.jpeg import decode_jpeg
from wdtrain.fields.png import decode_png
from wdtrain.packing.verify import walk_blocks
from wdtrain.store import opener
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

Packed = Callable[..., Manifest]
needs_zstd = pytest.mark.skipif(not shutil.which("zstd"), reason="the zstd command is not here")
FRAMED = [("image", "zstd:3"), ("image", "zstd:-7"), ("raw", "zstd:-1")]
library = pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes


def stored(manifest: Manifest, split: str = "train") -> dict[str, bytes]:
    """Every member of a split by name, through our reader, in order."""
    suffixes = manifest.member_suffixes
    return {
        f"{key}.{suffix}": bytes(data)
        for _, _, block in walk_blocks(manifest, manifest.split(split))
        for row, key in enumerate(block.keys)
        for suffix, data in zip(suffixes, block.members(row), strict=True)
    }


def shard_paths(manifest: Manifest, split: str = "train") -> list[str]:
    return [manifest.shard_url(shard) for shard in manifest.split(split).shards]


def blocks_by_the_format_page(folder: Path, split: str) -> Iterator[bytes]:
    """The blocks of a split, read as docs/format.md says, with nothing of ours."""
    import zstandard

    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["splits"][split]["shards"]:
        data = (folder / shard["name"]).read_bytes()
        if "blocks" in shard:
            sizes = [size for size, _ in shard["blocks"]]
            checksums = [int(xxh64, 16) for _, xxh64 in shard["blocks"]]
        else:
            frames, flags, magic = struct.unpack("<IBI", data[-9:])
            assert (flags, magic) == (0x80, 0x8F92EAB1)
            table = data[-(17 + 12 * frames) :]
            assert struct.unpack("<II", table[:8]) == (0x184D2A5E, 12 * frames + 9)
            entries = list(struct.iter_unpack("<III", table[8:-9]))[:-1]
            sizes, checksums = [entry[0] for entry in entries], [entry[2] for entry in entries]
        assert len(sizes) == -(-shard["samples"] // manifest["samples_per_block"])
        for end, size, checksum in zip(np.cumsum(sizes), sizes, checksums, strict=True):
            block = data[end - size : end]
            if "blocks" not in shard:
                block = zstandard.ZstdDecompressor().decompress(block)
            digits = 16 if "blocks" in shard else 8
            assert xxhash.xxh64_hexdigest(block)[-digits:] == f"{checksum:0{digits}x}"
            yield block


@pytest.mark.parametrize(("encoding", "compression"), [*FORMS, ("raw", "zstd:-1")])
def test_a_reader_written_from_the_format_page_gets_every_member(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    got = {}
    for block in blocks_by_the_format_page(Path(manifest.url), "train"):
        with tarfile.open(fileobj=io.BytesIO(block + bytes(1024))) as file:
            for entry in file.getmembers():
                member = file.extractfile(entry)
                assert member is not None
                got[entry.name] = member.read()
    assert got == stored(manifest)
    if encoding == "raw":
        name = next(name for name in got if name.endswith("overlay.npy"))
        assert got[name][128:] == np.load(io.BytesIO(got[name])).tobytes()
    elif compression != "none":
        name = next(name for name in got if name.endswith("mask.png"))
        pixels = decode_png(got[name], name=name, dtype=np.dtype(np.uint8))
        lines = np.frombuffer(got[name], np.uint8)[48 : 48 + 24 * 33].reshape(24, 33)
        np.testing.assert_array_equal(lines[:, 1:], pixels)


@needs_zstd
@pytest.mark.parametrize(
    ("encoding", "compression"), [("image", "zstd:3"), ("raw", "zstd:3"), ("raw", "zstd:-1")]
)
def test_gnu_tar_lists_and_extracts(
    packed: Packed, tmp_path: Path, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    names = []
    for path in shard_paths(manifest):
        listed = subprocess.run(
            ["tar", "--zstd", "-tf", path], check=True, capture_output=True, text=True
        )
        assert listed.stderr == ""
        names += listed.stdout.split()
        subprocess.run(["tar", "--zstd", "-xf", path, "-C", str(tmp_path)], check=True)
    expected = stored(manifest)
    assert names == list(expected)
    for name, data in expected.items():
        assert (tmp_path / name).read_bytes() == data


@needs_zstd
@pytest.mark.parametrize(("encoding", "compression"), FRAMED)
def test_the_zstd_command_finds_them_whole(packed: Packed, encoding: str, compression: str) -> None:
    for path in shard_paths(packed(encoding, compression)):
        tested = subprocess.run(["zstd", "-t", path], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr


@library
@pytest.mark.parametrize(("encoding", "compression"), FRAMED)
def test_pyzstd_seeks_to_any_block(packed: Packed, encoding: str, compression: str) -> None:
    import pyzstd

    manifest = packed(encoding, compression)
    shard = manifest.split("train").shards[0]
    blocks = [b for s, _, b in walk_blocks(manifest, manifest.split("train")) if s == shard]
    with pyzstd.SeekableZstdFile(manifest.shard_url(shard)) as file:
        ends = np.cumsum([len(block.data) for block in blocks]).tolist()
        for block, end in reversed(list(zip(blocks, ends, strict=True))):
            file.seek(end - len(block.data))
            assert file.read(len(block.data)) == block.data
        file.seek(ends[-1])
        assert file.read() == bytes(1024)


def check_samples(manifest: Manifest, samples: Iterator[dict[str, object]]) -> None:
    """Samples of the webdataset library hold the stored members, and PIL sees our pixels."""
    from PIL import Image

    expected, got = stored(manifest), {}
    for sample in samples:
        for name, value in sample.items():
            if not name.startswith("__"):
                assert isinstance(value, bytes)
                got[f"{sample['__key__']}.{name}"] = value
    assert got == expected
    for _, _, block in walk_blocks(manifest, manifest.split("train")):
        names = manifest.member_suffixes[:-1]
        for name, pixels in zip(names, decode_row(block, 0).values(), strict=True):
            foreign = np.array(Image.open(io.BytesIO(got[f"{block.keys[0]}.{name}"])))
            np.testing.assert_array_equal(foreign, pixels)


@library
def test_the_webdataset_library_reads_them_through_the_scheme(packed: Packed) -> None:
    import webdataset

    opener.register_opener()
    urls = opener.shard_urls(packed(), "train")
    check_samples(packed(), iter(webdataset.WebDataset(urls, shardshuffle=False)))


@library
def test_the_webdataset_library_reads_them_through_the_stage(packed: Packed) -> None:
    import webdataset

    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(shard_paths(packed())),
        opener.open_shards,
        opener.expand_and_group,
    )
    check_samples(packed(), iter(pipeline))


@library
@needs_zstd
def test_the_webdataset_library_reads_them_through_a_pipe(packed: Packed) -> None:
    import webdataset

    urls = [f"pipe:zstd -dc {path}" for path in shard_paths(packed())]
    check_samples(packed(), iter(webdataset.WebDataset(urls, shardshuffle=False)))


@library
def test_the_webdataset_library_reads_plain_tar_as_it_is(packed: Packed) -> None:
    import webdataset

    manifest = packed("image", "none")
    urls = opener.shard_urls(manifest, "train")
    assert urls == shard_paths(manifest)
    check_samples(manifest, iter(webdataset.WebDataset(urls, shardshuffle=False)))


@library
def test_the_opener_passes_errors_to_the_handler(tmp_path: Path) -> None:
    missing = [{"url": str(tmp_path / "missing.tar.zst")}]
    assert list(opener.open_shards(missing, handler=lambda error: True)) == []
    with pytest.raises(FileNotFoundError):
        list(opener.open_shards(missing))
    with pytest.raises(ValueError, match="for reading"):
        opener._open("zst:x.tar.zst", "wb")


@library
@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_plain_tar(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(os.environ, "HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    manifest = packed("image", "none")
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": shard_paths(manifest)},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path),
    )
    expected = stored(manifest)
    keys = []
    for row in rows:
        key = row["__key__"]
        keys.append(key)
        overlay = decode_jpeg(expected[f"{key}.overlay.jpg"])
        np.testing.assert_array_equal(np.array(row["overlay.jpg"]), overlay)
        for name in ("mask", "depth"):
            data = expected[f"{key}.{name}.png"]
            pixels = decode_png(data, name=name, dtype=np.dtype(np.uint8))
            np.testing.assert_array_equal(np.array(row[f"{name}.png"]), pixels)
        assert row["json"] == json.loads(expected[f"{key}.json"])
    assert keys == [name.split(".")[0] for name in expected][::4]
