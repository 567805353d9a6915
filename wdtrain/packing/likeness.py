"""Pictures that look alike, found among many in bounded memory and time.

A picture is reduced to a difference hash (dHash: is a cell brighter than its left neighbour?) of
8 x 8 and one of 16 x 16 cells, and to its mean colours in 4 x 4. The small hash, compared with all
others, finds candidates; the large one and the colours decide. A picture with hardly any contrast
has no such hash: it is compared by its bytes alone, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import xxhash

COARSE_BITS: Final = 8
"""Of 64: candidates differ in at most so many bits of the small hash."""
FINE_BITS: Final = 32
"""Of 256: pictures that look alike differ in at most so many bits of the large hash. Encoded again,
resized, brighter or moved by a pixel they do; of 4,000 playground scenes of different backgrounds
no two differed in less than 48."""
COLOUR_LEVELS: Final = 12.0
"""Of 255: and in their colours by at most so much, on average over 4 x 4 places."""
FLAT_LEVELS: Final = 4.0
"""Of 255: the standard deviation of the 16 x 17 cells below which a picture is flat."""
MOST_PAIRS: Final = 1 << 36
"""Comparisons of small hashes, some minutes of one core. Above, a keyed share of the pictures that
were held out is searched for, and their number is reported."""
_ROWS: Final = 1 << 13
_AT_ONCE: Final = 1 << 21


@dataclass
class Prints:
    """What is kept of pictures: 104 bytes each."""

    exact: list[np.ndarray] = field(default_factory=list)
    coarse: list[np.ndarray] = field(default_factory=list)
    fine: list[np.ndarray] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)
    is_flat: list[np.ndarray] = field(default_factory=list)

    def add(self, pictures: list[np.ndarray]) -> None:
        """Adds pictures, each uint8 [h, w, 3]."""
        found = [_reduced(picture) for picture in pictures]
        exact, coarse, fine, colours, is_flat = zip(*found, strict=True)
        self.exact.append(np.array(exact, np.uint64))
        self.coarse.append(np.array(coarse, np.uint64))
        self.fine.append(np.array(fine, np.uint64))
        self.colours.append(np.array(colours, np.uint8))
        self.is_flat.append(np.array(is_flat, bool))

    def table(self) -> Table:
        """All of them as arrays."""
        columns = (self.exact, self.coarse, self.fine, self.colours, self.is_flat)
        return Table(*map(np.concatenate, columns))


@dataclass(frozen=True)
class Table:
    """Of n pictures: uint64 [n], [n] and [n, 4] hashes, uint8 [n, 48] colours, bool [n]."""

    exact: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    colours: np.ndarray
    is_flat: np.ndarray


def _reduced(picture: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, bool]:
    picture = np.ascontiguousarray(picture)
    shape = np.array(picture.shape, "<i8").tobytes()
    exact = xxhash.xxh3_64_intdigest(shape + picture.tobytes())
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    cells = _cells(grey, 16, 17)
    fine = _bits(cells).view(np.uint64)
    coarse = _bits(_cells(grey, 8, 9)).view(np.uint64)[0]
    colours = cv2.resize(picture, (4, 4), interpolation=cv2.INTER_AREA).reshape(-1)
    return exact, coarse, fine, colours, bool(cells.std() < FLAT_LEVELS)


def _cells(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    cells: np.ndarray = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return cells


def _bits(cells: np.ndarray) -> np.ndarray:
    return np.packbits(cells[:, 1:] > cells[:, :-1])


@dataclass(frozen=True)
class Alike:
    """Pairs of pictures (held out, trained on) that are the same or look alike, and how many of
    those held out were looked for by their looks."""

    same: np.ndarray
    similar: np.ndarray
    looked_for: int


def find_alike(table: Table, held: np.ndarray, trained: np.ndarray, groups: np.ndarray) -> Alike:
    """int64 [m, 2] pairs of `held` and `trained` (indices into the table): of each held picture the
    first that it equals, else the most alike. Of one group (uint64 [n], 0: of none) pictures may
    look alike, and are passed by; none may be the same."""
    same = _same(table, held, trained)
    sharp = held[~table.is_flat[held] & ~np.isin(held, same[:, 0])]
    others = trained[~table.is_flat[trained]]
    most = max(1, MOST_PAIRS // max(1, len(others)))
    if len(sharp) > most:
        sharp = np.sort(np.random.default_rng(0).permutation(sharp)[:most])
    pairs = [pair for rows in _rows_of(sharp) for pair in _similar(table, rows, others, groups)]
    return Alike(same, np.array(pairs, np.int64).reshape(-1, 2), len(sharp))


def _same(table: Table, held: np.ndarray, trained: np.ndarray) -> np.ndarray:
    order = trained[np.argsort(table.exact[trained], kind="stable")]
    if not len(order):
        return np.empty((0, 2), np.int64)
    places = np.searchsorted(table.exact[order], table.exact[held])
    found = order[np.minimum(places, len(order) - 1)]
    is_same = table.exact[found] == table.exact[held]
    return np.stack([held[is_same], found[is_same]], 1)


def _rows_of(held: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(held), _ROWS):
        yield held[start : start + _ROWS]


def _similar(
    table: Table, held: np.ndarray, trained: np.ndarray, groups: np.ndarray
) -> list[tuple[int, int]]:
    """Of each held picture, the one it looks most like, if it looks like one."""
    best: dict[int, tuple[int, int]] = {}
    step = max(1, _AT_ONCE // max(1, len(held)))
    mine = table.coarse[held][:, None]
    for start in range(0, len(trained), step):
        other = trained[start : start + step]
        differ = np.bitwise_count(mine ^ table.coarse[other][None])
        rows, columns = np.nonzero(differ <= COARSE_BITS)
        ours, theirs = held[rows], other[columns]
        strange = (groups[ours] == 0) | (groups[ours] != groups[theirs])
        ours, theirs = ours[strange], theirs[strange]
        bits = np.bitwise_count(table.fine[ours] ^ table.fine[theirs]).sum(1)
        near = np.flatnonzero(bits <= FINE_BITS)
        ours, theirs, bits = ours[near], theirs[near], bits[near]
        levels = np.abs(table.colours[ours].astype(np.int16) - table.colours[theirs]).mean(1)
        alike = levels <= COLOUR_LEVELS
        found = zip(ours[alike].tolist(), theirs[alike].tolist(), bits[alike].tolist(), strict=True)
        for one, two, distance in found:
            best[one] = min(best.get(one, (distance, two)), (distance, two))
    return [(one, two) for one, (_, two) in sorted(best.items())]
