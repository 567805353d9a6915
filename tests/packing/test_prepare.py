"""A triple is stored as it is, or brought to size by the rules, or rejected with its reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disks import Disks
from wdtrain.fields import Sample, resize
from wdtrain.fields.jpeg import decode_jpeg, decode_jpeg_scaled, encode_jpeg
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.samples import decode_row

SMALL: dict[str, Any] = {"processes": 1, "shard_samples": 50, "samples_per_block": 8}


def test_jpegs_that_need_no_resize_pass_byte_for_byte(tmp_path: Path) -> None:
    source = Disks(count=64, as_jpeg=True)
    manifest = pack(source, tmp_path / "set", **SMALL)
    for _, _, block in walk_blocks(manifest, manifest.split("train")):
        for row, key in enumerate(block.keys):
            stored = bytes(block.members(row)[0])
            assert stored == source.load(int(key.removeprefix("disk-"))).arrays["overlay"]


@pytest.mark.parametrize("as_jpeg", [False, True])
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_size_resizes_as_triples_are_resized(tmp_path: Path, encoding: str, as_jpeg: bool) -> None:
    source = Disks(count=64, as_jpeg=as_jpeg)
    manifest = pack(
        source, tmp_path / "set", **SMALL, encoding=encoding, size=(12, 20), fit="stretch"
    )
    assert (manifest.height, manifest.width) == (12, 20)
    for _, _, block in walk_blocks(manifest, manifest.split("train")):
        sample = source.load(int(block.keys[0].removeprefix("disk-")))
        (overlay, mask, depth), eighths = sample.arrays.values(), None
        if isinstance(overlay, bytes):
            overlay, eighths = decode_jpeg_scaled(overlay, (12, 20))
        sized = (
            resize.area(overlay, (12, 20), eighths=eighths),
            resize.area(mask, (12, 20)),
            resize.median(depth, (12, 20)),
        )
        if encoding == "image":
            sized = (decode_jpeg(encode_jpeg(sized[0])), *sized[1:])
        for got, expected in zip(decode_row(block, 0).values(), sized, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_sixteen_bit_depth_is_kept(tmp_path: Path) -> None:
    source = Disks(count=64, bits=16)
    for encoding in ("image", "raw"):
        manifest = pack(source, tmp_path / encoding, **SMALL, encoding=encoding)
        assert manifest.fields["depth"].dtype == np.uint16
        _, _, block = next(walk_blocks(manifest, manifest.split("train")))
        sample = source.load(int(block.keys[0].removeprefix("disk-")))
        np.testing.assert_array_equal(decode_row(block, 0)["depth"], sample.arrays["depth"])


@dataclasses.dataclass(frozen=True)
class Odd(Disks):
    """One sample that is not as the others."""

    odd: str = ""

    def key(self, index: int) -> str:
        return self.odd if index == 5 and self.odd.startswith("key") else super().key(index)

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        if index != 5:
            return sample
        if self.odd == "size":
            return dataclasses.replace(sample, arrays=Disks(height=30).load(index).arrays)
        if self.odd == "mask size":
            return changed(sample, mask=sample.arrays["mask"][1:])
        if self.odd == "empty":
            return changed(sample, mask=sample.arrays["mask"] // 3)
        if self.odd == "dtype":
            return changed(sample, depth=sample.arrays["depth"].astype(np.uint16))
        if self.odd == "truncated":
            assert isinstance(sample.arrays["overlay"], bytes)
            return changed(sample, overlay=sample.arrays["overlay"][:-40])
        return sample


def changed(sample: Sample, **arrays: Any) -> Sample:
    return dataclasses.replace(sample, arrays={**sample.arrays, **arrays})


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ("size", "wrong size"),
        ("mask size", "mask of another size"),
        ("empty", "mask without foreground"),
        ("dtype", "depth"),
        ("truncated", "overlay cannot be decoded"),
        ("key.with.dots", "key"),
        ("key with space", "key"),
        ("keyäö", "key"),
        ("key" * 40, "key"),
        ("key/../../up", "key"),
    ],
)
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_a_sample_unlike_the_others_is_rejected_with_its_reason(
    tmp_path: Path, encoding: str, odd: str, reason: str
) -> None:
    source = Odd(count=64, odd=odd, as_jpeg=odd == "truncated")
    manifest = pack(source, tmp_path / "set", **SMALL, encoding=encoding, max_rejects=0.02)
    assert manifest.rejects["reasons"] == {reason: 1}
    assert manifest.samples == 63
