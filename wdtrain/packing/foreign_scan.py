"""One pass over somebody else's tars: which samples there are, and where their members lie.

Owns the reading of each tar from its beginning to its end, once, and the judgement of each sample:
found, or rejected with a reason. What was found is written to a file of records as it comes, so
memory does not grow with the tars. The first samples are decoded, so that what a declaration leaves
open is asked before hours of reading; of the others only the heads are looked at.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.fields import Field, FieldError
from wdtrain.fields.errors import AmbiguousError, about_file, decoding, kind_of_reject
from wdtrain.fields.resize import Size
from wdtrain.remote.access import pieces_of
from wdtrain.remote.extents import MAX_BLOCK, MAX_MEMBER, extents
from wdtrain.remote.remote_files import Remote
from wdtrain.remote.tar_stream import Endings, TarMember, TarStream, split_name
from wdtrain.store.foreign import foreign_pixels, size_in_head
from wdtrain.store.foreign_index import members_checksum

_PROBED: Final = 8
"""Samples that are decoded whole."""
_HOPELESS: Final = 64
"""So many rejects before the first sample that can be used: the declarations fit none."""
_TOLD_REJECTS: Final = 10_000
_SHOWN_ENDINGS: Final = 12
_AT_ONCE: Final = 1 << 12
"""Records that are held before they are written."""


class ForeignField(NamedTuple):
    """A field, and on which endings its members end (in small letters): any of them, once.
    declared: how a person has written that."""

    field: Field
    endings: tuple[str, ...]
    declared: str = ""

    def __str__(self) -> str:
        plain = f"{self.field.name}={self.field.kind}:{'|'.join(self.endings)}"
        return self.declared or plain


class ScannedTar(NamedTuple):
    """A tar that was read: its bytes, their SHA-256 (hex), and its rows in the records."""

    num_bytes: int
    sha256: str
    first: int
    stop: int


def scan_layout(num_fields: int) -> np.dtype:
    """A sample that was found. name_at, name_bytes: in the file of names; members: their checksum;
    group: 63 bits of its group's name, -1 for none; shard: number of its tar; split: for whoever
    divides them."""
    return np.dtype(
        [
            ("name_hash", "<u8"),
            ("members", "<u8"),
            ("name_at", "<u8"),
            ("name_bytes", "<u4"),
            ("group", "<i8"),
            ("shard", "<u4"),
            ("height", "<u4"),
            ("width", "<u4"),
            ("split", "i1"),
            ("starts", "<u8", (num_fields,)),
            ("sizes", "<u4", (num_fields,)),
        ]
    )


@dataclass
class Rejected:
    """How many samples were left out, how many of each kind of reason, and the first with why."""

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, str]] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        self.kinds[kind_of_reject(reason)] += 1
        if len(self.first) < _TOLD_REJECTS:
            self.first.append({"key": shown_name(name_bytes(name)), "reason": reason})

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "reasons": dict(self.kinds), "list": self.first}


@dataclass
class _Sample:
    """The members of one sample as they come: by column the place, and the bytes."""

    name: str
    places: dict[int, TarMember] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    endings: Endings = field(default_factory=Endings)
    problem: str = ""


class Scan:
    """The samples of several tars, written to `records` and `names` as they are found.

    group_of: the group of a sample's name, None where it is in none.
    """

    def __init__(
        self,
        fields: Sequence[ForeignField],
        records: Path,
        names: Path,
        group_of: Callable[[str], str | None],
    ) -> None:
        self._fields, self._group_of = fields, group_of
        self._columns = {
            ending: column for column, each in enumerate(fields) for ending in each.endings
        }
        self.layout = scan_layout(len(fields))
        self._records: BinaryIO = records.open("wb")
        self._names: BinaryIO = names.open("wb")
        self._held: list[tuple[Any, ...]] = []
        self.found, self.rejected = 0, Rejected()
        self._name_at = self._decoded = 0
        self._judged: list[list[tuple[bytes | np.ndarray, str]]] = [[] for _ in fields]
        self._endings = Endings()

    def tar(self, number: int, url: str, name: str, remote: Remote | None) -> ScannedTar:
        """Reads a tar to its end. StoreError, which names it, for one that cannot be read, or in
        which no sample can be used."""
        first, seen = self.found, self.found + self.rejected.count
        digest, num_bytes = hashlib.sha256(), 0

        def hashed() -> Iterator[bytes]:
            nonlocal num_bytes
            for piece in pieces_of(url, remote):
                digest.update(piece)
                num_bytes += len(piece)
                yield piece

        stream = TarStream(hashed(), name)
        for sample in self._samples(stream):
            self._add(sample, number, name)
        stream.drain()
        if self.found == 0 and self.rejected.count > 0:
            raise StoreError(self._nothing(name))
        if self.found + self.rejected.count == seen and not self._endings:
            raise StoreError(
                f"{name} holds no file that is named as in a WebDataset (KEY.ENDING), so there is "
                "nothing to index in it; give other tars"
            )
        return ScannedTar(num_bytes, digest.hexdigest(), first, self.found)

    def judge(self) -> None:
        """StoreError where the first samples together leave open what they mean: asked of eight,
        or of all where there are fewer."""
        for each, contents in zip(self._fields, self._judged, strict=True):
            try:
                each.field.judge(contents)
            except AmbiguousError as error:
                raise self._question(error) from error
            contents.clear()

    def _question(self, error: AmbiguousError) -> StoreError:
        (each,) = (one for one in self._fields if one.field.name == error.name)
        return StoreError(str(error).replace("PATTERN", str(each).partition(":")[2]))

    def close(self) -> None:
        """All that was found is in the files."""
        self._flush()
        self._records.close()
        self._names.close()

    def _samples(self, stream: TarStream) -> Iterator[_Sample]:
        """Members that follow one another and share a key are a sample, as in WebDataset."""
        sample: _Sample | None = None
        for member in stream:
            named = split_name(member.name)
            if named is None:
                continue
            key, ending = named
            if sample is None or sample.name != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            sample.endings.add(ending)
            self._endings.add(ending)
            column = self._columns.get(ending)
            if column is not None:
                self._take(sample, column, member, stream)
        if sample is not None:
            yield sample

    def _take(self, sample: _Sample, column: int, member: TarMember, stream: TarStream) -> None:
        name = self._fields[column].field.name
        if column in sample.places:
            sample.problem = f"more than one {name}: keep one of {sample.endings.most_common(8)}"
        elif not 0 < member.size <= MAX_MEMBER:
            sample.problem = (
                f"{name} of a size that cannot be: {member.size:,} bytes; from 1 to "
                f"{MAX_MEMBER:,} can be indexed"
            )
        else:
            sample.places[column] = member
            sample.data[column] = b"".join(stream.payload())

    def _add(self, sample: _Sample, number: int, name: str) -> None:
        try:
            if sample.problem:
                raise FieldError(sample.problem)
            places = [(member.start, member.size) for member in sample.places.values()]
            begins, ends = extents(*np.array(places, np.int64).reshape(-1, 2).T)
            if (read := sum(ends) - sum(begins)) > MAX_BLOCK:
                raise FieldError(f"too large: {read:,} bytes, and {MAX_BLOCK:,} is the most")
            height, width = self._checked(sample)
            if self._decoded == _PROBED:
                self.judge()
        except AmbiguousError as error:
            raise self._question(error) from error
        except FieldError as error:
            self.rejected.add(sample.name, str(error))
            if self.rejected.count == _HOPELESS and not self.found:
                raise StoreError(self._nothing(name)) from error
            return
        columns, stored = range(len(self._fields)), name_bytes(sample.name)
        starts = [sample.places[at].start if at in sample.places else 0 for at in columns]
        sizes = [sample.places[at].size if at in sample.places else 0 for at in columns]
        in_tar = sorted(sample.data, key=lambda at: sample.places[at].start)
        checksum = members_checksum(sample.data[at] for at in in_tar)
        place = self._name_at, len(stored), group_id(self._group_of(sample.name)), number
        facts = (name_hash(stored), checksum, *place, height, width, 0, starts, sizes)
        self._held.append(facts)
        self._names.write(stored)
        self._name_at += len(stored)
        self.found += 1
        if len(self._held) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._records.write(np.array(self._held, self.layout).tobytes())
        self._held.clear()

    def _checked(self, sample: _Sample) -> Size:
        """(height, width) of a sample whose members are all there and of one size; FieldError."""
        sizes: dict[str, Size] = {}
        for column, each in enumerate(self._fields):
            name = each.field.name
            data = sample.data.get(column)
            if data is None:
                if not each.field.optional:
                    wanted, found = " or ".join(each.endings), sample.endings.most_common(8)
                    raise FieldError(f"missing {name}: no member ends on {wanted}, only on {found}")
                continue
            file = sample.places[column].name
            try:
                sizes[name] = self._size_of(column, data, file)
            except AmbiguousError:
                raise
            except FieldError as error:
                raise FieldError(about_file(str(error), field=name, file=file)) from error
        if len(set(sizes.values())) != 1:
            listed = ", ".join(
                f"{name} {height} x {width}" for name, (height, width) in sizes.items()
            )
            raise FieldError(f"members of different sizes: {listed or 'none is there'}")
        if self._decoded < _PROBED:
            self._keep_to_judge(sample)
        self._decoded += 1
        return next(iter(sizes.values()))

    def _size_of(self, column: int, data: bytes, file: str) -> Size:
        """(height, width) of a member; the first ones are decoded."""
        each = self._fields[column]
        with decoding(file):
            if self._decoded < _PROBED:
                foreign_pixels(each.field, each.field.load(data, file=file))
            return member_size(each.field, data, file)

    def _keep_to_judge(self, sample: _Sample) -> None:
        """Keeps the members of a sample that can be used, of fields that are open."""
        for column, each in enumerate(self._fields):
            if each.field.is_open and (data := sample.data.get(column)) is not None:
                self._judged[column].append((data, sample.places[column].name))

    def _nothing(self, name: str) -> str:
        kinds = ", ".join(counted_kinds(self.rejected))
        first = self.rejected.first[0]
        there = self._endings.most_common(_SHOWN_ENDINGS)
        wanted = " ".join(f"--field '{each}'" for each in self._fields)
        return (
            f"no sample of {name} can be used so far ({kinds}; the first is {first['key']}: "
            f"{first['reason']}); its members end on {there}; {wanted} was asked for: name the "
            "endings that they have, or declare with ,optional a field that samples may lack"
        )


def name_bytes(name: str) -> bytes:
    """A name as it stands in its tar."""
    return name.encode("utf-8", "surrogateescape")


def shown_name(name: bytes) -> str:
    """A name for people; bytes that are no UTF-8 as \\xNN."""
    return name.decode("utf-8", "backslashreplace")


def name_hash(name: bytes) -> int:
    """64 bits of a name."""
    return xxhash.xxh3_64_intdigest(name)


def group_id(group: str | None) -> int:
    """63 bits of a group's name, -1 where there is none."""
    return -1 if group is None else xxhash.xxh3_64_intdigest(name_bytes(group)) >> 1


def member_size(of: Field, data: bytes, file: str) -> Size:
    """(height, width) of a person's file as it is shown, from its head where that says it."""
    return size_in_head(data, file) or of.size_of(of.load(data, file=file))


def counted_kinds(rejected: Rejected) -> Iterable[str]:
    """The reasons and their counts, the most common first."""
    return (f"{count:,} x {kind}" for kind, count in rejected.kinds.most_common(4))
