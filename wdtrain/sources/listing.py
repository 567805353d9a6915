"""Listing a folder of triples in at most 100 bytes a triple, without passing over a file.

Names go into one byte string as they are found and become one fixed-width array at the end; a
Python string a file would be 70 to 100 bytes each, four times a triple. Masks, depths and JSON are
kept as 64-bit hashes, only to find those that no overlay goes with. What is written otherwise than
usual (`.overlay.JPG`, `.mask.tif`) is kept beside, by hash. All else is counted.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import xxhash

from wdtrain.disk.sourcefiles import PassedOver, is_clutter

OVERLAY_SUFFIXES: Final = {
    b"j": ".overlay.jpg",
    b"e": ".overlay.jpeg",
    b"f": ".overlay.jpe",
    b"g": ".overlay.jfif",
    b"p": ".overlay.png",
    b"w": ".overlay.webp",
    b"t": ".overlay.tif",
    b"u": ".overlay.tiff",
    b"b": ".overlay.bmp",
}
"""By the mark that ends a name in the listing. Endings may be in upper case too."""
NO_OVERLAY: Final = b"-"
_MEMBER: Final = re.compile(rb"(?is)(.+?)(\.(?:(overlay|mask|depth)\.[^.]+|json))")
_MARKS: Final = {suffix.encode(): mark for mark, suffix in OVERLAY_SUFFIXES.items()}
_PARTNERS: Final = (b".mask.png", b".depth.png")
_DECLARATION: Final = b"triples.json"
_CHUNK: Final = 4096
_DIGEST_MASK: Final = (1 << 128) - 1


class Unusual(NamedTuple):
    """Suffixes that are not written as usual: `numbers` into `suffixes`, by sorted hash of stem."""

    hashes: np.ndarray
    numbers: np.ndarray
    suffixes: list[bytes]

    def of(self, stem: bytes) -> list[bytes]:
        """Those of one stem, sorted."""
        if not self.suffixes:
            return []
        wanted = np.uint64(_hash(stem))
        first, last = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))
        return sorted(self.suffixes[number] for number in self.numbers[first:last].tolist())


@dataclass(frozen=True)
class Listing:
    """The triples of a folder: `names` is a sorted bytes array [n], each the path below the
    folder without suffix, and a mark for the overlay's suffix. `digest` is of the names of all
    files of triples, in any order of listing."""

    names: np.ndarray
    digest: str
    has_json: bool
    unusual: Unusual
    passed_over: PassedOver


@dataclass
class _Found:
    """What a walk has found so far."""

    names: bytearray = field(default_factory=bytearray)
    digest: int = 0
    overlays: array[int] = field(default_factory=lambda: array("Q"))
    partners: array[int] = field(default_factory=lambda: array("Q"))
    jsons: array[int] = field(default_factory=lambda: array("Q"))
    unusual: tuple[array[int], array[int]] = field(default_factory=lambda: (array("Q"), array("I")))
    suffixes: dict[bytes, int] = field(default_factory=dict)
    passed_over: PassedOver = field(default_factory=PassedOver)

    def add(self, name: bytes) -> None:
        member = _member(name)
        if member is None:
            if name != _DECLARATION:
                self.passed_over.add(name)
            return
        stem, suffix = member
        self.digest += xxhash.xxh3_128_intdigest(name)
        stem_hash, usual = _hash(stem), suffix.lower()
        if mark := _MARKS.get(usual):
            self.names += stem + mark + b"\0"
            self.overlays.append(stem_hash)
        elif usual == b".json":
            self.jsons.append(stem_hash)
        else:
            self.partners.append(stem_hash)
        if usual != suffix or not (mark or usual in _PARTNERS or usual == b".json"):
            self.unusual[0].append(stem_hash)
            self.unusual[1].append(self.suffixes.setdefault(suffix, len(self.suffixes)))


def list_folder(folder: Path) -> Listing:
    """The triples of a folder and the folders below it, links to folders among them."""
    found = _Found()
    for name in files_below(os.fsencode(folder), found.passed_over):
        found.add(name)
    has_json = bool(found.jsons)
    _add_those_without(folder, found)
    hashes, numbers = (np.array(values) for values in found.unusual)
    order = np.argsort(hashes, kind="stable")
    unusual = Unusual(hashes[order], numbers[order], list(found.suffixes))
    digest = f"{found.digest & _DIGEST_MASK:032x}"
    return Listing(as_array(found.names), digest, has_json, unusual, found.passed_over)


def _add_those_without(folder: Path, found: _Found) -> None:
    """Masks and depths without an overlay become names too, and JSON without both is passed over:
    a second listing, if there are any."""
    if not found.overlays:
        return
    orphans = outside(found.partners, found.overlays)
    strays = outside(found.jsons, found.overlays) - orphans
    found.overlays, found.partners, found.jsons = array("Q"), array("Q"), array("Q")
    if not orphans and not strays:
        return
    stems = set()
    for name in files_below(os.fsencode(folder), PassedOver()):
        stem, suffix = _member(name) or (b"", b"")
        if stem and _hash(stem) in orphans:
            stems.add(stem)
        elif suffix.lower() == b".json" and _hash(stem) in strays:
            found.passed_over.add(name)
    for stem in stems:
        found.names += stem + NO_OVERLAY + b"\0"


def files_below(top: bytes, passed_over: PassedOver) -> Iterator[bytes]:
    """The path below the top folder of each file, of whatever kind, that is not hidden.

    Links to folders are followed once all that is there without them is listed, each folder once:
    so neither does a loop of links go on for ever, nor has a triple two names.
    """
    seen = {_identity(top)}
    folders, links = deque([b""]), list[bytes]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            link = links.pop()
            if (identity := _identity(top + b"/" + link)) in seen:
                passed_over.add(link, "a link to a folder that is listed already")
                continue
            seen.add(identity)
            folders.append(link + b"/")
        prefix = folders.popleft()
        with os.scandir(top + b"/" + prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if is_clutter(os.fsdecode(entry.name)):
                    continue
                if entry.name.startswith(b"."):
                    passed_over.add(name, "hidden")
                elif not _is_folder(entry):
                    yield name
                elif entry.is_symlink():
                    links.append(name)
                else:
                    seen.add(_identity(top + b"/" + name))
                    folders.append(name + b"/")


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look: found again when it is read
        return False


def _identity(folder: bytes) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _member(name: bytes) -> tuple[bytes, bytes] | None:
    """(path without suffix, suffix) of a file that says which part of a triple it is."""
    match = _MEMBER.fullmatch(name)
    if match is None or name == _DECLARATION or match[1].endswith(b"/"):
        return None
    return match[1], match[2]


def _hash(stem: bytes) -> int:
    return xxhash.xxh3_64_intdigest(stem)


def outside(values: array[int], known: array[int]) -> set[int]:
    """Those values that are not among the known ones (at least one); sorts in place."""
    known_sorted = np.frombuffer(known, np.uint64)
    known_sorted.sort()
    outside: set[int] = set()
    for start in range(0, len(values), _CHUNK):
        part = np.frombuffer(values, np.uint64)[start : start + _CHUNK]
        places = np.minimum(np.searchsorted(known_sorted, part), len(known_sorted) - 1)
        outside.update(part[known_sorted[places] != part].tolist())
    return outside


def as_array(found: bytearray, *, is_sorted: bool = True) -> np.ndarray:
    """Fixed-width names, of names that each end on a zero byte; by chunks of them. is_sorted:
    whether they are to be sorted, or stay in the order in which they were found."""
    text = np.frombuffer(found, np.uint8)
    ends = np.flatnonzero(text == 0).astype(np.int64)
    if not len(ends):
        return np.empty(0, "S1")
    width = int(np.diff(ends, prepend=-1).max()) - 1
    names = np.zeros(len(ends), f"S{width}")
    for start in range(0, len(ends), _CHUNK):
        first = int(ends[start - 1]) + 1 if start else 0
        last = int(ends[min(start + _CHUNK, len(ends)) - 1])
        names[start : start + _CHUNK] = bytes(found[first:last]).split(b"\0")
    if is_sorted:
        names.sort()
    return names
