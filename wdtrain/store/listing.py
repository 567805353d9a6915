"""Listing a folder of triples in at most 100 bytes a triple.

Names go into one byte string as they are found and become one fixed-width array at the end; a
Python string a file would be 70 to 100 bytes each, four times a triple. Masks and depths are kept
as 64-bit hashes, only to find those whose overlay is missing.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

OVERLAY_SUFFIXES: Final = {b"j": ".overlay.jpg", b"e": ".overlay.jpeg", b"p": ".overlay.png"}
"""By the mark that ends a name in the listing."""
NO_OVERLAY: Final = b"-"
_PARTNERS: Final = (b".mask.png", b".depth.png")
_CHUNK: Final = 4096
_DIGEST_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True)
class Listing:
    """The triples of a folder: `names` is a sorted bytes array [n], each the path below the
    folder without suffix, and a mark for the overlay's suffix. `digest` tells names and sizes of
    all files, in any order of listing."""

    names: np.ndarray
    digest: str
    has_json: bool


def list_folder(folder: Path) -> Listing:
    """The triples of a folder and the folders below it; hidden ones are passed over."""
    found, overlays, partners = bytearray(), array("Q"), array("Q")
    digest, has_json = 0, False
    for name, size in _files(os.fsencode(folder), b""):
        digest += xxhash.xxh3_128_intdigest(name + b"\0%d" % size)
        mark, stem = _overlay_mark(name)
        if mark:
            found += stem + mark + b"\0"
            overlays.append(xxhash.xxh3_64_intdigest(stem))
        elif name.endswith(_PARTNERS):
            partners.append(xxhash.xxh3_64_intdigest(_partner_stem(name)))
        else:
            has_json |= name.endswith(b".json") and name != b"triples.json"
    if overlays:
        orphans = _outside(partners, overlays)
        del overlays, partners
        for stem in _orphan_stems(folder, orphans):
            found += stem + NO_OVERLAY + b"\0"
    return Listing(_as_array(found), f"{digest & _DIGEST_MASK:032x}", has_json)


def _files(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, int]]:
    """(path below the top folder, bytes) of each file that belongs to a triple."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            elif entry.name.endswith((b".png", b".jpg", b".jpeg", b".json")):
                yield prefix + entry.name, entry.stat().st_size
    for name in below:
        yield from _files(folder + b"/" + name, prefix + name + b"/")


def _overlay_mark(name: bytes) -> tuple[bytes, bytes]:
    """(mark, path without suffix) of an overlay; the mark is empty for another file."""
    for mark, suffix in OVERLAY_SUFFIXES.items():
        if name.endswith(suffix.encode()):
            return mark, name[: -len(suffix)]
    return b"", name


def _partner_stem(name: bytes) -> bytes:
    for suffix in _PARTNERS:
        name = name.removesuffix(suffix)
    return name


def _outside(values: array[int], known: array[int]) -> set[int]:
    """Those values that are not among the known ones (at least one); sorts in place."""
    known_sorted = np.frombuffer(known, np.uint64)
    known_sorted.sort()
    outside: set[int] = set()
    for start in range(0, len(values), _CHUNK):
        part = np.frombuffer(values, np.uint64)[start : start + _CHUNK]
        places = np.minimum(np.searchsorted(known_sorted, part), len(known_sorted) - 1)
        outside.update(part[known_sorted[places] != part].tolist())
    return outside


def _orphan_stems(folder: Path, orphans: set[int]) -> set[bytes]:
    """The stems of masks and depths without an overlay: a second listing, if there are any."""
    if not orphans:
        return set()
    stems = (
        _partner_stem(name)
        for name, _ in _files(os.fsencode(folder), b"")
        if name.endswith(_PARTNERS)
    )
    return {stem for stem in stems if xxhash.xxh3_64_intdigest(stem) in orphans}


def _as_array(found: bytearray) -> np.ndarray:
    """Sorted fixed-width names, of names that each end on a zero byte; by chunks of them."""
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
    names.sort()
    return names
