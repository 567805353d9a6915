"""What is in an inflated block: where each sample's members lie, and how they decode.

`image` blocks are walked header by header; a `raw` block is one fixed-stride array, so its rows are
views and its headers are checked all at once. Everything decoded is checked against the manifest:
a sample has the promised size and dtypes or is named as damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wdtrain import triple
from wdtrain.store import tar
from wdtrain.store.errors import DamagedSample, StoreError
from wdtrain.store.manifest import Manifest

MEMBERS: Final = ("overlay", "mask", "depth", "meta")
"""The order of a sample's members in a block, and of the columns of `starts` and `sizes`."""

_SIZE_FIELD: Final = slice(124, 136)


def member_suffixes(encoding: str) -> tuple[str, ...]:
    """What follows `KEY.` in the names of a sample's members, in order."""
    names = triple.RAW_MEMBERS if encoding == "raw" else triple.IMAGE_MEMBERS
    return tuple(names[member] for member in MEMBERS)


@dataclass(frozen=True)
class BlockIndex:
    """A parsed block: its bytes, keys, and int64 [samples, 4] starts and sizes of members."""

    data: bytes
    keys: list[str]
    starts: np.ndarray
    sizes: np.ndarray
    manifest: Manifest

    @property
    def num_samples(self) -> int:
        return len(self.keys)

    def members(self, row: int) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """The stored bytes of a sample: overlay, mask, depth, meta."""
        view = memoryview(self.data)
        starts, sizes = self.starts[row].tolist(), self.sizes[row].tolist()
        parts = [view[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        return parts[0], parts[1], parts[2], parts[3]

    def meta(self, row: int) -> dict[str, Any]:
        """The sample's JSON object."""
        try:
            return triple.decode_meta(self.members(row)[3])
        except triple.TripleError as error:
            raise DamagedSample(self.keys[row], str(error)) from error

    def raw_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read-only views of a raw block: overlay [n, h, w, 3], mask [n, h, w], depth [n, h, w]."""
        assert self.manifest.encoding == "raw", "only raw blocks are arrays"
        shapes = _shapes(self.manifest)
        if self.num_samples == 0:
            empty = [np.empty((0, *shape), dtype) for shape, dtype in shapes]
            return empty[0], empty[1], empty[2]
        stride = len(self.data) // self.num_samples
        views = []
        for column, (shape, dtype) in enumerate(shapes):
            start = int(self.starts[0, column] + self.sizes[0, column])
            start -= int(np.prod(shape)) * dtype.itemsize
            inner = np.ndarray(shape, dtype, self.data, start)
            strides = (stride, *inner.strides)
            count = (self.num_samples, *shape)
            views.append(np.ndarray(count, dtype, self.data, start, strides))
        return views[0], views[1], views[2]


def _shapes(manifest: Manifest) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of overlay, mask and depth."""
    height, width = manifest.height, manifest.width
    uint8 = np.dtype(np.uint8)
    return [
        ((height, width, 3), uint8),
        ((height, width), uint8),
        ((height, width), manifest.depth.dtype),
    ]


def parse_block(data: bytes, manifest: Manifest) -> BlockIndex:
    """Where the samples of an inflated block lie; StoreError when it is not a packed block."""
    try:
        if manifest.encoding == "raw":
            return _parse_raw(data, manifest)
        return _parse_members(data, manifest)
    except (tar.TarError, triple.TripleError) as error:
        raise StoreError(f"a block does not hold packed samples: {error}") from error


def _parse_members(data: bytes, manifest: Manifest) -> BlockIndex:
    members = tar.walk(data)
    suffixes = member_suffixes(manifest.encoding)
    if len(members) % len(suffixes):
        raise tar.TarError(f"{len(members)} members are not whole samples")
    ends = [f".{suffix}" for suffix in suffixes]
    keys = [member.name.removesuffix(ends[0]) for member in members[:: len(ends)]]
    for column, end in enumerate(ends):
        for key, member in zip(keys, members[column :: len(ends)], strict=True):
            if member.name != key + end:
                raise tar.TarError(f"member {member.name} where {key}{end} belongs")
    places = np.array([member[1:] for member in members], np.int64).reshape(-1, len(ends), 2)
    return BlockIndex(data, keys, places[:, :, 0], places[:, :, 1], manifest)


def _parse_raw(data: bytes, manifest: Manifest) -> BlockIndex:
    """A raw block: the first sample is walked, the others must lie exactly alike."""
    first = _first_sample(data, manifest)
    stride = tar.padded(int(first.starts[0, -1] + first.sizes[0, -1]))
    if len(data) % stride:
        raise tar.TarError(f"{len(data)} bytes are not whole samples of {stride}")
    count = len(data) // stride
    rows = np.frombuffer(data, np.uint8).reshape(count, stride)
    for start in first.starts[0].tolist():
        header = rows[:, start - tar.BLOCK : start]
        if (header[:, _SIZE_FIELD] != header[0, _SIZE_FIELD]).any():
            raise tar.TarError("raw samples of different sizes in one block")
    end = f".{triple.RAW_MEMBERS['overlay']}"
    names = np.ascontiguousarray(rows[:, : tar.MAX_NAME]).view(f"S{tar.MAX_NAME}").ravel()
    keys = [name.decode().removesuffix(end) for name in names.tolist()]
    starts = first.starts + stride * np.arange(count, dtype=np.int64)[:, None]
    return BlockIndex(data, keys, starts, np.repeat(first.sizes, count, axis=0), manifest)


def _first_sample(data: bytes, manifest: Manifest) -> BlockIndex:
    """The first sample of a raw block, its member names and array headers checked."""
    members = tar.walk(data, limit=len(MEMBERS))
    if len(members) < len(MEMBERS):
        raise tar.TarError("a raw block holds less than one sample")
    at = members[-1].start + tar.padded(members[-1].size)
    first = _parse_members(data[:at], manifest)
    for column, (shape, dtype) in enumerate(_shapes(manifest)):
        array = triple.decode_npy(first.members(0)[column], name=MEMBERS[column])
        if array.shape != shape or array.dtype != dtype:
            raise DamagedSample(
                first.keys[0],
                f"{MEMBERS[column]} is {array.dtype} {array.shape}, the manifest says "
                f"{dtype} {shape}",
            )
    return first


def decode_row(block: BlockIndex, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """overlay uint8 [h, w, 3], mask uint8 [h, w], depth uint8 or uint16 [h, w] of one sample.

    DamagedSample when a member cannot be decoded or has not the manifest's size. Raw rows are
    read-only views of the block.
    """
    if block.manifest.encoding == "raw":
        overlays, masks, depths = block.raw_arrays()
        return overlays[row], masks[row], depths[row]
    overlay_jpeg, mask_png, depth_png, _ = block.members(row)
    try:
        overlay = triple.decode_overlay(overlay_jpeg)
        mask = triple.decode_png(mask_png, name="mask", dtype=np.dtype(np.uint8))
        depth = triple.decode_png(depth_png, name="depth", dtype=block.manifest.depth.dtype)
    except triple.TripleError as error:
        raise DamagedSample(block.keys[row], str(error)) from error
    size = (block.manifest.height, block.manifest.width)
    for name, array in zip(MEMBERS, (overlay, mask, depth), strict=False):
        if array.shape[:2] != size:
            raise DamagedSample(
                block.keys[row], f"{name} is {array.shape[:2]}, the manifest says {size}"
            )
    return overlay, mask, depth
