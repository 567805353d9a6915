"""What a manifest may say: every field's type and range, checked before any of it is used.

A digest shows only that a manifest is what somebody wrote. The head is a pydantic schema; shards,
of which there may be a million, are checked by hand. Names that the format does not know are passed
over. The surprise: what fields say of each other is checked too (a shard's blocks, bytes and
samples must fit), since sizes read from here are what memory is taken by.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.errors import FieldError
from wdtrain.store import frames, tar
from wdtrain.store.limits import IMAGE_MEMBERS, RAW_MEMBERS

CHANNELS: Final = 3
_SHARD_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*\.tar(\.zst)?")
_SPLIT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_XXH64: Final = re.compile(r"[0-9a-f]{16}")

_MOST_BYTES: Final = 1 << 50
_MOST_BLOCKS: Final = 1 << 24  # of a shard: its seek table takes 200 MB
_MOST_SAMPLES: Final = 1 << 53
_LEAST_FRAME: Final = 16
"""Bytes of the smallest zstd frame with size and checksum, and of its place in the seek table."""

_LEAST_SAMPLE: Final = 4 * tar.BLOCK
"""Bytes of the four headers of a sample."""


_MISSING: Final = object()


class SchemaError(ValueError):
    """A field that cannot be what a packer wrote: "FIELD is VALUE; it must be ..."."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        found = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:80]
        found = "missing" if value is _MISSING else found
        super().__init__(f"{field} is {found}; it must be {rule}")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


PixelCount = Annotated[int, Field(ge=1, le=65_535)]
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
Texts = dict[str, Any]


class _Field(_Part):
    member: str
    dtype: str
    shape: list[PixelCount]


class _Depth(_Field):
    kind: Literal["metric", "geometric", "inverse", "relative"]
    near_m: float
    far_m: float
    bits: int


class _Meta(_Part):
    member: str


class _Fields(_Part):
    overlay: _Field
    mask: _Field
    depth: _Depth
    meta: _Meta


Channels = Annotated[list[int], Field(min_length=CHANNELS, max_length=CHANNELS)]


class _Overlay(_Part):
    pixels: Annotated[int, Field(ge=1)]
    sum: Channels
    square_sum: Channels


class _Rejects(_Part):
    count: Whole
    reasons: dict[str, Whole]
    list: list[Texts]


class _Split(_Part):
    samples: Whole
    shards: list[Any]


class _Head(_Part):
    encoding: Literal["image", "raw"]
    compression: Annotated[str, Field(pattern=r"^(none|zstd:(-[1-7]|[1-9]|1[0-9]|2[0-2]))$")]
    height: PixelCount
    width: PixelCount
    samples_per_block: Annotated[int, Field(ge=1, le=(1 << 32) // _LEAST_SAMPLE)]
    fields: _Fields
    splits: Annotated[dict[str, _Split], Field(min_length=1)]
    overlay: _Overlay
    settings: Texts
    source: Texts
    rejects: _Rejects


def check(document: dict[str, Any]) -> None:
    """SchemaError where a document, of the format and version that is read here, is no manifest."""
    try:
        head = _Head.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise SchemaError(field, _MISSING, "there") from error
        rule = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        raise SchemaError(field, first["input"], rule) from error
    _check_fields(head)
    _check_sums(head.overlay)
    names: set[str] = set()
    for name, split in head.splits.items():
        if not _SPLIT_NAME.fullmatch(name):
            raise SchemaError("splits", name, "of names of small letters, digits and -")
        shards = _Shards(f"splits.{name}.shards", head, names)
        samples = sum(shards.check(at, entry) for at, entry in enumerate(split.shards))
        if samples != split.samples or samples > _MOST_SAMPLES:
            rule = f"its shards' sum, {samples:,}, and no more than {_MOST_SAMPLES:,}"
            raise SchemaError(f"splits.{name}.samples", split.samples, rule)


def _check_fields(head: _Head) -> None:
    fields, size = head.fields, [head.height, head.width]
    depth = {name: getattr(fields.depth, name) for name in ("kind", "near_m", "far_m", "bits")}
    try:
        dtype = str(DepthFormat(**depth).dtype)
    except FieldError as error:
        raise SchemaError("fields.depth", depth, f"a depth format ({error})") from error
    members = RAW_MEMBERS if head.encoding == "raw" else IMAGE_MEMBERS
    wanted = {"overlay": ("uint8", [*size, 3]), "mask": ("uint8", size), "depth": (dtype, size)}
    for name, facts in wanted.items():
        field: _Field = getattr(fields, name)
        if (field.dtype, field.shape) != facts:
            found = f"{field.dtype} {field.shape}"
            raise SchemaError(f"fields.{name}", found, f"{facts[0]} {facts[1]}")
    for name, member in members.items():
        found = getattr(fields, name).member
        if found != member:
            raise SchemaError(f"fields.{name}.member", found, repr(member))


def _check_sums(sums: _Overlay) -> None:
    """Sums over values of 0 to 255, whose mean and deviation are numbers."""
    for total, squares in zip(sums.sum, sums.square_sum, strict=True):
        if not 0 <= total <= squares <= 255 * total or total * total > sums.pixels * squares:
            found = (sums.pixels, total, squares)
            raise SchemaError("overlay", found, "pixels, sum and square_sum of values of 0 to 255")


class _Shards:
    """The shards of a split, each with a name that no other has."""

    def __init__(self, place: str, head: _Head, names: set[str]) -> None:
        self._place, self._names = place, names
        self._block_rows = head.samples_per_block
        self._is_compressed = head.compression != "none"
        self._suffix = ".tar.zst" if self._is_compressed else ".tar"

    def check(self, at: int, entry: object) -> int:
        """The samples of an entry."""
        if not isinstance(entry, dict):
            raise SchemaError(f"{self._place}.{at}", entry, "an object")
        name, sha256 = entry.get("name"), entry.get("sha256")
        samples, num_bytes = entry.get("samples"), entry.get("bytes")
        if type(name) is not str or not _SHARD_NAME.fullmatch(name) or name in self._names:
            self._refuse(at, "name", name, "one that a packer writes, and no other shard's")
        if not name.endswith(self._suffix) or name.endswith(".tar") == self._is_compressed:
            self._refuse(at, "name", name, f"one that ends with {self._suffix}")
        if type(sha256) is not str or not _SHA256.fullmatch(sha256):
            self._refuse(at, "sha256", sha256, "64 hex digits")
        if type(num_bytes) is not int or not 0 < num_bytes < _MOST_BYTES:
            self._refuse(at, "bytes", num_bytes, f"a whole number from 1 to {_MOST_BYTES:,}")
        if type(samples) is not int or samples < 1:
            self._refuse(at, "samples", samples, "a whole number from 1")
        self._names.add(name)
        blocks = -(-samples // self._block_rows)
        if not self._is_compressed:
            self._check_blocks(at, entry, blocks)
        elif blocks * _LEAST_FRAME + frames.seek_table_bytes(blocks + 1) > num_bytes or (
            blocks > _MOST_BLOCKS
        ):
            self._refuse(at, "samples", samples, f"what {num_bytes:,} bytes can hold")
        return samples

    def _check_blocks(self, at: int, entry: dict[str, Any], count: int) -> None:
        blocks, total = entry.get("blocks"), 0
        if not isinstance(blocks, list) or len(blocks) != count:
            self._refuse(at, "blocks", blocks, f"a list of the shard's {count:,} blocks")
        for number, block in enumerate(blocks):
            if not isinstance(block, list) or len(block) != 2:
                self._refuse(at, f"blocks.{number}", block, "[bytes, XXH64]")
            num_bytes, xxh64 = block
            if type(num_bytes) is not int or num_bytes < _LEAST_SAMPLE:
                rule = f"a whole number from {_LEAST_SAMPLE:,}"
                self._refuse(at, f"blocks.{number}.0", num_bytes, rule)
            if type(xxh64) is not str or not _XXH64.fullmatch(xxh64):
                self._refuse(at, f"blocks.{number}.1", xxh64, "16 hex digits")
            total += num_bytes
        total += len(tar.END_OF_ARCHIVE)
        if total != entry["bytes"]:
            self._refuse(at, "bytes", entry["bytes"], f"its blocks' sum and end, {total:,}")

    def _refuse(self, at: int, field: str, value: object, rule: str) -> NoReturn:
        raise SchemaError(f"{self._place}.{at}.{field}", value, rule)
