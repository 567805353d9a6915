"""What may lie in a dataset that somebody else wrote: judged before memory is taken, and named."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.disks import Disks
from tests.store.blocks import SAMPLES, Written, block_of, inflated, samples_of
from tests.store.test_filling import filled, needs_library, stored_sample, target_of
from tests.store.test_samples import either_way  # noqa: F401
from wdtrain.disk.failures import DamagedBlock, DamagedSample, StoreError
from wdtrain.fields import DepthFormat, FieldError, Sample, triple_of
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.packing.options import PackingOptions
from wdtrain.packing.plan import make_plan
from wdtrain.packing.prepare import prepare
from wdtrain.store import buffers, frames, native, tar
from wdtrain.store.buffers import Recycled
from wdtrain.store.filling import Filler, MemberPlaces, WindowSlice
from wdtrain.store.limits import max_key, most_free_bytes, most_sample_bytes
from wdtrain.store.loading import BlockLoader
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row, parse_block

Packed = Callable[..., Manifest]
both_ways = pytest.mark.usefixtures("either_way")


def no_more_than(limit: int, patch: pytest.MonkeyPatch) -> None:
    """Whoever asks for more memory fails."""

    def empty(num_bytes: int) -> np.ndarray:
        assert num_bytes <= limit, f"{num_bytes:,} bytes are asked for"
        return np.empty(num_bytes, np.uint8)

    patch.setattr(buffers, "_ordinary", empty)


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_what_inflates_to_more_than_its_samples_may_be_is_named_without_room_for_it(
    packed: Packed, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = packed(encoding, "zstd:3")
    most = SAMPLES * most_sample_bytes(manifest.height, manifest.width, manifest.fields.values())
    shard = Written.of(inflated(manifest)[:3])
    bomb = frames.FrameCompressor(1)(bytes(most + 1))
    shard.frames[1] = bomb
    shard.entries[1] = len(bomb), most + 1, frames.frame_checksum(bomb)
    with shard.reader(tmp_path / "bomb.tar.zst", manifest) as reader:
        recycled = Recycled()
        no_more_than(most, monkeypatch)
        loader = BlockLoader(manifest, recycled) if native.zstd() else None
        for index, loads in ((0, True), (1, False), (2, True)):
            if loader is not None:
                assert len(loader.load([(reader, index)]).blocks) == loads
        with pytest.raises(DamagedBlock, match=f"block 1 is damaged: .* {most + 1:,} inflated"):
            reader.read_block(1)
        assert reader.read_block(2)


def test_a_packed_sample_is_never_larger_than_a_reader_takes() -> None:
    class Wordy(Disks):
        words: int = 0

        def load(self, index: int) -> Sample:
            return dataclasses.replace(super().load(index), meta={"words": "w" * self.words})

    for encoding in ("image", "raw"):
        source = Wordy(count=40)
        plan = make_plan(source, PackingOptions(encoding=encoding))
        most = most_free_bytes(24, 32, triple_of(DepthFormat()))
        object.__setattr__(source, "words", most - 4096)
        assert len(prepare(plan, 0).meta) > source.words
        object.__setattr__(source, "words", most)
        with pytest.raises(FieldError, match="too large: its JPEG and JSON take"):
            prepare(plan, 0)


# ---------------------------------------------------------------------------- members


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, bits: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(bytes(2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    data = encode_jpeg(np.zeros((24, 32, 3), np.uint8))
    at = data.find(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("mask.png", png_of(65_536, 65_536)),
        ("mask.png", png_of(2**31 - 1, 2**31 - 1)),
        ("depth.png", png_of(32, 25)),
        ("mask.png", b"\x89PNG\r\n\x1a\n"),
        ("overlay.jpg", jpeg_of(20_000, 20_000)),
        ("overlay.jpg", jpeg_of(33, 24)),
        ("overlay.jpg", b""),
    ],
)
def test_no_picture_of_another_size_is_ever_decoded(
    packed: Packed, member: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = packed("image", "zstd:3")
    block = parse_block(block_of([("k", stored_sample(manifest) | {member: data})]), manifest)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it is decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    with pytest.raises(DamagedSample, match=f"sample k is damaged: {member.split('.')[0]} is "):
        decode_row(block, 0)


@pytest.mark.parametrize("error", [cv2.error("odd"), RuntimeError("odd"), KeyError("odd")])
def test_whatever_a_decoder_throws_is_damage_of_its_sample(
    packed: Packed, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = packed("image", "none")
    block = parse_block(block_of([("k", stored_sample(manifest))]), manifest)

    def throws(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(simplejpeg, "decode_jpeg", throws)
    with pytest.raises(DamagedSample, match=r"sample k is damaged: .*odd"):
        decode_row(block, 0)


@needs_library
def test_a_png_whose_checksum_is_wrong_is_left_out_by_the_compiled_part_too(packed: Packed) -> None:
    manifest = packed("image", "none")
    members = stored_sample(manifest)
    for at in (-13, -1, -8):  # of the pixels' checksum, and of the end
        png = bytearray(members["mask.png"])
        png[at] ^= 1
        assert filled(manifest, members | {"mask.png": bytes(png)}) == 0


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """A JPEG without its tables of one kind."""
    while (at := jpeg.find(bytes([0xFF, marker]))) >= 0:
        jpeg = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    return jpeg


def one_table(rgb: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "jpeg", qtables=[[3] * 64], subsampling=0)
    return stream.getvalue()


@needs_library
@pytest.mark.parametrize("marker", [0xDB, 0xC4])
def test_no_jpeg_takes_tables_of_the_one_before_it(packed: Packed, marker: int) -> None:
    manifest = packed("image", "zstd:3")
    members = stored_sample(manifest)
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    whole = encode_jpeg(rgb)
    odd = [whole, one_table(rgb), whole, without_segment(one_table(rgb), marker)]
    samples = [(f"k{at}", members | {"overlay.jpg": jpeg}) for at, jpeg in enumerate(odd)]
    block = parse_block(block_of(samples), manifest)
    rows = MemberPlaces.of_blocks([block], np.zeros(4, int), np.arange(4), manifest)
    target, filler = target_of(manifest, 4), Filler(manifest, (24, 32))
    assert filler.fill([WindowSlice(rows, 0, 3, 0)], target).parts == 1  # none of them is unusual
    for row in range(3):
        np.testing.assert_array_equal(
            target.arrays["overlay"][row], decode_row(block, row)["overlay"]
        )
    is_filled = filler.fill([WindowSlice(rows, 0, 4, 0)], target).parts
    if marker == 0xDB:
        assert not is_filled
        with pytest.raises(DamagedSample, match="sample k3"):
            decode_row(block, 3)
    elif is_filled:  # without Huffman's tables the standard's are taken
        np.testing.assert_array_equal(target.arrays["overlay"][3], decode_row(block, 3)["overlay"])


@needs_library
def test_no_jpeg_goes_on_in_the_member_behind_it(packed: Packed) -> None:
    manifest = packed("image", "zstd:3")
    members = stored_sample(manifest)
    jpeg = members["overlay.jpg"]
    # A comment that reaches over the end of the member, the padding and the header behind it.
    head = jpeg[:2] + b"\xff\xfe" + bytes(2) + b"\xff\xd9"
    reach = 2 + -len(head) % tar.BLOCK + tar.BLOCK + 2
    head = head[:4] + struct.pack(">H", 2 + reach) + head[6:]
    odd = members | {"overlay.jpg": head, "mask.png": b"\xff\xff" + jpeg[2:]}
    assert filled(manifest, odd) == 0


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': ('|u1'",
        "{1: 2, 'a': 3}",
        "{[1]: 2}",
        "(" * 110,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 999999999), }",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (24, 32), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (24, 32), }",
    ],
)
@both_ways
def test_a_header_that_numpy_would_evaluate_is_named(packed: Packed, text: str) -> None:
    manifest = packed("raw", "none")
    npy = b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n" + bytes(24 * 32)
    block = block_of([("k", stored_sample(manifest) | {"mask.npy": npy})])
    with pytest.raises(StoreError, match=r"sample k is damaged: mask is .*the manifest says"):
        parse_block(block, manifest)


@pytest.mark.parametrize("behind", [1, 512, 4096])
@both_ways
def test_an_array_with_bytes_behind_it_is_named(packed: Packed, behind: int) -> None:
    manifest = packed("raw", "none")
    stream = io.BytesIO()
    np.save(stream, np.zeros((24, 32), np.uint8))
    npy = stream.getvalue() + bytes(behind)
    block = block_of([("k", stored_sample(manifest) | {"mask.npy": npy})])
    with pytest.raises(StoreError, match=f"sample k .*mask is .*{768 + behind:,} follow"):
        parse_block(block, manifest)


def test_json_of_many_brackets_is_named(packed: Packed) -> None:
    manifest = packed("image", "none")
    members = stored_sample(manifest) | {"json": b"[" * 200_000}
    with pytest.raises(DamagedSample, match="sample k is damaged: json is not readable"):
        parse_block(block_of([("k", members)]), manifest).meta(0)


# ---------------------------------------------------------------------------- headers and keys


@pytest.mark.parametrize(
    "size",
    [b"-0000001000", b"-0000000001", b"0o000000100", b"0_0000_0100", b"+0000000100", b"\xff" * 11,
     b" " * 11, bytes(11)],
)  # fmt: skip
@both_ways
def test_a_size_that_is_no_octal_number_is_named(packed: Packed, size: bytes) -> None:
    manifest = packed("image", "none")
    data = bytearray(block_of([("k", stored_sample(manifest))]))
    data[124:135] = size
    with pytest.raises(StoreError, match="does not hold packed samples: unreadable size"):
        parse_block(bytes(data), manifest)


@pytest.mark.parametrize("key", ["/tmp/x", "../x", "a/b", "..", "k l", "k\n", "ä", "~", "k\\"])
@both_ways
def test_a_key_that_packing_does_not_take_is_not_read(packed: Packed, key: str) -> None:
    manifest = packed("image", "none")
    good = stored_sample(manifest)
    for samples in ([(key, good)], [("k", good), (key, good), ("l", good)]):
        with pytest.raises(StoreError, match="does not hold packed samples: key "):
            parse_block(block_of(samples), manifest)


@both_ways
def test_a_name_with_bytes_behind_its_end_is_not_read(packed: Packed) -> None:
    manifest = packed("image", "none")
    data = bytearray(block_of([("k", stored_sample(manifest))]))
    data[50:54] = b"evil"
    with pytest.raises(StoreError, match="does not hold packed samples"):
        parse_block(bytes(data), manifest)


@both_ways
def test_the_longest_key_that_packing_takes_is_read(packed: Packed) -> None:
    manifest = packed("image", "none")
    key = "K-_9" * (max_key(manifest.fields.values()) // 4)
    samples = [(key, stored_sample(manifest))]
    assert parse_block(block_of(samples), manifest).keys == [key]
    assert samples_of(block_of(samples), manifest) == samples


@pytest.mark.skipif(native.zstd() is None, reason="no compiled part, or no zstd")
def test_two_frames_are_not_a_block_either_way(packed: Packed, tmp_path: Path) -> None:
    manifest = packed("image", "zstd:3")
    blocks = inflated(manifest)[:2]
    shard = Written.of(blocks)
    half = len(block_of(samples_of(blocks[1], manifest)[: SAMPLES // 2]))
    parts = [frames.FrameCompressor(3)(part) for part in (blocks[1][:half], blocks[1][half:])]
    checksum = frames.frame_checksum(parts[1])
    shard.frames[1] = b"".join(parts)
    shard.entries[1] = len(shard.frames[1]), len(blocks[1]), checksum
    with shard.reader(tmp_path / "two.tar.zst", manifest) as reader:
        loader = BlockLoader(manifest, Recycled())
        assert [len(loader.load([(reader, number)]).blocks) for number in (0, 1)] == [1, 0]
        with pytest.raises(DamagedBlock, match="block 1"):
            reader.read_block(1)
