"""Reading somebody else's tars by their index: blocks of samples, and the pixels in them.

Hands on what `shards.py` and `samples.py` hand on of our own shards. A block here is the records of
its samples and the bytes of their members, read in as few pieces as are apart in the tar and kept
without the gaps between. Files are decoded as at packing (`Field.load`), and resized as they are
read. The surprise: damage is found by sample, not by block; the rest of a damaged block is kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from wdtrain.disk.failures import DamagedBlock, DamagedSample, StoreError
from wdtrain.fields import Field, FieldError, Value, pictures
from wdtrain.fields.errors import decoding
from wdtrain.fields.npy import is_npy
from wdtrain.fields.resize import Size
from wdtrain.remote.extents import MAX_BLOCK, extents
from wdtrain.store.buffers import Recycled
from wdtrain.store.foreign_index import members_checksum, sample_checksum
from wdtrain.store.limits import KEY
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.shards import Closable, ShardReader
from wdtrain.store.tar import MAX_NAME

_NPY_HEAD: Final = 256
_NPY_SHAPE: Final = re.compile(rb"'shape': \((\d{1,9}), (\d{1,9})(?:, [134])?,?\)")
"""Of a `.npy` array that is a picture, in its head."""
_COUNT: Final = struct.Struct("<Q")
_CHANGED: Final = "its XXH64 is not the index's, so the tar or the index was changed"


class ForeignShardReader(ShardReader):
    """The blocks of one indexed tar, for one split."""

    def _read_places(self) -> None:
        """They are read from the index, block by block."""

    def read_packed(self, index: int) -> bytes:
        """The records of a block, with their number in front, and the bytes of their members in the
        order of the tar, without the gaps that were read along; StoreError or DamagedBlock where it
        cannot be read."""
        records = self._records(index)
        parts: list[bytes | memoryview] = [_COUNT.pack(len(records)), records.tobytes()]
        order = _tar_order(records)
        starts, sizes = (records[name].ravel()[order].tolist() for name in ("starts", "sizes"))
        begins, ends = _extents(records)
        first = [*np.searchsorted(starts, begins).tolist(), len(starts)]
        for at, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            piece = memoryview(self._read(index, begin, end - begin))
            those = slice(first[at], first[at + 1])
            for start, size in zip(starts[those], sizes[those], strict=True):
                parts.append(piece[start - begin : start - begin + size])
        return b"".join(parts)

    def unpack(self, index: int, packed: bytes | memoryview) -> bytes | memoryview:
        """The same bytes. Where they came from afar and a checksum does not fit, they are asked for
        as often as a request that fails; what is damaged then is for `parse_foreign` to say."""
        for _ in range(self._tries - 1):
            if not parse_foreign(packed, self._manifest).damaged:
                break
            for start, stop in zip(*_extents(self._records(index)), strict=True):
                self._file.forget(start, stop - start)
            packed = self.read_packed(index)
        return packed

    def _bytes(self, offset: int, count: int) -> bytes | memoryview:
        return self._file.read(offset, count)

    def _records(self, index: int) -> np.ndarray:
        """Of the samples of a block; DamagedBlock where they cannot be true."""
        count = self.block_samples(index)
        first = self.shard.first_row + index * self._samples_per_block
        try:
            records = self._manifest.index_file.read(first, count)
        except OSError as error:
            raise StoreError(
                f"the index of shard {self.shard.name} cannot be read ({error}); no damage to "
                "leave out: mend the disk or the connection, and start again"
            ) from error
        starts, sizes = records["starts"].astype(np.float64), records["sizes"].astype(np.float64)
        bounds = self._manifest.index
        assert bounds is not None, "only an index has records"
        if (starts + sizes).max(
            initial=0
        ) > self.shard.num_bytes or sizes.sum() > bounds.block_bytes:
            raise DamagedBlock(self.shard.name, index, "the index names places beyond its end")
        begins, ends = _extents(records)
        if (read := sum(ends) - sum(begins)) > MAX_BLOCK:
            raise DamagedBlock(
                self.shard.name,
                index,
                f"the index makes a block of {read:,} bytes of it, and {MAX_BLOCK:,} is the most",
            )
        return records


def open_shard(
    url: str,
    shard: Shard,
    manifest: Manifest,
    *,
    opened: Callable[[Closable], None] | None = None,
    memory: Recycled | None = None,
) -> ShardReader:
    """What reads the blocks of a shard at a path or URL: `ShardReader`, with its options, of ours;
    of somebody else's tars what goes by their index."""
    reader = ShardReader if manifest.index is None else ForeignShardReader
    return reader(url, shard, manifest, opened=opened, memory=memory)


def _tar_order(records: np.ndarray) -> np.ndarray:
    """Places in `starts` and `sizes`, flattened, of the members that are there, as the tar has
    them."""
    order = np.argsort(records["starts"], axis=None, kind="stable")
    found: np.ndarray = order[records["sizes"].ravel()[order] > 0]
    return found


def _extents(records: np.ndarray) -> tuple[list[int], list[int]]:
    """Starts and ends of the pieces that hold all members of records, in order."""
    return extents(records["starts"], records["sizes"])


@dataclass(frozen=True)
class ForeignBlock:
    """A parsed block: int64 [samples, fields] places in `data` and sizes of members (0: the sample
    has none), and by row what is damaged."""

    data: bytes | memoryview
    records: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    manifest: Manifest
    damaged: dict[int, str] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return len(self.records)

    @cached_property
    def keys(self) -> list[str]:
        """The samples' keys."""
        return [key.decode() for key in self.records["key"].tolist()]

    def name(self, row: int) -> bytes:
        """The name of a sample's first member, as a shard of ours would have it."""
        name = f"{self.keys[row]}.{self.manifest.member_suffixes[0]}"
        return name.encode().ljust(MAX_NAME, b"\0")

    def members(self, row: int) -> tuple[memoryview, ...]:
        """The bytes of a sample's members, by field; of one that it lacks none."""
        view = memoryview(self.data)
        starts, sizes = self.starts[row].tolist(), self.sizes[row].tolist()
        return tuple(view[at : at + size] for at, size in zip(starts, sizes, strict=True))

    def meta(self, row: int) -> dict[str, Any]:
        """Nothing: the JSON of foreign samples is not indexed."""
        return {}


def parse_foreign(data: bytes | memoryview, manifest: Manifest) -> ForeignBlock:
    """Where the samples of a block lie, each held to its checksum; StoreError for what cannot be
    one."""
    layout = manifest.index_file.layout
    (count,) = _COUNT.unpack(data[: _COUNT.size])
    records = np.frombuffer(data, layout, count, _COUNT.size)
    sizes, order = records["sizes"].astype(np.int64), _tar_order(records)
    begin = _COUNT.size + count * layout.itemsize
    begins = begin + np.cumsum([0, *sizes.ravel()[order]])
    if begins[-1] != len(data):
        raise StoreError("a block does not hold what its index says")
    places = np.zeros(sizes.shape, np.int64)
    places.ravel()[order] = begins[:-1]
    block = ForeignBlock(data, records, places, sizes, manifest)
    for row, key in enumerate(records["key"].tolist()):
        if not KEY.fullmatch(key.decode("latin-1")):
            raise StoreError(f"key {key!r}; keys are letters, digits, - and _, and no path")
        members = block.members(row)
        in_tar = [members[column] for column in np.argsort(places[row], kind="stable").tolist()]
        held = members_checksum(in_tar)
        found = sample_checksum(held, key, records["starts"][row], records["sizes"][row])
        if found != int(records["xxh64"][row]):
            block.damaged[row] = _CHANGED
    return block


def decode_foreign(
    block: ForeignBlock,
    row: int,
    *,
    size: Size | None = None,
    fields: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of one sample by field, as repacked and read again; of `fields`, or all.

    `size`: (h, w) to bring them to. DamagedSample, with the name of the file, where one cannot be
    used or is of another size than the others of its sample.
    """
    key = block.keys[row]
    if row in block.damaged:
        raise DamagedSample(key, block.damaged[row])
    members = zip(block.manifest.fields.values(), block.members(row), strict=True)
    try:
        return dict(_decode(block.manifest, key, members, size, fields))
    except FieldError as error:
        raise DamagedSample(key, str(error)) from error


def _decode(
    manifest: Manifest,
    key: str,
    members: Iterator[tuple[Field, memoryview]],
    size: Size | None,
    wanted: Collection[str] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    values: dict[str, Value] = {}
    absent, found = [], {}
    for each, data in members:
        if wanted is not None and each.name not in wanted:
            continue
        if not data:
            absent.append(each)
            continue
        file = f"{each.name} of {key}"
        with decoding(file):
            whole = bytes(data)
            if (stated := size_in_head(whole, file)) is not None:
                _check_within(stated, manifest)  # before room is made for its pixels
            values[each.name] = each.load(whole, file=file)
            found[each.name] = each.size_of(values[each.name])
    shown = _one_size(found, manifest)
    for each in absent:
        blank = each.missing(*(size or shown))
        if blank is None:
            raise FieldError(f"{each.name} is missing, and not optional")
        yield each.name, blank
    for name, value in values.items():
        with decoding(f"{name} of {key}"):
            yield name, foreign_pixels(manifest.fields[name], value, size)


def _one_size(found: dict[str, Size], manifest: Manifest) -> Size:
    """The size of a sample's members, which must be one, and within what the manifest says."""
    assert manifest.index is not None, "only an index has foreign samples"
    sizes = set(found.values()) or {manifest.index.largest}
    if len(sizes) > 1:
        each = ", ".join(f"{name} {height} x {width}" for name, (height, width) in found.items())
        raise FieldError(f"members of different sizes: {each}")
    shown = sizes.pop()
    _check_within(shown, manifest)
    return shown


def _check_within(shown: Size, manifest: Manifest) -> None:
    """FieldError for a size (height, width) that no picture has, says the manifest."""
    index = manifest.index
    assert index is not None, "only an index has foreign samples"
    height, width = shown
    low, high = index.smallest, index.largest
    if not (low[0] <= height <= high[0] and low[1] <= width <= high[1]):
        raise FieldError(f"it is {height} x {width}, the manifest says {high[0]} x {high[1]}")


def size_in_head(data: bytes, file: str) -> Size | None:
    """(height, width) of a person's file as it is shown, from its head; None of a kind whose head
    nobody reads (EXR, PFM)."""
    if is_npy(data):
        shape = _NPY_SHAPE.search(data, 0, _NPY_HEAD)
        return None if shape is None else (int(shape[1]), int(shape[2]))
    try:
        return pictures.read_picture_header(data, name=file).shown
    except FieldError:
        return None


def foreign_pixels(field: Field, value: Value, size: Size | None = None) -> np.ndarray:
    """The array that the field stores, of what `Field.load` gave, brought to `size`: the same that
    comes of a dataset into which it was packed as it is."""
    if isinstance(value, bytes):
        plain = field.reusable_bytes(value, field.size_of(value))
        if plain is not None:
            return field.decode_member(plain, "image", size=size)
    array, _ = field.pixels_of(value)
    return array if size is None else field.resize(array, size)
