"""The index of somebody else's tars: where the members of each sample lie, in one binary file.

Owns its layout, its part of the manifest, and its reading: records of one width, little-endian,
read in place (mapped, or by ranges of a URL), so that opening costs the same for any number of
them. The rows of a split, and in it those of a shard, follow one another in the order in which
they lie in the tars: so a block is a range of records, found by arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import numpy as np
import pydantic
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.fields import Field
from wdtrain.fields.resize import Size
from wdtrain.remote.extents import MAX_BLOCK
from wdtrain.remote.urls import is_url, protocol_of
from wdtrain.store import schema, tar
from wdtrain.store.schema import SchemaError

INDEX_MAGIC: Final = b"wdtrain-index-1\n"
"""What the file begins with; the records follow."""
SUFFIX: Final = ".index"
_AFAR: Final = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "oci", "oss")
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")


class _Rows(schema.Part):
    first_row: schema.Whole
    bytes: schema.Whole


class _Sizes(schema.Part):
    smallest: Annotated[list[schema.PixelCount], pydantic.Field(min_length=2, max_length=2)]
    largest: Annotated[list[schema.PixelCount], pydantic.Field(min_length=2, max_length=2)]


class _Entry(schema.Part):
    name: str
    bytes: schema.Whole
    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    key_bytes: Annotated[int, pydantic.Field(ge=1, le=tar.MAX_NAME - 1)]
    block_bytes: Annotated[int, pydantic.Field(ge=1, le=MAX_BLOCK)]
    sizes: _Sizes
    splits: dict[str, _Rows]


@dataclass(frozen=True)
class ForeignIndex:
    """The index as the manifest describes it.

    name, num_bytes, sha256: of the file. key_bytes: letters of the longest key. block_bytes: most
    that the members of a block take. smallest, largest: (height, width) that no picture falls below
    or exceeds. split_bytes: of the members of all samples of each split.
    """

    name: str
    num_bytes: int
    sha256: str
    key_bytes: int
    block_bytes: int
    smallest: Size
    largest: Size
    first_rows: Mapping[str, int]
    split_bytes: Mapping[str, int]

    @property
    def is_mixed(self) -> bool:
        """Whether pictures are of more than one size."""
        return self.smallest != self.largest

    def check_size(self, size: object, place: str) -> None:
        """StoreError where pictures of several sizes are to be read without one being named."""
        if self.is_mixed and not (isinstance(size, tuple | list) and len(size) == 2):
            low, high = (f"{height} x {width}" for height, width in (self.smallest, self.largest))
            raise StoreError(
                f"{place} holds pictures of {low} to {high} pixels, and size is {size!r}: a batch "
                "is of one size; set data.size to [height, width], to which each is brought as it "
                "is read (or pack them: tools/pack-shards)"
            )


def record_layout(key_bytes: int, num_fields: int) -> np.dtype:
    """One sample: its key, padded with zeros; `sample_checksum`; and of each field, in the
    manifest's order, where in the tar its member begins and how many bytes it has (0: none)."""
    return np.dtype(
        [
            ("key", f"S{key_bytes}"),
            ("xxh64", "<u8"),
            ("starts", "<u8", (num_fields,)),
            ("sizes", "<u4", (num_fields,)),
        ]
    )


def members_checksum(members: Iterable[bytes | memoryview]) -> int:
    """XXH64 of the bytes of a sample's members, in the order in which they lie in the tar."""
    digest = xxhash.xxh64()
    for member in members:
        digest.update(member)
    return digest.intdigest()


def sample_checksum(members: int, key: bytes, starts: np.ndarray, sizes: np.ndarray) -> int:
    """XXH64 of `members_checksum` (uint64), the key, starts (uint64) and sizes (uint32): what was
    changed in tar or index is found."""
    places = starts.astype("<u8").tobytes() + sizes.astype("<u4").tobytes()
    return xxhash.xxh64_intdigest(members.to_bytes(8, "little") + key + places)


class ReadableFile(Protocol):
    """A file that is read at positions."""

    num_bytes: int

    def read(self, offset: int, count: int) -> bytes | memoryview: ...

    def close(self) -> None: ...


class IndexFile:
    """The records of an index. Thread-safe."""

    def __init__(self, file: ReadableFile, index: ForeignIndex, num_fields: int) -> None:
        """StoreError for a file of another size than the manifest says."""
        self._file, self._index = file, index
        self.layout = record_layout(index.key_bytes, num_fields)
        if file.num_bytes != index.num_bytes:
            raise StoreError(
                f"{index.name} holds {file.num_bytes:,} bytes, the manifest says "
                f"{index.num_bytes:,}: it was cut off or replaced; fetch it again, or index the "
                "tars again"
            )

    def read(self, first: int, count: int) -> np.ndarray:
        """Records [first, first + count)."""
        width = self.layout.itemsize
        data = self._file.read(len(INDEX_MAGIC) + first * width, count * width)
        if len(data) != count * width:
            raise StoreError(f"{self._index.name} ends before its record {first + count:,}")
        return np.frombuffer(data, self.layout)

    def close(self) -> None:
        self._file.close()


def index_of(
    document: Mapping[str, Any], head: schema.Head, fields: Iterable[Field]
) -> ForeignIndex:
    """The index that a manifest names; SchemaError where it cannot be one."""
    entry = schema.validated(_Entry, document["index"], "index")
    if entry.name != f"{entry.sha256}{SUFFIX}":
        raise SchemaError("index.name", entry.name, f"its SHA-256 and {SUFFIX}")
    if list(entry.splits) != [name for name in head.splits if name in entry.splits] or len(
        entry.splits
    ) != len(head.splits):
        raise SchemaError("index.splits", ", ".join(entry.splits)[:80], "of each split")
    width = record_layout(entry.key_bytes, len(list(fields))).itemsize
    rows = 0
    for name, split in head.splits.items():
        rows += split.samples
        at = entry.splits[name]
        if (at.first_row + split.samples) * width + len(INDEX_MAGIC) > entry.bytes:
            raise SchemaError(f"index.splits.{name}.first_row", at.first_row, "a row of the index")
    if entry.bytes != len(INDEX_MAGIC) + rows * width:
        raise SchemaError("index.bytes", entry.bytes, f"{len(INDEX_MAGIC) + rows * width:,}")
    smallest, largest = entry.sizes.smallest, entry.sizes.largest
    if smallest[0] > largest[0] or smallest[1] > largest[1]:
        raise SchemaError("index.sizes.smallest", smallest, f"at most {largest}")
    if largest != [head.height, head.width]:
        raise SchemaError("index.sizes.largest", largest, f"[{head.height}, {head.width}]")
    return ForeignIndex(
        entry.name,
        entry.bytes,
        entry.sha256,
        entry.key_bytes,
        entry.block_bytes,
        (smallest[0], smallest[1]),
        (largest[0], largest[1]),
        {name: at.first_row for name, at in entry.splits.items()},
        {name: at.bytes for name, at in entry.splits.items()},
    )


def check_foreign_shards(head: schema.Head, url: str) -> None:
    """SchemaError for shards that an index does not have. One that came from a URL names no file of
    this machine."""
    known: dict[str, tuple[Any, Any]] = {}
    may_be_named = _may_be_named_afar if is_url(url) else _may_be_named
    for name, split in head.splits.items():
        samples, seen = 0, set()
        for at, entry in enumerate(split.shards):
            place = f"splits.{name}.shards.{at}"
            if not isinstance(entry, dict):
                raise SchemaError(place, entry, "an object")
            shard = entry.get("name")
            if not isinstance(shard, str) or not may_be_named(shard) or shard in seen:
                raise SchemaError(
                    f"{place}.name", shard, "the place of a tar, and no other shard's"
                )
            seen.add(shard)
            samples += schema.check_counts(place, entry)
            facts = entry["bytes"], entry["sha256"]
            if len(head.splits) > 1 and known.setdefault(shard, facts) != facts:
                raise SchemaError(f"{place}.sha256", entry["sha256"], "what other splits say of it")
        schema.check_split(name, split.samples, samples)


def _may_be_named(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and "::" not in name


def _may_be_named_afar(name: str) -> bool:
    """Below the manifest, or behind a URL that leads to no file of this machine."""
    if not _may_be_named(name):
        return False
    if is_url(name):
        return protocol_of(name) in _AFAR
    return not name.startswith("/") and ".." not in name.split("/")
