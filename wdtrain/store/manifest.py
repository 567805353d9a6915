"""The manifest: what a packed dataset is, in one JSON file written last.

Owns its schema, its reading (from a folder or, through fsspec, a URL) and its digest; hands on the
frozen declarations the reader and the stream work from. The surprise: there is no time, host, path
or number of processes in it, so that packing the same source again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

from wdtrain.disk.failures import StoreError
from wdtrain.fields import Encoding, Field, ImageField
from wdtrain.fields.resize import Size, size_for
from wdtrain.remote.access import RandomFile, file_bytes, open_file, read_bytes, sha256_of
from wdtrain.remote.remote_files import Remote, RemoteAccess
from wdtrain.remote.urls import folder_of, is_url, join_url, redacted, was_redacted
from wdtrain.store import schema, version1
from wdtrain.store.foreign_index import (
    ForeignIndex,
    IndexFile,
    ReadableFile,
    check_foreign_shards,
    index_of,
)
from wdtrain.store.mapped import MappedFile

MANIFEST_NAME: Final = "manifest.json"
FORMAT: Final = "wdtrain-dataset"
VERSION: Final = 2

META: Final = "json"
"""What follows `KEY.` in the name of a sample's last member: what is known of it."""

Rgb = tuple[float, float, float]


class _Garbled(StoreError):
    """A manifest that is not what was written, perhaps only as it came here."""


class Block(NamedTuple):
    """The place of a block of a `.tar` shard, and the XXH64 of its bytes."""

    offset: int
    num_bytes: int
    xxh64: int


class Shard(NamedTuple):
    """One tar file: its name beside the manifest, its samples, size and SHA-256 (hex).

    `blocks` is empty for `.tar.zst`, whose seek table holds the same.
    """

    name: str
    samples: int
    num_bytes: int
    sha256: str
    blocks: tuple[Block, ...] = ()
    first_row: int = 0
    """In the index of foreign tars."""


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, and the number of samples in them all."""

    name: str
    samples: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A packed dataset. fields: by name, in the order in which each sample's members lie; sums: of
    the pixels of each image over the train split.

    `remote` is how its shards are reached where it is a URL; it is no part of what the dataset is.
    """

    url: str = field(repr=False)  # may hold secrets: printed by `redacted` alone
    version: int
    encoding: Encoding
    compression: str
    height: int
    width: int
    samples_per_block: int
    fields: dict[str, Field]
    splits: dict[str, Split]
    sums: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(repr=False)
    source: dict[str, Any] = field(repr=False)
    rejects: dict[str, Any] = field(repr=False)
    digest: str
    index: ForeignIndex | None = None
    remote: Remote = field(default_factory=Remote, repr=False, compare=False)

    @staticmethod
    def load(url: str, *, access: RemoteAccess | None = None) -> Manifest:
        """The manifest of a dataset folder, URL prefix, or of a path to its manifest.json.

        `access` says how a URL is reached, also for the shards. StoreError where there is no
        manifest, it is of a newer format, or it is not what was written; OSError where the network
        fails for longer than the tries last.
        """
        remote = Remote(access)
        url = folder_of(str(url), MANIFEST_NAME)
        if was_redacted(url):
            raise StoreError(
                f"{url} is a URL as it is shown, without what is secret in it, and so cannot be "
                "read; a run's folder does not keep the whole one: give it (--data of predict, "
                "TARGET of other tools, data.url of a recipe)"
            )
        tries = remote.access.tries if is_url(url) else 1
        for _ in range(tries - 1):
            with suppress(_Garbled):  # on its way here: asked for as often as what fails
                return parse_manifest(_read(url, remote), url=url, remote=remote)
        return parse_manifest(_read(url, remote), url=url, remote=remote)

    @property
    def samples(self) -> int:
        """Samples of all splits together."""
        return sum(split.samples for split in self.splits.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards together."""
        return sum(shard.num_bytes for split in self.splits.values() for shard in split.shards)

    @property
    def is_remote(self) -> bool:
        """Whether any of it is behind a URL."""
        names = [shard.name for split in self.splits.values() for shard in split.shards]
        return is_url(self.url) or (self.index is not None and any(map(is_url, names)))

    @cached_property
    def index_file(self) -> IndexFile:
        """Where the samples of foreign tars lie; StoreError where that is missing or cut off."""
        assert self.index is not None, "only foreign tars have an index"
        place = join_url(self.url, self.index.name)
        try:
            file: ReadableFile = (
                self.remote.open(place, identity=self.index.sha256)
                if is_url(place)
                else MappedFile(place)
            )
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.index.name} is missing in {redacted(self.url)}: fetch it again, or index "
                "the tars again (tools/inspect-shards index)"
            ) from error
        return IndexFile(file, self.index, len(self.fields))

    def check_size(self, size: object) -> None:
        """StoreError where pictures of several sizes are to be read without one being named."""
        if self.index is not None:
            self.index.check_size(size, redacted(self.url))

    def size_at(self, size: Any) -> Size:
        """(height, width) at which samples are read: see `resize.size_for` and `check_size`."""
        self.check_size(size)
        return size_for((self.height, self.width), size)

    @property
    def is_compressed(self) -> bool:
        return self.compression != "none"

    @cached_property
    def member_suffixes(self) -> tuple[str, ...]:
        """What follows `KEY.` in the names of a sample's members, in order; JSON is the last."""
        return member_suffixes(self.fields.values(), self.encoding)

    @cached_property
    def image(self) -> str:
        """The name of the only image; StoreError where there are several or none."""
        images = [name for name, field in self.fields.items() if isinstance(field, ImageField)]
        if len(images) != 1:
            found = f"the images {', '.join(images)}" if images else "no image"
            raise StoreError(
                f"{redacted(self.url)} has {found}, so which one is seen does not follow from it; "
                "name the input (tasks.NAME.input of a recipe)"
            )
        return images[0]

    def mean_and_std(self, image: str) -> tuple[Rgb, Rgb]:
        """Of an image's channels over the train split, in 0..1; StoreError where it is none."""
        if image not in self.sums:
            images = ", ".join(self.sums) or "none"
            raise StoreError(f"{redacted(self.url)} has no image {image!r}; it has {images}")
        return mean_and_std(self.sums[image])

    def split(self, name: str) -> Split:
        """The split of this name; StoreError names those there are."""
        if name not in self.splits:
            raise StoreError(
                f"{redacted(self.url)} has no split {name!r}; it has {', '.join(self.splits)}"
            )
        return self.splits[name]

    def shard_url(self, shard: Shard) -> str:
        return shard.name if is_url(shard.name) else join_url(self.url, shard.name)

    def open_shard(self, shard: Shard, url: str | None = None) -> RandomFile:
        """The file of a shard, where it belongs or at a given place; FileNotFoundError where
        there is none.

        Of a remote one nothing is asked for before its first read, which is when a missing or
        replaced one is found; what is read of it is kept if the dataset was loaded so.
        """
        url = url or self.shard_url(shard)
        if not is_url(url):
            return open_file(url)
        return self.remote.open(url, num_bytes=shard.num_bytes, identity=shard.sha256)

    def check_shards(self, *splits: str) -> None:
        """Every shard of these splits is there with its size, or StoreError: found out before
        hours of training, not after. Costs one look at each file, several at once.
        """
        shards = [shard for name in splits for shard in self.split(name).shards]
        if self.index is not None:
            _ = self.index_file
        pool = ThreadPoolExecutor(self.remote.access.connections)
        try:
            for shard, num_bytes in zip(shards, pool.map(self._file_bytes, shards), strict=True):
                if num_bytes != shard.num_bytes:
                    raise StoreError(
                        f"shard {shard.name} holds {num_bytes:,} bytes, the manifest says "
                        f"{shard.num_bytes:,}: it was cut off or replaced; fetch it again"
                    )
        finally:
            pool.shutdown(cancel_futures=True)

    def _file_bytes(self, shard: Shard) -> int:
        try:
            return file_bytes(self.shard_url(shard), remote=self.remote)
        except FileNotFoundError as error:
            raise StoreError(
                f"shard {shard.name} is missing in {redacted(self.url)}; fetch it again, or pack "
                "the dataset again"
            ) from error

    def content_of(self, shard: Shard) -> tuple[int, str]:
        """The bytes and the SHA-256 (hex) of a shard where it is stored: of a remote one that is
        not as the manifest says, read as often as a request that fails."""
        url = self.shard_url(shard)
        found = (-1, "")
        for _ in range(self.remote.access.tries if is_url(url) else 1):
            try:
                found = sha256_of(url, remote=self.remote)
            except FileNotFoundError as error:
                raise StoreError(
                    f"shard {shard.name} of {redacted(self.url)} is missing"
                ) from error
            if found == (shard.num_bytes, shard.sha256):
                break
        return found

    def verify(self) -> None:
        """Every shard is there with the size and SHA-256 the manifest names, or StoreError.

        Reads every byte once, from where the dataset lies and not from what is kept of it, and
        decodes nothing; `tools/inspect-shards verify` also decodes.
        """
        for split in self.splits.values():
            for shard in split.shards:
                num_bytes, sha256 = self.content_of(shard)
                if (num_bytes, sha256) != (shard.num_bytes, shard.sha256):
                    raise StoreError(
                        f"shard {shard.name} holds {num_bytes:,} bytes with SHA-256 "
                        f"{sha256[:12]}..., the manifest says {shard.num_bytes:,} and "
                        f"{shard.sha256[:12]}...; fetch it again or pack the dataset again"
                    )


def member_suffixes(fields: Iterable[Field], encoding: Encoding) -> tuple[str, ...]:
    """What follows `KEY.` in the names of a sample's members, in order: of the fields, and of its
    JSON."""
    return (*(field.member(encoding) for field in fields), META)


def mean_and_std(sums: dict[str, Any]) -> tuple[Rgb, Rgb]:
    """Channel mean and standard deviation in 0..1, of integer sums over uint8 pixels.

    The variance is taken in whole numbers, so it is exact however large the sums.
    """
    count = int(sums["pixels"])
    means, stds = [], []
    for total, squares in zip(sums["sum"], sums["square_sum"], strict=True):
        means.append(total / (255 * count))
        stds.append(math.sqrt(count * squares - total * total) / (255 * count))
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def canonical(value: Any) -> bytes:
    """JSON bytes that follow from the value alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's canonical JSON without its `digest`."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(canonical(content)).hexdigest()


def _parse_shard(entry: dict[str, Any], first_row: int) -> Shard:
    blocks, at = [], 0
    for num_bytes, xxh64 in entry.get("blocks", ()):
        blocks.append(Block(at, num_bytes, int(xxh64, 16)))
        at += num_bytes
    facts = entry["name"], entry["samples"], entry["bytes"], entry["sha256"]
    return Shard(*facts, tuple(blocks), first_row)


def _parse_split(name: str, entry: dict[str, Any], row: int) -> Split:
    """`row`: the first of the split in the index of foreign tars."""
    shards = []
    for each in entry["shards"]:
        shards.append(_parse_shard(each, row))
        row += each["samples"]
    return Split(name, entry["samples"], tuple(shards))


def _read(url: str, remote: Remote) -> bytes:
    try:
        return read_bytes(join_url(url, MANIFEST_NAME), remote=remote)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"{redacted(url)} holds no {MANIFEST_NAME}, so it is not a packed dataset (or its "
            "packing has not ended); pack one with tools/pack-shards SOURCE TARGET"
        ) from error


def parse_manifest(data: bytes, *, url: str, remote: Remote | None = None) -> Manifest:
    """The manifest that these bytes are, read from `url`; StoreError when they are not one."""
    place = redacted(url)
    try:
        document = json.loads(data)
        digest = digest_of(document) if isinstance(document, dict) else ""
    except (ValueError, RecursionError) as error:
        raise _Garbled(f"{MANIFEST_NAME} of {place} is not readable JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreError(f"{MANIFEST_NAME} of {place} is not that of a {FORMAT}")
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise StoreError(
            f"{place} is of format version {version}; this version of wdtrain reads up to "
            f"{VERSION}; update wdtrain to read it"
        )
    if document.get("digest") != digest:
        raise _Garbled(
            f"{MANIFEST_NAME} of {place} was changed after it was written (its digest does not "
            "fit); fetch it again or pack the dataset again"
        )
    try:
        head = schema.head_of(document)
        is_first = version == version1.VERSION_1
        read = version1.fields_of_version1 if is_first else schema.fields_of
        declared = read(document, head)
        index = None
        if "index" in document:
            index = index_of(document, head, declared.fields.values())
            check_foreign_shards(head, url)
        else:
            schema.check_shards(head, len(declared.fields))
    except schema.SchemaError as error:
        raise StoreError(
            f"{MANIFEST_NAME} of {place} is not one that a packer writes: {error}; pack the "
            "dataset again, or ask for it where it comes from"
        ) from error
    except StoreError as error:
        raise StoreError(f"{place}: {error}") from error
    return _build(document, declared, index, url=url, remote=remote or Remote())


def _build(
    document: dict[str, Any],
    declared: schema.DeclaredFields,
    index: ForeignIndex | None,
    *,
    url: str,
    remote: Remote,
) -> Manifest:
    first_rows = {} if index is None else index.first_rows
    return Manifest(
        url=url,
        version=document["version"],
        encoding=document["encoding"],
        compression=document["compression"],
        height=document["height"],
        width=document["width"],
        samples_per_block=document["samples_per_block"],
        fields=declared.fields,
        splits={
            name: _parse_split(name, entry, first_rows.get(name, 0))
            for name, entry in document["splits"].items()
        },
        sums={name: sums.model_dump() for name, sums in declared.sums.items()},
        settings=document["settings"],
        source=document["source"],
        rejects=document["rejects"],
        digest=document["digest"],
        index=index,
        remote=remote,
    )
