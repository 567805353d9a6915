"""Somebody else's tars as a source: the members of WebDataset shards, packed anew as they are
declared.

A field's pattern is what its member's name ends in (`jpg|jpeg`, `seg.png`). Samples come in the
order in which they lie in the tars, one after the other, keyed by what stands before the first dot.
One pass over the tars finds the place of every member; from then on any sample is one read.
The surprise: where two tars use the same names (each counts from 0), the tar's name goes before.
"""

from __future__ import annotations

import glob
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import PassedOver, content_of, signal_of
from wdtrain.fields import FieldError, Sample
from wdtrain.fields.base import Value
from wdtrain.fields.sample import decode_meta
from wdtrain.remote.access import RandomFile, open_file, pieces_of
from wdtrain.remote.braces import expand_braces
from wdtrain.remote.extents import MAX_MEMBER, extents
from wdtrain.remote.remote_files import Remote
from wdtrain.remote.tar_stream import CompressedTar, Endings, TarStream, split_name
from wdtrain.remote.unpacking import PACKED_ENDINGS, refusal
from wdtrain.remote.urls import is_url, redacted
from wdtrain.sources.families import ENDINGS
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.listing import as_array
from wdtrain.sources.names import key_of, printable
from wdtrain.sources.pattern_source import key_room, loaded

TAR_ENDINGS: Final = (".tar", *PACKED_ENDINGS)
_META: Final = "json"
_NONE, _SEVERAL = -1, -2
"""In the place of a member's beginning."""
_MOST_FAMILIES: Final = 64


@dataclass
class _Index:
    """What the pass over the tars has found so far: by sample, its name and tar, and by ending
    where its member begins and how long it is."""

    endings: Sequence[str]
    names: bytearray = field(default_factory=bytearray)
    tars: array[int] = field(default_factory=lambda: array("I"))
    places: list[array[int]] = field(default_factory=list)
    sizes: list[array[int]] = field(default_factory=list)
    digest: Any = field(default_factory=xxhash.xxh3_128)
    others: Endings = field(default_factory=Endings)
    passed_over: PassedOver = field(default_factory=PassedOver)

    def __post_init__(self) -> None:
        self.columns = {one: at for at, each in enumerate(self.endings) for one in each.split("|")}
        self.places = [array("q") for _ in self.endings]
        self.sizes = [array("q") for _ in self.endings]

    def read(self, url: str, number: int) -> None:
        """Adds the samples of one tar: members that follow each other and have one key."""
        last = None
        for member in TarStream(pieces_of(url), redacted(url)):
            split = split_name(member.name)
            if split is None:
                self.passed_over.add(os.fsencode(member.name))
                continue
            key, ending = split
            if key != last:
                self._begin(key, number)
                last = key
            self.digest.update(
                f"{member.name} {member.size} {member.start}\n".encode("utf-8", "surrogateescape")
            )
            at = self.columns.get(ending)
            if at is None:
                self.others.add(ending)
                continue
            if self.places[at][-1] == _NONE:
                self.places[at][-1], self.sizes[at][-1] = member.start, member.size
            else:
                self.places[at][-1], self.sizes[at][-1] = _SEVERAL, 0

    def _begin(self, key: str, number: int) -> None:
        self.names += os.fsencode(key) + b"\0"
        self.tars.append(number)
        for places, sizes in zip(self.places, self.sizes, strict=True):
            places.append(_NONE)
            sizes.append(0)


class TarSource:
    """The samples of plain tars, local or behind URLs. A `Source`."""

    def __init__(self, text: str, options: Sequence[FieldOption]) -> None:
        """Reads every tar once. text: a path or URL, with braces or, of local ones, `*`. StoreError
        for tars that cannot be read at places, or hold no such members."""
        self._urls = named_tars(text)
        self.options = list(options)
        self.fields = tuple(option.field for option in options)
        self._endings = [option.pattern.lower().lstrip(".") for option in options]
        index = _Index([*self._endings, _META])
        for number, url in enumerate(self._urls):
            try:
                index.read(url, number)
            except CompressedTar as error:
                raise StoreError(refusal(error, [text])) from error
        self._tars = np.array(index.tars, np.uint32)
        self._places, self._sizes = np.array(index.places), np.array(index.sizes)
        self._check_found(text, index)
        self._names = _in_order(index.names)
        if len(np.unique(self._names)) < len(self._names):
            self._names = _below_tars(self._names, self._tars, self._urls)
        self.passed_over = index.passed_over
        self.description: dict[str, Any] = {
            "kind": "tars",
            "members": index.digest.hexdigest(),
            "patterns": {option.name: option.declared for option in options},
        }
        self._room = key_room(self.fields)
        self._open: dict[int, RandomFile] = {}
        self._remote = Remote()
        self._loaded = (-1, 0)

    def _check_found(self, text: str, index: _Index) -> None:
        for option, ending, places in zip(self.options, self._endings, self._places, strict=False):
            if not (places != _NONE).any() and not self._field_is_optional(option):
                there = index.others.most_common(8) or "nothing"
                raise StoreError(
                    f"{redacted(text)} holds no member that ends in .{ending} ({option.name}); its "
                    f"members end in {there}: write one of these, as --field "
                    f"'{option.name}={option.kind}:{index.others.first or 'jpg'}'"
                )

    def _field_is_optional(self, option: FieldOption) -> bool:
        return self.fields[self.options.index(option)].optional

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._tars)

    def name(self, index: int) -> str:
        """What stands before the first dot of its members' names, folders too."""
        return printable(bytes(self._names[index]))

    def key(self, index: int) -> str:
        """The name as `names.key_of` writes it."""
        return key_of(bytes(self._names[index]), self._room)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n], all -1: tars do not tell what a picture was made of."""
        unknown = np.full(len(indices), -1, np.int64)
        return unknown, unknown.copy()

    def load(self, index: int) -> Sample:
        """The sample, without the optional fields that it lacks; its JSON is kept. FieldError for
        what is missing or cannot be used."""
        members = self._members(index)
        self._loaded = index, content_of(members)
        arrays: dict[str, Value] = {}
        key = self.name(index)
        pairs = zip(self.fields, self.options, self._endings, members, strict=False)
        for at, (field_, option, ending, data) in enumerate(pairs):
            if self._places[at, index] == _SEVERAL:
                raise FieldError(
                    f"more than one {field_.name}: its tar has several {key}.{ending}; keep one"
                )
            if data is not None:
                arrays[field_.name] = loaded(field_, option, data, file=f"{key}.{ending}")
            elif not field_.optional:
                raise FieldError(
                    f"missing {field_.name}: its tar has no {key}.{ending}; declare --field "
                    f"'{option.with_options('optional')}' to keep such samples, or raise "
                    "--max-rejects to leave them out"
                )
        return Sample(self.key(index), arrays, {**_meta(members[-1]), "name": key})

    def raw(self, index: int) -> list[bytes | None]:
        """The bytes of the member of each field, None where there is none."""
        return self._members(index)[: len(self.fields)]

    def _members(self, index: int) -> list[bytes | None]:
        """The bytes of a sample's members, of the fields and of its JSON; FieldError."""
        starts, stops = self._pieces(index)
        pieces = [self._read(index, start, stop) for start, stop in zip(starts, stops, strict=True)]
        found: list[bytes | None] = []
        members = zip(self._places[:, index].tolist(), self._sizes[:, index].tolist(), strict=True)
        for place, size in members:
            if place < 0 or size == 0:
                found.append(None if place < 0 else b"")
                continue
            piece = bisect_right(starts, place) - 1
            at = place - starts[piece]
            found.append(pieces[piece][at : at + size])
        return found

    def _read(self, index: int, start: int, stop: int) -> bytes:
        tar = int(self._tars[index])
        try:
            data = self._file(tar).read(start, stop - start)
        except OSError as error:
            raise FieldError(
                f"unreadable in {redacted(self._urls[tar])}: {error.strerror}"
            ) from error
        if len(data) < stop - start:
            raise FieldError(f"{redacted(self._urls[tar])} was cut off since it was listed")
        return data

    def _pieces(self, index: int) -> tuple[list[int], list[int]]:
        """Where the pieces that hold the members of a sample begin and end: what nobody declared
        may lie between them, and be large. FieldError where a member is too large to be read."""
        sizes = self._sizes[:, index]
        for at in np.flatnonzero(sizes > MAX_MEMBER).tolist():
            raise FieldError(
                f"a member too large: {self.name(index)}.{[*self._endings, _META][at]} holds "
                f"{int(sizes[at]):,} bytes, and at most {MAX_MEMBER:,} are read; make it smaller, "
                "or raise --max-rejects to leave such samples out"
            )
        return extents(self._places[:, index], sizes)

    def _file(self, tar: int) -> RandomFile:
        if tar not in self._open:
            self._open[tar] = open_file(self._urls[tar], remote=self._remote)
        return self._open[tar]

    def prefetch(self, index: int) -> None:
        """Begins to read the members of a sample that is loaded soon, without waiting for them."""
        try:
            for start, stop in zip(*self._pieces(index), strict=True):
                self._file(int(self._tars[index])).prefetch(start, stop - start)
        except (OSError, FieldError):  # found again, and rejected with its reason, at load
            return

    def signal(self, index: int) -> int:
        """See `contents.FromFiles`; what is behind a URL is assumed not to change."""
        url = self._urls[int(self._tars[index])]
        return 0 if is_url(url) else signal_of([url])

    def content(self, index: int) -> int:
        """See `contents.FromFiles`."""
        if self._loaded[0] == index:
            return self._loaded[1]
        try:
            return content_of(self._members(index))
        except FieldError:
            return content_of([None])


def is_tar(text: str) -> bool:
    """Whether a source's text names tars."""
    return text.partition("?")[0].lower().endswith(TAR_ENDINGS)


def named_tars(text: str) -> list[str]:
    """The tars that a text names, in order. StoreError for one that is not there."""
    if is_url(text):
        return expand_braces(text)
    found = [path for one in expand_braces(text) for path in _there(one)]
    for path in found:
        if not os.path.isfile(path):
            raise StoreError(f"{path} is no file; name the tars that there are")
    return found


def _there(text: str) -> list[str]:
    """A local path, or the sorted paths of a `*`."""
    if os.path.exists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text))
    if not found:
        raise StoreError(f"no file is named {text}; name the tars that there are")
    return found


def _in_order(found: bytearray) -> np.ndarray:
    """Fixed-width names in the order in which they were found."""
    return as_array(found, is_sorted=False)


def _below_tars(names: np.ndarray, tars: np.ndarray, urls: Sequence[str]) -> np.ndarray:
    """Names with that of their tar before them."""
    stems = [os.path.basename(url.partition("?")[0]).partition(".")[0] for url in urls]
    above = np.array([os.fsencode(f"{stem}/") for stem in stems])
    return np.char.add(above[tars], names)


def _meta(data: bytes | None) -> dict[str, Any]:
    """What a sample's JSON says, where it is an object; another value under its own name."""
    if data is None:
        return {}
    found = decode_meta(b'{"json":%b}' % data)[_META]  # others' JSON may be a list or a number
    return found if isinstance(found, dict) else {_META: found}


def member_families(text: str, most: int) -> dict[str, list[tuple[bytes, str]]]:
    """By ending, the first members of the first tar that may be fields, and their names."""
    found: dict[str, list[tuple[bytes, str]]] = {}
    url = named_tars(text)[0]
    tar = TarStream(pieces_of(url), redacted(url))
    for member in tar:
        split = split_name(member.name)
        if split is None or split[1].rpartition(".")[2] not in ENDINGS:
            continue
        if split[1] not in found and len(found) == _MOST_FAMILIES:
            break  # numbers that stand behind a dot: no endings, and each member would be kept
        kept = found.setdefault(split[1], [])
        if len(kept) < most and member.size <= MAX_MEMBER:
            kept.append((b"".join(tar.payload()), member.name))
        elif all(len(each) == most for each in found.values()):
            break
    return found
