"""How compressed tars are unpacked: by a command for a person's shell, or here, to look into one.

No place in a compressed tar can be read alone, so they are unpacked first. Owns the endings, the
programs, and what the tars are called that are there then.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

import zstandard

from wdtrain.disk.failures import StoreError
from wdtrain.remote.braces import expand_braces
from wdtrain.remote.tar_stream import CompressedTar
from wdtrain.remote.urls import has_secrets, is_url, protocol_of

PACKED_ENDINGS: Final = {
    ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar.xz": "xz", ".tar.bz2": "bzip2",
    ".tar.lz4": "lz4",
}  # fmt: skip
"""By the ending of a compressed tar, the program that unpacks it."""
_LOCAL_WILD: Final = re.compile(r"(\[[\[*?]\]|\*|\?|\[[\w!-]+\]|\{[\w.,/-]*\})")
_FAR_WILD: Final = re.compile(r"(\{[\w.,/-]*\})")
_FETCHED: Final = ("http", "https", "ftp")
"""What curl fetches; each object store has a program of its own."""
_PIECE: Final = 1 << 20


class Unpacking(NamedTuple):
    """command: what a person pastes into a shell; "" where it would hold secrets, or the program
    that fetches the tars is not known. plain: what names the tars that are there then, a text for
    each that was given."""

    command: str
    plain: list[str]


def unpacking(texts: Sequence[str], how: str) -> Unpacking:
    """How all tars that these paths or URLs name are unpacked, braces and `*` among them; `how`
    where their endings do not say it."""
    plain = list(map(_plain, texts))
    if not all(map(_can_be_told, texts)):
        return Unpacking("", plain)
    lines = []
    groups: dict[tuple[bool, str, str, str], list[str]] = {}
    for text in texts:
        groups.setdefault((is_url(text), _how(text) or how, *_cut_and_added(text)), []).append(text)
    for (is_far, program, cut, added), some in groups.items():
        words = " ".join(map(_shell_words, some))
        if len(some) == 1 and words == shlex.quote(some[0]):
            source, target = words, shlex.quote(_plain(some[0]))
        elif is_far:
            source, target = '"$f"', f'"$(basename "${{f%%\\?*}}" {cut}){added}"'
        else:
            source, target = '"$f"', f'"${{f%{cut}}}{added}"'
        unpack = f"curl -fL {source} | {program} -dc" if is_far else f"{program} -dc {source}"
        line = f"{unpack} > {target}"
        lines.append(line if source == words else f"for f in {words}; do {line}; done")
    return Unpacking(" && ".join(lines), plain)


def unpacking_of_folder(folder: Path) -> Unpacking | None:
    """The same of all compressed tars in a folder; None where there are none, or where the folder's
    name has braces, which nothing takes for themselves."""
    found = {}
    is_named = not set("{}") & set(str(folder))
    for path in sorted(folder.iterdir()) if is_named and folder.is_dir() else ():
        if ending := packed_ending(path.name):
            found[f"{glob.escape(str(folder))}/*{path.name[-len(ending) :]}"] = PACKED_ENDINGS[
                ending
            ]
    return unpacking(list(found), next(iter(found.values()))) if found else None


def refusal(error: CompressedTar, texts: Sequence[str]) -> str:
    """What is said of a compressed tar among those that these texts name: how to unpack all."""
    found = unpacking(texts, error.how)
    if not found.command:
        return (
            f"{error.found}; fetch it, unpack it ({error.how} -dc), and give the "
            "plain tar that is there then"
        )
    them = "them" if found.command.startswith("for ") else "it"
    return f"{error.found}; unpack {them}, and take what is there then: {found.command}"


def packed_ending(name: str) -> str:
    """The ending of a compressed tar's name; "" of others."""
    return next((each for each in PACKED_ENDINGS if name.lower().endswith(each)), "")


def _can_be_told(text: str) -> bool:
    """Whether a command may name it, and its program is known."""
    return not is_url(text) or (protocol_of(text) in _FETCHED and not has_secrets(text))


def _how(text: str) -> str | None:
    return PACKED_ENDINGS.get(packed_ending(_path(text)))


def _path(text: str) -> str:
    """A path or URL without its query."""
    return text.partition("?")[0] if is_url(text) else text


def _cut_and_added(text: str) -> tuple[str, str]:
    """What a plain tar's name is without at its end, and what it has there instead."""
    name = _path(text)
    ending = packed_ending(name)
    if ending == ".tgz":
        return name[-len(ending) :], ".tar"
    if ending:
        return name[-len(ending) + len(".tar") :], ""
    is_tar = name.lower().endswith(".tar")
    return (name[-len(".tar") :] if is_tar else ""), "-plain.tar"


def _plain(text: str) -> str:
    cut, added = _cut_and_added(text)
    name = _path(text).rpartition("/")[2] if is_url(text) else text
    return name.removesuffix(cut) + added


def _shell_words(text: str) -> str:
    """The text so that a shell, too, takes it for all files that it stands for."""
    if not is_url(text) and os.path.exists(text):
        return shlex.quote(text)
    parts = (_FAR_WILD if is_url(text) else _LOCAL_WILD).split(text)
    if any("{" in part for part in parts[::2]):
        return " ".join(map(shlex.quote, expand_braces(text)))
    pairs = enumerate(parts)
    return "".join(part if at % 2 else shlex.quote(part) if part else "" for at, part in pairs)


# ---------------------------------------------------------------------------- unpacked here


class _Readable(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def unpacked(pieces: Iterable[bytes], how: str, name: str) -> Iterator[bytes]:
    """The bytes of a tar that is compressed. StoreError, which names it, for one that is damaged,
    or whose compression is not known here."""
    source = io.BufferedReader(_Readable(pieces), _PIECE)
    try:
        file: IO[bytes]
        if how == "gzip":
            file = gzip.GzipFile(fileobj=source)  # type: ignore[assignment]
        elif how == "bzip2":
            file = bz2.BZ2File(source)
        elif how == "xz":
            file = lzma.LZMAFile(source)  # noqa: SIM115
        elif how == "zstd":
            file = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        else:
            raise StoreError(f"{name} is compressed by {how}, which is not read here")
        while piece := file.read(_PIECE):
            yield piece
    except (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise StoreError(f"{name} cannot be unpacked: {error}; fetch it again") from error
