"""What a pass over somebody else's tars found, on disk: records, keys, and the split of each.

Gone through a stretch at a time, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields.source import SPLITS
from wdtrain.packing.duplicates import KEYS_A_PASS
from wdtrain.packing.splits import CHUNK, threshold
from wdtrain.store.permutation import Permutation, permutation_key

OUT: Final = -1
"""In the place of a split: left out."""
_TRAIN, _VAL = SPLITS.index("train"), SPLITS.index("val")


class ForeignRecords:
    """table: the records, of `scan_layout`, in the order in which samples lie in the tars."""

    def __init__(self, records: Path, keys: Path, layout: np.dtype) -> None:
        self.table = np.memmap(records, layout, "r+")
        self._keys = np.memmap(keys, np.uint8, "r")

    def stretches(self) -> Iterator[tuple[int, np.ndarray]]:
        """The records, so many at once, with the number of the first; what is changed stays so."""
        for start in range(0, len(self.table), CHUNK):
            yield start, self.table[start : start + CHUNK]

    def key(self, row: int) -> bytes:
        """The key of a row."""
        return self.keys(self.table[row : row + 1])[0]

    def keys(self, records: np.ndarray) -> list[bytes]:
        """The keys of records."""
        ends = records["key_at"] + records["key_bytes"]
        places = zip(records["key_at"].tolist(), ends.tolist(), strict=True)
        return [self._keys[at:end].tobytes() for at, end in places]

    def leave_out_duplicates(
        self, *, keys_a_pass: int = KEYS_A_PASS
    ) -> Iterator[tuple[int, str, int]]:
        """Of samples with one key the first stays in: each other one as (row, key, row of the
        first). As `duplicates.py` does it: by hashes, in as many passes as memory asks for."""
        num_passes = -(-len(self.table) // keys_a_pass)
        for number in range(num_passes):
            hashes, rows = self._hashes(number, num_passes)
            for at in (np.flatnonzero(hashes[1:] == hashes[:-1]) + 1).tolist():
                key = self.key(int(rows[at]))
                alike = rows[int(np.searchsorted(hashes, hashes[at])) : at].tolist()
                first = next((row for row in alike if self.key(row) == key), None)
                if first is not None:
                    self.table["split"][rows[at]] = OUT
                    yield int(rows[at]), key.decode(), first

    def _hashes(self, number: int, num_passes: int) -> tuple[np.ndarray, np.ndarray]:
        """Sorted hashes of the keys that fall in one pass, and their rows."""
        hashes, rows = [], []
        for start, part in self.stretches():
            mine = np.flatnonzero(part["key_hash"] % np.uint64(num_passes) == number)
            hashes.append(part["key_hash"][mine])
            rows.append(start + mine)
        found, places = np.concatenate(hashes), np.concatenate(rows)
        order = np.lexsort((places, found))
        return found[order], places[order]

    def divide(self, share: float, seed: int) -> None:
        """Each record's split: whole groups are held out, by a keyed hash, and samples that are in
        none. StoreError where nothing is left to train on."""
        of_groups = threshold(self._groups(), share, permutation_key("holdout-groups", seed))
        rows = np.arange(len(self.table)) if len(self.table) <= CHUNK else None
        of_rows = threshold(rows, share, permutation_key("holdout-samples", seed))
        num_trained = 0
        for start, part in self.stretches():
            indices = np.arange(start, start + len(part))
            has_group, groups = part["group"] >= 0, part["group"].astype(np.int64)
            held = np.where(has_group, of_groups.holds_out(groups), of_rows.holds_out(indices))
            part["split"] = np.where(part["split"] == OUT, OUT, np.where(held, _VAL, _TRAIN))
            num_trained += int((part["split"] == _TRAIN).sum())
        if not num_trained:
            raise StoreError("no sample is left to train on; hold out less")

    def _groups(self) -> np.ndarray | None:
        """The different groups; None where there are too many to count."""
        found = np.empty(0, np.int64)
        for _, part in self.stretches():
            found = np.union1d(found, part["group"][part["group"] >= 0].astype(np.int64))
            if len(found) > CHUNK:
                return None
        return found

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
