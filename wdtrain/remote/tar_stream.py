"""The members of somebody else's tar, in one pass over its bytes: ustar, old, GNU and pax headers.

Owns the walk over headers and WebDataset's rule by which names become samples. Memory is that of a
piece and a long name, whatever a header claims; links, folders and devices are passed over; what
cannot be read rightly (sparse files, a wrong checksum, an end in mid-member) is refused with its
place. The surprise: a tar ends at its first block of zeros, and what is behind that is no part of
it, as tar itself has it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from wdtrain.disk.failures import StoreError

_BLOCK: Final = 512
_MOST_NAME: Final = 1 << 16
"""Bytes of a GNU long name or of a pax header: a path has at most 4,096."""
_FILES: Final = b"0\x007"  # regular, as old tars have it, contiguous
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL_PAX, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_KEY: Final = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)
_MOST_ENDINGS: Final = 1_000
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}


class CompressedTar(StoreError):
    """A tar that is compressed as a whole: `how`."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(name, how)
        self.name, self.how = name, how

    @property
    def found(self) -> str:
        """What it is, and why that cannot work; what to do depends on what was asked for."""
        return f"{self.name} is compressed ({self.how}), so no place in it can be read alone"

    def __str__(self) -> str:
        return f"{self.found}; unpack it ({self.how} -dc) and give the plain tar"


class Endings:
    """How many members end in what. The first 1,000 different endings are kept: of names like
    `img.000001.jpg` each member has its own, and they would fill the memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._has_more = False

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, ending: str) -> None:
        if ending in self._counts or len(self._counts) < _MOST_ENDINGS:
            self._counts[ending] += 1
        else:
            self._has_more = True

    @property
    def first(self) -> str:
        """Of the first member, empty where there is none."""
        return next(iter(self._counts), "")

    def most_common(self, most: int) -> str:
        """The most common ones, and whether there are more than are counted."""
        shown = ", ".join(ending for ending, _ in self._counts.most_common(most))
        more = (
            f" (there are more than {_MOST_ENDINGS:,} different ones: a key ends at its first dot)"
        )
        return shown + more * self._has_more


class TarMember(NamedTuple):
    """A regular file of a tar: its name, and where its bytes lie."""

    name: str
    start: int
    size: int


def split_name(name: str) -> tuple[str, str] | None:
    """(key, ending in small letters) of a member, as WebDataset has them: the key ends at the first
    dot of the file's name and keeps its folders (without "./" in front). None for what is no part
    of a sample: without a dot, or with a name that begins with one."""
    found = _KEY.fullmatch(name.removeprefix("./"))
    return (found[1], found[2].lower()) if found else None


class TarStream:
    """Iterates over the regular files of a tar, whose bytes come in pieces.

    name: the tar's, for errors. `payload` gives the bytes of the member that was handed on last;
    what is not asked for is passed over.
    """

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self.name = name
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._at = 0  # in the tar: of the next byte
        self._left = 0  # of the member in hand

    def __iter__(self) -> Iterator[TarMember]:
        named: dict[str, str] = {}
        while (header := self._header()) is not None:
            kind = header[156:157]
            size = _number(header[124:136], self._refuse)
            if kind in (_LONG_NAME, _PAX, _LONG_LINK, _GLOBAL_PAX):
                text = self._text(size)
                if kind == _LONG_NAME:
                    named["path"] = _decoded(text.split(b"\0", 1)[0])
                elif kind == _PAX:
                    named.update(self._records(text))
                elif kind == _GLOBAL_PAX and {"path", "size"} & set(self._records(text)):
                    raise self._refuse("a header that gives all files one name or size")
                continue
            if kind == _SPARSE or any(name.startswith("GNU.sparse") for name in named):
                raise self._refuse("a sparse file, whose bytes do not lie in one piece")
            if "size" in named:
                size = self._size_of(named["size"])
            name = named["path"] if "path" in named else _name(header)
            named = {}
            start, self._left = self._at, size
            if kind in _FILES and not name.endswith("/"):
                yield TarMember(name, start, size)
            self._skip(self._left + -size % _BLOCK if _has_payload(kind) else 0)

    def payload(self) -> Iterator[memoryview]:
        """The bytes of the member in hand, in pieces."""
        while self._left:
            piece = self._next(self._left)
            if not piece:
                raise self._refuse(f"its end, where {self._left:,} bytes of a file should follow")
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """Reads on to the end of the file, for whoever counts or hashes its pieces."""
        while self._next(1 << 62):
            pass

    def _header(self) -> bytes | None:
        """The next header; None where the archive ends."""
        begin = self._at
        header = self._take(_BLOCK)
        if not begin:
            self._check_is_tar(header)
        if not header.strip(b"\0"):
            return None
        if len(header) < _BLOCK:
            raise self._refuse(f"its end, {len(header)} bytes into a header", begin)
        stated = _number(header[148:156], self._refuse)
        blanked = header[:148] + b" " * 8 + header[156:]
        found = sum(blanked)
        if stated != found and stated != found - 256 * sum(byte > 127 for byte in blanked):
            # nor as old tars have it, which take bytes as signed
            raise self._refuse("a header whose checksum is wrong", begin)
        return header

    def _check_is_tar(self, first: bytes) -> None:
        for magic, how in _COMPRESSED.items():
            if first.startswith(magic):
                raise CompressedTar(self.name, how)
        if not first:
            raise StoreError(f"{self.name} is empty, so it is no tar; fetch it again")

    def _records(self, text: bytes) -> dict[str, str]:
        """What a pax header says, by name."""
        found, at = {}, 0
        while at < len(text) and text[at]:
            length = re.compile(rb"(\d{1,9}) ").match(text, at)
            end = at + int(length[1]) if length else 0
            record = text[length.end() : end] if length and end <= len(text) else b""
            name, equals, value = record.removesuffix(b"\n").partition(b"=")
            if not equals or not record.endswith(b"\n"):
                raise self._refuse("a pax header that cannot be read")
            found[_decoded(name)] = _decoded(value)
            at = end
        return found

    def _size_of(self, text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise self._refuse(f"a pax header with the size {text[:40]!r}")
        return int(text)

    def _text(self, size: int) -> bytes:
        if size > _MOST_NAME:
            raise self._refuse(f"a name or header of {size:,} bytes; at most {_MOST_NAME:,} can be")
        text = self._take(size + -size % _BLOCK)
        if len(text) < size:
            raise self._refuse("its end in mid-header")
        return text[:size]

    def _take(self, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        found = b""
        while len(found) < count and (piece := self._next(count - len(found))):
            found += piece
        return found

    def _skip(self, count: int) -> None:
        left, self._left = count, 0
        while left:
            piece = self._next(left)
            if not piece:
                # Some writers leave out the padding of the last file; its bytes are all there.
                if left < _BLOCK:
                    return
                raise self._refuse(f"its end, where {left:,} bytes should follow")
            left -= len(piece)

    def _next(self, most: int) -> memoryview:
        """Bytes that follow, at most so many; none at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return memoryview(b"")
            self._piece = memoryview(piece)
        found, self._piece = self._piece[:most], self._piece[most:]
        self._at += len(found)
        return found

    def _refuse(self, what: str, at: int | None = None) -> StoreError:
        place = self._at if at is None else at
        return StoreError(
            f"{self.name} has, at byte {place:,}, {what}: it is no tar that can be read, or was "
            "cut off; fetch it again, or write it anew"
        )


def _has_payload(kind: bytes) -> bool:
    """Whether bytes follow a header: of links, devices and folders none do, whatever it says."""
    return kind not in (b"1", b"2", b"3", b"4", b"5", b"6")


def _number(field: bytes, refuse: Callable[[str], StoreError]) -> int:
    """A number of a header: octal, or base 256 where the first bit says so."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise refuse("a number below zero, or far too large")
        value = int.from_bytes(field[1:], "big")
    else:
        found = _OCTAL.fullmatch(field)
        if found is None:
            raise refuse(f"a number that is none, {field!r}")
        value = int(found[1] or b"0", 8)
    if value >= 1 << 50:
        raise refuse("a file of over a petabyte")
    return value


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return _decoded(name)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
