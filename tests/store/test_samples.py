"""What was packed is what is decoded, and a sample that is not is named."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest

from tests.disks import FORMS, Disks
from tests.store.blocks import raw_arrays
from wdtrain.disk.failures import DamagedSample, StoreError
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.fields.png import encode_png
from wdtrain.fields.sample import encode_meta
from wdtrain.packing.verify import walk_blocks
from wdtrain.store import native, tar
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, decode_row, parse_block

Packed = Callable[..., Manifest]


def first_block(manifest: Manifest) -> BlockIndex:
    return next(walk_blocks(manifest, manifest.split("train")))[2]


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_every_sample_comes_back_as_it_was(packed: Packed, encoding: str, compression: str) -> None:
    manifest, source, keys = packed(encoding, compression), Disks(), []
    for split in manifest.splits.values():
        for _, _, block in walk_blocks(manifest, split):
            for row, key in enumerate(block.keys):
                sample = source.load(int(key.removeprefix("disk-")))
                assert isinstance(sample.arrays["overlay"], np.ndarray)
                overlay, mask, depth = decode_row(block, row).values()
                expected = sample.arrays["overlay"]
                if encoding == "image":
                    expected = decode_jpeg(encode_jpeg(expected, 90))
                np.testing.assert_array_equal(overlay, expected)
                np.testing.assert_array_equal(mask, sample.arrays["mask"])
                np.testing.assert_array_equal(depth, sample.arrays["depth"])
                assert block.meta(row) == sample.meta
                keys.append(key)
    assert sorted(keys) == [source.key(index) for index in range(len(source))]


@pytest.mark.parametrize("compression", ["zstd:3", "none"])
def test_a_raw_block_is_arrays_of_one_stride(packed: Packed, compression: str) -> None:
    block = first_block(packed("raw", compression))
    arrays = raw_arrays(block)
    for row in range(block.num_samples):
        for array, one in zip(arrays, decode_row(block, row).values(), strict=True):
            np.testing.assert_array_equal(array[row], one)
            assert np.shares_memory(array, np.frombuffer(block.data, np.uint8))
    assert np.ptp(block.starts - block.starts[0], axis=1).max() == 0


def test_the_json_of_a_raw_shard_is_padded_to_its_longest(packed: Packed) -> None:
    manifest = packed("raw", "none")
    sizes: dict[str, set[int]] = {}
    for shard, _, block in walk_blocks(manifest, manifest.split("train")):
        sizes.setdefault(shard.name, set()).update(block.sizes[:, 3].tolist())
        longest = max(len(encode_meta(block.meta(row))) for row in range(block.num_samples))
        assert longest <= block.sizes[0, 3]
    assert all(len(of_shard) == 1 for of_shard in sizes.values())


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_the_members_of_a_sample_are_adjacent_and_in_order(
    packed: Packed, encoding: str, compression: str
) -> None:
    block = first_block(packed(encoding, compression))
    names = [member.name for member in tar.walk(block.data)]
    raw, image = ("overlay.npy", "mask.npy", "depth.npy"), ("overlay.jpg", "mask.png", "depth.png")
    suffixes = (*(raw if encoding == "raw" else image), "json")  # as the format page has them
    assert names == [f"{key}.{suffix}" for key in block.keys for suffix in suffixes]


@pytest.fixture(params=[True, False], ids=["compiled", "not compiled"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled part, if it is there, and without."""
    if not request.param:
        monkeypatch.setattr(native, "LIBRARY", None)


def block_of(manifest: Manifest, key: str = "k", **changes: bytes) -> bytes:
    """The first sample of a block as a block, with some members changed."""
    block = first_block(manifest)
    names = manifest.member_suffixes
    contents = dict(zip(names, map(bytes, block.members(0)), strict=True))
    contents |= {name.replace("_", "."): data for name, data in changes.items()}
    return b"".join(tar.member(f"{key}.{name}".encode(), data) for name, data in contents.items())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"overlay_jpg": b"\xff\xd8nothing"}, "overlay"),
        ({"overlay_jpg": encode_jpeg(np.zeros((8, 8, 3), np.uint8))}, "manifest says"),
        ({"mask_png": encode_png(np.zeros((24, 32), np.uint16))}, "mask is a 16-bit"),
        ({"depth_png": encode_png(np.zeros((24, 32), np.uint8))[:-30]}, "depth"),
    ],
)
def test_a_sample_that_cannot_be_decoded_is_named(
    packed: Packed, changes: dict[str, bytes], why: str
) -> None:
    manifest = packed("image", "none")
    block = parse_block(block_of(manifest, **changes), manifest)
    with pytest.raises(DamagedSample, match=f"sample k is damaged: .*{why}"):
        decode_row(block, 0)


def test_a_sample_whose_json_is_none_is_named(packed: Packed) -> None:
    manifest = packed("image", "none")
    block = parse_block(block_of(manifest, json=b"[1]"), manifest)
    with pytest.raises(DamagedSample, match="sample k is damaged: json holds a list"):
        block.meta(0)


@pytest.mark.usefixtures("either_way")
def test_refuses_blocks_of_other_members(packed: Packed) -> None:
    image, raw = packed("image", "none"), packed("raw", "none")
    other_order = tar.member(b"k.mask.png", b"") * 4
    for data, manifest in (
        (other_order, image),
        (first_block(image).data, raw),
        (first_block(image).data[: -(1 << 9)], image),
        (bytes(first_block(raw).data) + bytes(512), raw),
        (bytes(first_block(raw).data) + bytes(8), raw),
        (b"x" * 4096, raw),
        (b"", raw),
        (first_block(raw).data, dataclasses.replace(raw, height=23)),
    ):
        with pytest.raises((StoreError, DamagedSample)):
            parse_block(data, manifest)


@pytest.mark.parametrize(
    "array", [np.zeros((24, 32), np.int8), np.zeros((32, 24), np.uint8), np.zeros((32, 24)).T]
)
@pytest.mark.usefixtures("either_way")
def test_a_raw_array_of_another_kind_is_named(packed: Packed, array: np.ndarray) -> None:
    raw, buffer = packed("raw", "none"), io.BytesIO()
    np.save(buffer, array.astype(np.uint8, order="K") if array.dtype == float else array)
    odd = block_of(raw, mask_npy=buffer.getvalue())
    for block in (odd, block_of(raw, "j") + odd + block_of(raw, "l")):
        with pytest.raises(StoreError, match=r"sample k is damaged: mask is .*manifest says uint8"):
            parse_block(block, raw)


@pytest.mark.usefixtures("either_way")
def test_a_raw_block_whose_headers_another_program_wrote_is_read(packed: Packed) -> None:
    raw = packed("raw", "none")
    data = bytearray(block_of(raw, "j") + block_of(raw, "k"))
    at = len(data) // 2 + 124
    data[at : at + 11] = bytes(data[at : at + 11]).lstrip(b"0").rjust(11)  # a size without zeros
    block = parse_block(bytes(data), raw)
    assert block.keys == ["j", "k"]
    for array in raw_arrays(block):
        np.testing.assert_array_equal(array[0], array[1])


def test_pickle_is_never_decoded(packed: Packed) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    raw = packed("raw", "none")
    with pytest.raises(StoreError, match=r"not a readable \.npy"):
        parse_block(block_of(raw, mask_npy=buffer.getvalue()), raw)
