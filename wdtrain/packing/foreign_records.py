"""What a pass over somebody else's tars found, on disk: records, names, and the split of each.

Gone through a stretch at a time, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields.source import SPLITS, Source
from wdtrain.packing.duplicates import KEYS_A_PASS
from wdtrain.packing.foreign_scan import name_hash, shown_name
from wdtrain.packing.splits import CHUNK, Holdout, make_splitter
from wdtrain.remote.extents import extents
from wdtrain.store.permutation import Permutation

OUT: Final = -1
"""In the place of a split: left out."""
_TRAIN: Final = SPLITS.index("train")


class ForeignRecords:
    """table: the records, of `scan_layout`, in the order in which samples lie in the tars."""

    def __init__(self, records: Path, names: Path, layout: np.dtype) -> None:
        self.table = np.memmap(records, layout, "r+")
        self._names = np.memmap(names, np.uint8, "r")
        self._above: list[bytes] | None = None

    def stretches(self) -> Iterator[tuple[int, np.ndarray]]:
        """The records, so many at once, with the number of the first; what is changed stays so."""
        for start in range(0, len(self.table), CHUNK):
            yield start, self.table[start : start + CHUNK]

    def name(self, row: int) -> bytes:
        """The name of a row's sample."""
        return self.names(self.table[row : row + 1])[0]

    def names(self, records: np.ndarray) -> list[bytes]:
        """The names of the samples of records; where tars use the same names, below their tars."""
        ends = records["name_at"] + records["name_bytes"]
        places = zip(records["name_at"].tolist(), ends.tolist(), strict=True)
        names = [self._names[at:end].tobytes() for at, end in places]
        if self._above is None:
            return names
        shards = records["shard"].tolist()
        return [self._above[shard] + name for shard, name in zip(shards, names, strict=True)]

    def tell_apart(self, tars: Sequence[str], *, keys_a_pass: int = KEYS_A_PASS) -> None:
        """Where a name comes twice (tars that each count from 0), that of its tar goes before each,
        as in packing."""
        if next(self._twins(keys_a_pass), None) is None:
            return
        stems = (tar.rpartition("/")[2].partition("?")[0].partition(".")[0] for tar in tars)
        self._above = [f"{stem}/".encode("utf-8", "surrogateescape") for stem in stems]
        for _, part in self.stretches():
            part["name_hash"] = [name_hash(name) for name in self.names(part)]

    def leave_out_duplicates(
        self, *, keys_a_pass: int = KEYS_A_PASS
    ) -> Iterator[tuple[int, str, int]]:
        """Of samples with one name the first stays in: each other one as (row, name, row of the
        first). As `duplicates.py` does it: by hashes, in as many passes as memory asks for."""
        for row, first in self._twins(keys_a_pass):
            self.table["split"][row] = OUT
            yield row, self.name(row).decode("utf-8", "surrogateescape"), first

    def _twins(self, keys_a_pass: int) -> Iterator[tuple[int, int]]:
        """Rows whose name came before, and where it first did."""
        num_passes = -(-len(self.table) // keys_a_pass)
        for number in range(num_passes):
            hashes, rows = self._hashes(number, num_passes)
            for at in (np.flatnonzero(hashes[1:] == hashes[:-1]) + 1).tolist():
                name = self.name(int(rows[at]))
                alike = rows[int(np.searchsorted(hashes, hashes[at])) : at].tolist()
                first = next((row for row in alike if self.name(row) == name), None)
                if first is not None:
                    yield int(rows[at]), first

    def _hashes(self, number: int, num_passes: int) -> tuple[np.ndarray, np.ndarray]:
        """Sorted hashes of the names that fall in one pass, and their rows."""
        hashes, rows = [], []
        for start, part in self.stretches():
            mine = np.flatnonzero(part["name_hash"] % np.uint64(num_passes) == number)
            hashes.append(part["name_hash"][mine])
            rows.append(start + mine)
        found, places = np.concatenate(hashes), np.concatenate(rows)
        order = np.lexsort((places, found))
        return found[order], places[order]

    def divide(self, share: float, seed: int, group: str | None = None) -> None:
        """Each record's split, as packing divides: whole groups are held out by a keyed hash, and
        samples that are in none. StoreError where nothing is left to train on, or no sample is in
        a group although `group` (a description) was given."""
        if group is not None and all((part["group"] < 0).all() for _, part in self.stretches()):
            first = shown_name(self.name(0))
            raise StoreError(
                f"--group {group!r} finds no group in any name (the first is {first}), so what "
                "belongs together would be torn; write a pattern of which one is found there, or a "
                "table that lists these names"
            )
        splitter = make_splitter(cast("Source", self), Holdout(samples=share), seed)
        num_trained = 0
        for start, part in self.stretches():
            indices = np.arange(start, start + len(part))
            codes = splitter.codes(indices, *self.parts(indices), self.groups(indices))
            part["split"] = np.where(part["split"] == OUT, OUT, codes)
            num_trained += int((part["split"] == _TRAIN).sum())
        if not num_trained:
            raise StoreError("no sample is left to train on; hold out less")

    def __len__(self) -> int:
        return len(self.table)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`: tars do not tell of what a picture was made."""
        return (np.full(len(indices), -1),) * 2

    def groups(self, indices: np.ndarray) -> np.ndarray:
        """See `Grouped`."""
        found: np.ndarray = self.table["group"][indices].astype(np.int64)
        return found

    def bytes_read(self, tars: Iterable[tuple[int, int]]) -> int:
        """Bytes read for all samples that are in: their members, and the gaps between those that
        are too short to be skipped. tars: first row and end of each."""
        num_bytes = 0
        for first, stop in tars:
            for start in range(first, stop, CHUNK):
                part = self.table[start : min(start + CHUNK, stop)]
                for code in range(len(SPLITS)):
                    those = part[part["split"] == code]
                    begins, ends = extents(those["starts"], those["sizes"])
                    num_bytes += sum(ends) - sum(begins)
        return num_bytes

    def drawn(self, split: int, most: int, key: bytes) -> np.ndarray:
        """Rows of a split in order: all, or a keyed draw of so many."""
        total = sum(int((part["split"] == split).sum()) for _, part in self.stretches())
        places = np.sort(Permutation(total, key).forward(np.arange(min(total, most))))
        rows, before = [], 0
        for start, part in self.stretches():
            those = start + np.flatnonzero(part["split"] == split)
            first, stop = np.searchsorted(places, [before, before + len(those)])
            rows.append(those[places[first:stop] - before])
            before += len(those)
        return np.concatenate(rows)
