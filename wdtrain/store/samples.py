"""What is in an inflated block: where each sample's members lie, and how they decode.

`image` blocks are walked header by header; a `raw` block is one fixed-stride array, so its rows are
views and its headers are checked all at once. Everything decoded is checked against the manifest:
a sample has the promised size and dtypes or is named as damaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from wdtrain.disk.failures import DamagedSample, StoreError
from wdtrain.fields import resize
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import decode_jpeg_scaled, jpeg_shape
from wdtrain.fields.npy import decode_npy, read_npy_header
from wdtrain.fields.png import decode_png, png_shape
from wdtrain.fields.sample import decode_meta
from wdtrain.store import native, tar
from wdtrain.store.limits import IMAGE_MEMBERS, KEY, RAW_MEMBERS
from wdtrain.store.manifest import Manifest

MEMBERS: Final = ("overlay", "mask", "depth", "meta")
"""The order of a sample's members in a block, and of the columns of `starts` and `sizes`."""


def member_suffixes(encoding: str) -> tuple[str, ...]:
    """What follows `KEY.` in the names of a sample's members, in order."""
    names = RAW_MEMBERS if encoding == "raw" else IMAGE_MEMBERS
    return tuple(names[member] for member in MEMBERS)


@dataclass(frozen=True)
class BlockIndex:
    """A parsed block: its bytes, and int64 [samples, 4] starts and sizes of members."""

    data: bytes | memoryview
    starts: np.ndarray
    sizes: np.ndarray
    manifest: Manifest

    @property
    def num_samples(self) -> int:
        return len(self.starts)

    @cached_property
    def keys(self) -> list[str]:
        """The samples' keys, read from the names of their overlays."""
        suffix = f".{member_suffixes(self.manifest.encoding)[0]}"
        names = (bytes(self.data[at - tar.BLOCK :][: tar.MAX_NAME]) for at in self.starts[:, 0])
        return [name.rstrip(b"\0").decode().removesuffix(suffix) for name in names]

    def members(self, row: int) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """The stored bytes of a sample: overlay, mask, depth, meta."""
        view = memoryview(self.data)
        starts, sizes = self.starts[row].tolist(), self.sizes[row].tolist()
        parts = [view[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        return parts[0], parts[1], parts[2], parts[3]

    def meta(self, row: int) -> dict[str, Any]:
        """The sample's JSON object."""
        try:
            return decode_meta(self.members(row)[3])
        except FieldError as error:
            raise DamagedSample(self.keys[row], str(error)) from error

    def raw_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read-only views of a raw block: overlay [n, h, w, 3], mask [n, h, w], depth [n, h, w]."""
        assert self.manifest.encoding == "raw", "only raw blocks are arrays"
        shapes = member_shapes(self.manifest)
        if self.num_samples == 0:
            empty = [np.empty((0, *shape), dtype) for shape, dtype in shapes]
            return empty[0], empty[1], empty[2]
        stride = len(self.data) // self.num_samples
        views = []
        for column, (shape, dtype) in enumerate(shapes):
            start = int(self.starts[0, column] + self.sizes[0, column]) - member_bytes(shape, dtype)
            inner = np.ndarray(shape, dtype, self.data, start)
            strides = (stride, *inner.strides)
            count = (self.num_samples, *shape)
            views.append(np.ndarray(count, dtype, self.data, start, strides))
        return views[0], views[1], views[2]


def member_shapes(manifest: Manifest) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of overlay, mask and depth."""
    height, width = manifest.height, manifest.width
    uint8 = np.dtype(np.uint8)
    return [
        ((height, width, 3), uint8),
        ((height, width), uint8),
        ((height, width), manifest.depth.dtype),
    ]


def parse_block(data: bytes | memoryview, manifest: Manifest) -> BlockIndex:
    """Where the samples of an inflated block lie; StoreError when it is not a packed block."""
    try:
        if manifest.encoding == "raw":
            return _parse_raw(data, manifest)
        return _parse_members(data, manifest)
    except (tar.TarError, FieldError) as error:
        raise StoreError(f"a block does not hold packed samples: {error}") from error


def _parse_members(data: bytes | memoryview, manifest: Manifest) -> BlockIndex:
    suffixes = member_suffixes(manifest.encoding)
    found = native.index_members(data, suffixes)
    if found is None:
        found = _walk_members(bytes(data), [f".{suffix}" for suffix in suffixes])
    return BlockIndex(data, *found, manifest)


def _walk_members(data: bytes, ends: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [samples, 4] starts and sizes, header by header; TarError for what no packer writes."""
    members = tar.walk(data)
    if len(members) % len(ends):
        raise tar.TarError(f"{len(members)} members are not whole samples")
    keys = [member.name.removesuffix(ends[0]) for member in members[:: len(ends)]]
    for key in keys:
        if not KEY.fullmatch(key):
            raise tar.TarError(f"key {key!r}; keys are letters, digits, - and _, and no path")
    for column, end in enumerate(ends):
        for key, member in zip(keys, members[column :: len(ends)], strict=True):
            if member.name != key + end:
                raise tar.TarError(f"member {member.name} where {key}{end} belongs")
    places = np.array([member[1:] for member in members], np.int64).reshape(-1, len(ends), 2)
    return places[:, :, 0].copy(), places[:, :, 1].copy()


def _parse_raw(data: bytes | memoryview, manifest: Manifest) -> BlockIndex:
    """A raw block: its samples must all lie alike, each member the array the manifest promises."""
    block = _parse_members(data, manifest)
    if block.num_samples == 0:
        raise tar.TarError("a raw block holds less than one sample")
    stride = tar.padded(int(block.starts[0, -1] + block.sizes[0, -1]))
    is_array = len(data) == stride * block.num_samples
    alike = native.are_alike  # compares, and does not name: False may be nothing but its absence
    is_alike = is_array and alike(data, stride, block.starts, block.sizes, payloads(manifest))
    if is_alike and begins_with_arrays(block):
        return block
    steps = stride * np.arange(block.num_samples, dtype=np.int64)[:, None]
    if not is_array or (block.starts != block.starts[0] + steps).any():
        raise tar.TarError("raw samples of different sizes in one block")
    if (block.sizes != block.sizes[0]).any():
        raise tar.TarError("raw members of different sizes in one block")
    for column, (shape, dtype) in enumerate(member_shapes(manifest)):
        _check_arrays(block, column, shape, dtype)
    return block


def payloads(manifest: Manifest) -> list[int]:
    """How many last bytes of each member of a raw sample are its own; -1 where all may be."""
    return [*(member_bytes(*of) for of in member_shapes(manifest)), -1]


def begins_with_arrays(block: BlockIndex) -> bool:
    """Whether the first sample of a raw block has the arrays that the manifest promises."""
    view = memoryview(block.data)
    for column, (shape, dtype) in enumerate(member_shapes(block.manifest)):
        start, size = int(block.starts[0, column]), int(block.sizes[0, column])
        head = view[start : start + size - member_bytes(shape, dtype)]
        if not _is_header(bytes(head), shape, dtype):
            return False
    return True


def _check_arrays(block: BlockIndex, column: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Every row's member is an array of this shape and dtype, or DamagedSample names one."""
    size = int(block.sizes[0, column])
    rows = np.frombuffer(block.data, np.uint8).reshape(block.num_samples, -1)
    headers = rows[:, block.starts[0, column] :][:, : size - member_bytes(shape, dtype)]
    if (headers == headers[0]).all() and _is_header(headers[0].tobytes(), shape, dtype):
        return
    for row in range(block.num_samples):
        name = MEMBERS[column]
        try:
            array = decode_npy(block.members(row)[column], name=name)
        except FieldError as error:
            found = str(error)
        else:
            if (array.shape, array.dtype) == (shape, dtype):
                continue
            found = f"{name} is {array.dtype} {array.shape}"
        raise DamagedSample(block.keys[row], f"{found}; the manifest says {dtype} {shape}")


def member_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array's pixels."""
    return math.prod(shape) * dtype.itemsize


@lru_cache(maxsize=64)
def _is_header(header: bytes, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether this is all of the header of a `.npy` array of this shape and dtype."""
    return read_npy_header(header) == (shape, dtype, len(header))


def decode_row(
    block: BlockIndex, row: int, *, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """overlay uint8 [h, w, 3], mask uint8 [h, w], depth uint8 or uint16 [h, w] of one sample.

    `size`: (h, w) to bring them to; a JPEG is then decoded at a fraction. DamagedSample when a
    member cannot be decoded or has not the manifest's size. Raw rows are read-only views.
    """
    stored_size = (block.manifest.height, block.manifest.width)
    size = size or stored_size
    if block.manifest.encoding == "raw":
        overlays, masks, depths = block.raw_arrays()
        arrays = overlays[row], masks[row], depths[row]
        return _sized(arrays, size, None, block.manifest)
    try:
        return _decode(block.members(row), block.manifest, size)
    except MemoryError:
        raise  # the machine's: sizes were judged before anything was decoded
    except Exception as error:  # decoders have errors of their own, and none of a name in common
        why = str(error) if isinstance(error, FieldError) else f"{type(error).__name__}: {error}"
        raise DamagedSample(block.keys[row], why) from error


def _decode(
    members: Sequence[memoryview], manifest: Manifest, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of an encoded sample, brought to (h, w) `size`; FieldError, or a decoder's own
    error. Headers come first: no size but the manifest's is ever made room for."""
    overlay_jpeg, mask_png, depth_png, _ = members
    stored = manifest.height, manifest.width
    shapes = (
        jpeg_shape(overlay_jpeg, name="overlay"),
        png_shape(mask_png, name="mask"),
        png_shape(depth_png, name="depth"),
    )
    for name, shape in zip(MEMBERS, shapes, strict=False):
        if shape != stored:
            raise FieldError(f"{name} is {shape}, the manifest says {stored}")
    overlay, eighths = decode_jpeg_scaled(overlay_jpeg, size, name="overlay")
    mask = decode_png(mask_png, name="mask", dtype=np.dtype(np.uint8))
    depth = decode_png(depth_png, name="depth", dtype=manifest.depth.dtype)
    return _sized((overlay, mask, depth), size, eighths, manifest)


def _sized(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: tuple[int, int],
    eighths: tuple[int, int] | None,
    manifest: Manifest,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    overlay, mask, depth = arrays
    return (
        resize.area(overlay, size, eighths=eighths),
        resize.area(mask, size),
        resize.median(depth, size, larger_is_nearer=manifest.depth.larger_is_nearer),
    )
