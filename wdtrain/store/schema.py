"""What a manifest may say: the type and range of all in it, checked before any of it is used.

A digest shows only that a manifest is what somebody wrote. The head is a pydantic schema; fields
are read by their kinds; shards, of which there may be a million, are checked by hand. Names that
the format does not know are passed over. The surprise: what parts say of each other is checked too
(a shard's blocks, bytes and samples must fit), since sizes read from here are what memory is taken
by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError

from wdtrain import fields as kinds
from wdtrain.disk.failures import StoreError
from wdtrain.fields import Encoding, Field, FieldError, ImageField
from wdtrain.store import frames, tar
from wdtrain.store.limits import MOST_FIELDS

CHANNELS: Final = 3
_FACTS: Final = ("member", "dtype", "shape")
"""What a manifest may tell of a field besides, for others."""

_KIND_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHARD_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*\.tar(\.zst)?")
_SPLIT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_XXH64: Final = re.compile(r"[0-9a-f]{16}")

_MOST_BYTES: Final = 1 << 50
_MOST_BLOCKS: Final = 1 << 24  # of a shard: its seek table takes 200 MB
_MOST_SAMPLES: Final = 1 << 53
_LEAST_FRAME: Final = 16
"""Bytes of the smallest zstd frame with size and checksum, and of its place in the seek table."""

_MISSING: Final = object()


class SchemaError(ValueError):
    """A field that cannot be what a packer wrote: "FIELD is VALUE; it must be ..."."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        found = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:80]
        found = "missing" if value is _MISSING else found
        super().__init__(f"{field} is {found}; it must be {rule}")


class Part(BaseModel):
    """An object of a manifest: of these types exactly, and no NaN in it."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


PixelCount = Annotated[int, pydantic.Field(ge=1, le=65_535)]
Whole = Annotated[int, pydantic.Field(ge=0, lt=1 << 63)]
Texts = dict[str, Any]
Channels = Annotated[list[int], pydantic.Field(min_length=CHANNELS, max_length=CHANNELS)]


class ChannelSums(Part):
    """Of the pixels of an image over the train split, by channel: whole numbers."""

    pixels: Annotated[int, pydantic.Field(ge=1)]
    sum: Channels
    square_sum: Channels


class _Rejects(Part):
    count: Whole
    reasons: dict[str, Whole]
    list: list[Texts]


class _Split(Part):
    samples: Whole
    shards: list[Any]


class Head(Part):
    """What all versions have, but their shards one by one."""

    encoding: Literal["image", "raw"]
    compression: Annotated[
        str, pydantic.Field(pattern=r"^(none|zstd:(-[1-7]|[1-9]|1[0-9]|2[0-2]))$")
    ]
    height: PixelCount
    width: PixelCount
    samples_per_block: Annotated[int, pydantic.Field(ge=1, le=1 << 32)]
    splits: Annotated[dict[str, _Split], pydantic.Field(min_length=1)]
    settings: Texts
    source: Texts
    rejects: _Rejects


class _Fields(Part):
    fields: Annotated[list[Texts], pydantic.Field(min_length=1, max_length=MOST_FIELDS)]
    statistics: dict[str, ChannelSums]


class DeclaredFields(NamedTuple):
    """The fields of a manifest in stored order, and the sums of each image."""

    fields: dict[str, Field]
    sums: dict[str, ChannelSums]


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], document: Mapping[str, Any], place: str = "") -> Model:
    """A document as a model of it; SchemaError names the first thing in it that is not so."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, (*place.split(), *first["loc"])))
        if first["type"] == "missing":
            raise SchemaError(field, _MISSING, "there") from error
        rule = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        raise SchemaError(field, first["input"], rule) from error


def head_of(document: Mapping[str, Any]) -> Head:
    """What every manifest has but its shards; SchemaError where this one has it not."""
    return validated(Head, document)


def fields_of(document: Mapping[str, Any], head: Head) -> DeclaredFields:
    """The fields that a manifest declares. SchemaError for what a packer does not write; StoreError
    for a kind that is not known here."""
    entries = validated(_Fields, document)
    fields: dict[str, Field] = {}
    for at, entry in enumerate(entries.fields):
        field = _field(f"fields.{at}", entry, head)
        if field.name in fields:
            raise SchemaError(f"fields.{at}.name", field.name, "no other field's")
        fields[field.name] = field
    images = [name for name, field in fields.items() if isinstance(field, ImageField)]
    if sorted(entries.statistics) != sorted(images):
        found = ", ".join(entries.statistics)[:80]
        raise SchemaError("statistics", found, f"of each image: {', '.join(images) or 'of none'}")
    for name, sums in entries.statistics.items():
        check_sums(f"statistics.{name}", sums)
    return DeclaredFields(fields, {name: entries.statistics[name] for name in images})


def _field(place: str, entry: Texts, head: Head) -> Field:
    values = dict(entry)
    name, kind = values.pop("name", _MISSING), values.get("kind", _MISSING)
    if not isinstance(name, str):
        raise SchemaError(f"{place}.name", name, "a text")
    if not isinstance(kind, str) or not _KIND_NAME.fullmatch(kind):
        raise SchemaError(f"{place}.kind", kind, f"one such as {', '.join(kinds.KINDS)}")
    if kind not in kinds.KINDS:
        try:
            kinds.kind_of(kind)
        except FieldError as error:
            raise StoreError(f"field {name!r:.80} cannot be read: {error}") from error
    facts: dict[str, Any] = {key: values.pop(key) for key in _FACTS if key in values}
    try:
        field = kinds.from_dict(name, values)
    except FieldError as error:
        raise SchemaError(place, values, f"a field ({error})") from error
    check_facts(place, field, facts, head.encoding, (head.height, head.width))
    return field


def check_facts(
    place: str, field: Field, facts: Mapping[str, Any], encoding: Encoding, size: tuple[int, int]
) -> None:
    """What is written of a field's members is as the field has them."""
    wanted = {
        "member": field.member(encoding),
        "dtype": str(field.dtype),
        "shape": list(field.shape(*size)),
    }
    for key, value in facts.items():
        if repr(value) != repr(wanted[key]):  # 24.0 is not 24
            raise SchemaError(f"{place}.{key}", str(value), repr(wanted[key]))


def check_sums(place: str, sums: ChannelSums) -> None:
    """ChannelSums over values of 0 to 255, whose mean and deviation are numbers."""
    for total, squares in zip(sums.sum, sums.square_sum, strict=True):
        if not 0 <= total <= squares <= 255 * total or total * total > sums.pixels * squares:
            found = (sums.pixels, total, squares)
            raise SchemaError(place, found, "pixels, sum and square_sum of values of 0 to 255")


def check_shards(head: Head, num_fields: int) -> None:
    """SchemaError for splits or shards that a packer does not write, of samples of so many
    fields."""
    least_sample = (1 + num_fields) * tar.BLOCK  # the headers of its members
    if head.samples_per_block > (most := (1 << 32) // least_sample):
        raise SchemaError("samples_per_block", head.samples_per_block, f"at most {most:,}")
    names: set[str] = set()
    for name, split in head.splits.items():
        shards = _Shards(f"splits.{name}.shards", head, names, least_sample)
        samples = sum(shards.check(at, entry) for at, entry in enumerate(split.shards))
        check_split(name, split.samples, samples)


def check_split(name: str, stated: int, samples: int) -> None:
    """A split may be named so, and has as many samples as its shards together."""
    if not _SPLIT_NAME.fullmatch(name):
        raise SchemaError("splits", name, "of names of small letters, digits and -")
    if samples != stated or samples > _MOST_SAMPLES:
        rule = f"its shards' sum, {samples:,}, and no more than {_MOST_SAMPLES:,}"
        raise SchemaError(f"splits.{name}.samples", stated, rule)


def check_counts(place: str, entry: Mapping[str, Any]) -> int:
    """The samples of a shard, whose hash and sizes are of their kinds."""
    sha256, samples, num_bytes = entry.get("sha256"), entry.get("samples"), entry.get("bytes")
    if type(sha256) is not str or not _SHA256.fullmatch(sha256):
        raise SchemaError(f"{place}.sha256", sha256, "64 hex digits")
    if type(num_bytes) is not int or not 0 < num_bytes < _MOST_BYTES:
        rule = f"a whole number from 1 to {_MOST_BYTES:,}"
        raise SchemaError(f"{place}.bytes", num_bytes, rule)
    if type(samples) is not int or samples < 1:
        raise SchemaError(f"{place}.samples", samples, "a whole number from 1")
    return samples


class _Shards:
    """The shards of a split, each with a name that no other has."""

    def __init__(self, place: str, head: Head, names: set[str], least_sample: int) -> None:
        self._place, self._names, self._least_sample = place, names, least_sample
        self._block_rows = head.samples_per_block
        self._is_compressed = head.compression != "none"
        self._suffix = ".tar.zst" if self._is_compressed else ".tar"

    def check(self, at: int, entry: object) -> int:
        """The samples of an entry."""
        if not isinstance(entry, dict):
            raise SchemaError(f"{self._place}.{at}", entry, "an object")
        name = entry.get("name")
        if type(name) is not str or not _SHARD_NAME.fullmatch(name) or name in self._names:
            self._refuse(at, "name", name, "one that a packer writes, and no other shard's")
        if not name.endswith(self._suffix) or name.endswith(".tar") == self._is_compressed:
            self._refuse(at, "name", name, f"one that ends with {self._suffix}")
        samples, num_bytes = check_counts(f"{self._place}.{at}", entry), entry["bytes"]
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
            if type(num_bytes) is not int or num_bytes < self._least_sample:
                rule = f"a whole number from {self._least_sample:,}"
                self._refuse(at, f"blocks.{number}.0", num_bytes, rule)
            if type(xxh64) is not str or not _XXH64.fullmatch(xxh64):
                self._refuse(at, f"blocks.{number}.1", xxh64, "16 hex digits")
            total += num_bytes
        total += len(tar.END_OF_ARCHIVE)
        if total != entry["bytes"]:
            self._refuse(at, "bytes", entry["bytes"], f"its blocks' sum and end, {total:,}")

    def _refuse(self, at: int, field: str, value: object, rule: str) -> NoReturn:
        raise SchemaError(f"{self._place}.{at}.{field}", value, rule)
