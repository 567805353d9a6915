"""What is in an inflated block: where each sample's members lie, and how they decode.

`image` blocks are walked header by header; a `raw` block is one fixed-stride array, so its rows are
views and its headers are checked all at once. Everything decoded is checked against the manifest:
a sample has the promised size and dtypes or is named as damaged.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from wdtrain.disk.failures import DamagedSample, StoreError
from wdtrain.fields import Field, FieldError
from wdtrain.fields.npy import decode_npy, read_npy_header
from wdtrain.fields.resize import Size
from wdtrain.fields.sample import decode_meta
from wdtrain.store import native, tar
from wdtrain.store.foreign import ForeignBlock, decode_foreign, parse_foreign
from wdtrain.store.limits import KEY
from wdtrain.store.manifest import Manifest


@dataclass(frozen=True)
class BlockIndex:
    """A parsed block: its bytes, and int64 [samples, members] starts and sizes: of the fields, in
    their order, and of the JSON."""

    data: bytes | memoryview
    starts: np.ndarray
    sizes: np.ndarray
    manifest: Manifest

    @property
    def num_samples(self) -> int:
        return len(self.starts)

    @cached_property
    def keys(self) -> list[str]:
        """The samples' keys, read from the names of their first members."""
        suffix = f".{self.manifest.member_suffixes[0]}"
        names = (bytes(self.data[at - tar.BLOCK :][: tar.MAX_NAME]) for at in self.starts[:, 0])
        return [name.rstrip(b"\0").decode().removesuffix(suffix) for name in names]

    def name(self, row: int) -> bytes:
        """The name of a sample's first member, padded with zeros: the start of its header."""
        start = int(self.starts[row, 0]) - tar.BLOCK
        return bytes(self.data[start : start + tar.MAX_NAME])

    def members(self, row: int) -> tuple[memoryview, ...]:
        """The stored bytes of a sample: of each field, and of its JSON."""
        view = memoryview(self.data)
        starts, sizes = self.starts[row].tolist(), self.sizes[row].tolist()
        return tuple(view[at : at + size] for at, size in zip(starts, sizes, strict=True))

    def meta(self, row: int) -> dict[str, Any]:
        """The sample's JSON object."""
        try:
            return decode_meta(self.members(row)[-1])
        except FieldError as error:
            raise DamagedSample(self.keys[row], str(error)) from error

    def raw_array(self, column: int) -> np.ndarray:
        """A read-only view of a raw block's field, by its place in the manifest: [n, h, w] or
        [n, h, w, channels]."""
        assert self.manifest.encoding == "raw", "only raw blocks are arrays"
        shape, dtype = member_shapes(self.manifest)[column]
        if self.num_samples == 0:
            return np.empty((0, *shape), dtype)
        stride = len(self.data) // self.num_samples
        start = int(self.starts[0, column] + self.sizes[0, column]) - member_bytes(shape, dtype)
        inner = np.ndarray(shape, dtype, self.data, start)
        count = (self.num_samples, *shape)
        return np.ndarray(count, dtype, self.data, start, (stride, *inner.strides))


def member_shapes(manifest: Manifest) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each field's arrays."""
    height, width = manifest.height, manifest.width
    return [(field.shape(height, width), field.dtype) for field in manifest.fields.values()]


AnyBlock = BlockIndex | ForeignBlock
"""A parsed block: of our own shards, or of somebody else's tars."""


def parse_block(data: bytes | memoryview, manifest: Manifest) -> AnyBlock:
    """Where the samples of an inflated block lie; StoreError when it is not a packed block."""
    if manifest.index is not None:
        return parse_foreign(data, manifest)
    try:
        if manifest.encoding == "raw":
            return _parse_raw(data, manifest)
        return _parse_members(data, manifest)
    except (tar.TarError, FieldError) as error:
        raise StoreError(f"a block does not hold packed samples: {error}") from error


def _parse_members(data: bytes | memoryview, manifest: Manifest) -> BlockIndex:
    suffixes = manifest.member_suffixes
    found = native.index_members(data, suffixes)
    if found is None:
        found = _walk_members(bytes(data), [f".{suffix}" for suffix in suffixes])
    return BlockIndex(data, *found, manifest)


def _walk_members(data: bytes, ends: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [samples, members] starts and sizes, header by header; TarError for what no packer
    writes."""
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
        name = list(block.manifest.fields)[column]
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
    block: AnyBlock, row: int, *, size: Size | None = None, fields: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The stored arrays of one sample by field: [h, w] or [h, w, channels]; of `fields`, or all.

    `size`: (h, w) to bring them to; a JPEG is then decoded at a fraction. DamagedSample when a
    member cannot be decoded or has not the manifest's size. Raw rows are read-only views.
    """
    if isinstance(block, ForeignBlock):
        return decode_foreign(block, row, size=size, fields=fields)
    manifest = block.manifest
    wanted = {
        name: column
        for column, name in enumerate(manifest.fields)
        if fields is None or name in fields
    }
    if manifest.encoding == "raw":
        arrays = {name: block.raw_array(column)[row] for name, column in wanted.items()}
        if size is None or size == (manifest.height, manifest.width):
            return arrays
        return {name: manifest.fields[name].resize(one, size) for name, one in arrays.items()}
    try:
        return dict(_decode(block.members(row), manifest, wanted, size))
    except FieldError as error:
        raise DamagedSample(block.keys[row], str(error)) from error


def _decode(
    members: tuple[memoryview, ...], manifest: Manifest, wanted: dict[str, int], size: Size | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an encoded sample, brought to (h, w) `size`; FieldError. Headers come first: no
    size but the manifest's is ever made room for."""
    for name, column in wanted.items():
        check_member(members[column], manifest.fields[name], manifest)
    for name, column in wanted.items():
        yield name, decode_member(members[column], manifest.fields[name], manifest, size)


def check_member(data: bytes | memoryview, field: Field, manifest: Manifest) -> None:
    """FieldError for an encoded member that has not the manifest's size, by its header."""
    stored = manifest.height, manifest.width
    with _in_words():
        found = field.stored_shape(data, manifest.encoding)
    if found != stored:
        raise FieldError(f"{field.name} is {found}, the manifest says {stored}")


def decode_member(
    data: bytes | memoryview, field: Field, manifest: Manifest, size: Size | None
) -> np.ndarray:
    """The stored array of an encoded member that was checked, brought to `size`; FieldError."""
    size = None if size == (manifest.height, manifest.width) else size
    with _in_words():
        return field.decode_member(data, manifest.encoding, size=size)


@contextmanager
def _in_words() -> Iterator[None]:
    """Whatever a decoder throws inside is a FieldError."""
    try:
        yield
    except (FieldError, MemoryError):
        raise  # the machine's memory: sizes were judged before anything was decoded
    except Exception as error:  # decoders have errors of their own, and none of a name in common
        raise FieldError(f"{type(error).__name__}: {error}") from error
