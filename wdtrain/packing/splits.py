"""Which split a sample belongs to, and which samples a shard holds.

Backgrounds, cut-outs and groups are held out by a keyed hash of their ids, so that training never
holds a held-out one. The deal walks a keyed permutation of the source and keeps only the number of
samples of each split in every 65,536 positions: the rows of any shard are found again from those
counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wdtrain.fields.source import SPLITS, Grouped
from wdtrain.store.permutation import Permutation, keyed_hash, permutation_key

if TYPE_CHECKING:
    from wdtrain.fields.source import Source

_VAL: Final = SPLITS.index("val")
_CODE_OF_PARTS: Final = np.array(
    [SPLITS.index(name) for name in ("train", "val-new-seen", "val-seen-new", "val-new-new")],
    np.int8,
)
"""By (background held out) + 2 (cut-out held out)."""
CHUNK: Final = 65536
_EXACT: Final = 65536
"""Up to so many different parts the share held out is met exactly; beyond, by the law of large
numbers. It bounds the memory of counting them."""


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Shares 0..1 of what training never sees: parts, pairs of known parts, and samples whose
    source knows neither part; of samples in groups, whole groups that make up that share."""

    backgrounds: float = 0.1
    cutouts: float = 0.1
    pairs: float = 0.02
    samples: float = 0.1

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not isinstance(share, int | float) or not 0 <= share < 1:
                raise ValueError(f"the share of held-out {name} is {share}; it must be in [0, 1)")


@dataclass(frozen=True)
class _Threshold:
    """Holds out the values whose keyed hash is at most `bound`; none when that is -1."""

    key: bytes
    bound: int

    def holds_out(self, values: np.ndarray) -> np.ndarray:
        if self.bound < 0:
            return np.zeros(len(values), bool)
        return keyed_hash(values, self.key) <= np.uint64(self.bound)


def _threshold(values: np.ndarray | None, share: float, key: bytes) -> _Threshold:
    """Holds out `share` of the different values (None: too many to count): 1 to all but 1."""
    if share == 0 or (values is not None and len(values) < 2):
        return _Threshold(key, -1)
    if values is None:
        return _Threshold(key, int(share * 2.0**64) - 1)
    count = min(max(round(share * len(values)), 1), len(values) - 1)
    return _Threshold(key, int(np.sort(keyed_hash(values, key))[count - 1]))


@dataclass(frozen=True)
class _Chosen:
    """Holds out these values: sorted."""

    values: np.ndarray

    def holds_out(self, values: np.ndarray) -> np.ndarray:
        return np.isin(values, self.values)


def _held_groups(source: Source, share: float, key: bytes) -> _Chosen | _Threshold:
    """Holds out whole groups that make up `share` of the samples in groups, to within half of the
    smallest that is not held out: 1 to all but 1. They are taken in a keyed order, without those
    that are too large. Too many to count are held out by their own share."""
    found = _counted_groups(source)
    if found is None:
        return _threshold(None, share, key)
    groups, counts = found
    if share == 0 or len(groups) < 2:
        return _Threshold(key, -1)
    wanted, is_held = share * counts.sum(), np.zeros(len(groups), bool)
    left = wanted
    for place in np.argsort(keyed_hash(groups, key), kind="stable").tolist():
        if counts[place] <= left:
            is_held[place] = True
            left -= counts[place]
    others = np.flatnonzero(~is_held)
    smallest = others[counts[others].argmin()]
    if len(others) > 1 and (not is_held.any() or counts[smallest] < 2 * left):
        is_held[smallest] = True
    return _Chosen(groups[is_held])


def _counted_groups(source: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """The sorted ids of groups and the samples in each; None where there are too many to count."""
    groups, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for indices in _ranges(len(source) if isinstance(source, Grouped) else 0):
        ids = source.groups(indices)  # type: ignore[attr-defined]
        more, of_more = np.unique(ids[ids >= 0], return_counts=True)
        groups, places = np.unique(np.concatenate([groups, more]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, of_more])).astype(np.int64)
        if len(groups) > _EXACT:
            return None
    return groups, counts


@dataclass(frozen=True)
class Splitter:
    """The split of each sample: of one in a group from the group, of others from their parts, so
    that it is the same for all samples of a pair of parts."""

    backgrounds: _Threshold
    cutouts: _Threshold
    pairs: _Threshold
    samples: _Threshold
    groups: _Chosen | _Threshold

    def codes(
        self,
        indices: np.ndarray,
        backgrounds: np.ndarray,
        cutouts: np.ndarray,
        groups: np.ndarray | None = None,
    ) -> np.ndarray:
        """int8 [n] positions in SPLITS, of int64 [n] indices, part ids and group ids (-1: not
        known)."""
        codes = self._codes_of_parts(indices, backgrounds, cutouts)
        if groups is None:
            return codes
        of_groups = np.where(self.groups.holds_out(groups), _VAL, 0)
        return np.where(groups >= 0, of_groups, codes).astype(np.int8)

    def _codes_of_parts(
        self, indices: np.ndarray, backgrounds: np.ndarray, cutouts: np.ndarray
    ) -> np.ndarray:
        new_background = (backgrounds >= 0) & self.backgrounds.holds_out(backgrounds)
        new_cutout = (cutouts >= 0) & self.cutouts.holds_out(cutouts)
        codes = _CODE_OF_PARTS[new_background + 2 * new_cutout]
        is_known = (backgrounds >= 0) & (cutouts >= 0)
        held_pair = self.pairs.holds_out(_pair_ids(backgrounds, cutouts, self.pairs.key))
        codes[is_known & (codes == 0) & held_pair] = SPLITS.index("val-seen-seen")
        is_plain = (backgrounds < 0) & (cutouts < 0)
        held = new_background | new_cutout | (is_plain & self.samples.holds_out(indices))
        return np.where(is_known, codes, np.where(held, _VAL, 0)).astype(np.int8)


@dataclass(frozen=True)
class Kept:
    """The split of each sample as the source itself has it: int8 [samples] positions in SPLITS."""

    split_codes: np.ndarray

    def codes(self, indices: np.ndarray, *parts: np.ndarray | None) -> np.ndarray:
        """As `Splitter.codes`; parts and groups decide nothing."""
        codes: np.ndarray = self.split_codes[indices]
        return codes


def _pair_ids(backgrounds: np.ndarray, cutouts: np.ndarray, key: bytes) -> np.ndarray:
    hashed = keyed_hash(backgrounds, permutation_key("pair", key))
    return (hashed ^ cutouts.view(np.uint64)).view(np.int64)


def make_splitter(source: Source, holdout: Holdout, seed: int) -> Splitter:
    """What is held out of a source. One pass over its parts, 1 MB of memory."""
    backgrounds, cutouts = different_parts(source)
    indices = np.arange(len(source), dtype=np.int64) if len(source) <= _EXACT else None
    return Splitter(
        _threshold(backgrounds, holdout.backgrounds, permutation_key("holdout-backgrounds", seed)),
        _threshold(cutouts, holdout.cutouts, permutation_key("holdout-cutouts", seed)),
        _threshold(None, holdout.pairs, permutation_key("holdout-pairs", seed)),
        _threshold(indices, holdout.samples, permutation_key("holdout-samples", seed)),
        _held_groups(source, holdout.samples, permutation_key("holdout-groups", seed)),
    )


def different_parts(source: Source) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The sorted ids of backgrounds and of cut-outs, each None when there are too many to count."""
    found: list[np.ndarray | None] = [np.empty(0, np.int64), np.empty(0, np.int64)]
    for indices in _ranges(len(source)):
        for place, ids in enumerate(source.parts(indices)):
            known = found[place]
            if known is not None:
                known = np.union1d(known, ids[ids >= 0])
                found[place] = known if len(known) <= _EXACT else None
        if found[0] is None and found[1] is None:
            break
    return found[0], found[1]


def _ranges(size: int) -> Iterable[np.ndarray]:
    for start in range(0, size, CHUNK):
        yield np.arange(start, min(start + CHUNK, size), dtype=np.int64)


class Deal:
    """The samples of each split in a seeded shuffle, cut into shards."""

    def __init__(self, source: Source, splitter: Splitter | Kept, seed: int) -> None:
        """One pass over the source's parts; 48 bytes kept for every 65,536 samples."""
        self._splitter = splitter
        self._size = len(source)
        self._permutation = Permutation(self._size, permutation_key("deal", seed))
        counts = [
            np.bincount(self._chunk(source, number)[1], minlength=len(SPLITS))
            for number in range(-(-self._size // CHUNK))
        ]
        self._ends = np.cumsum(np.array(counts, np.int64), axis=0)

    def samples(self, split: str) -> int:
        return int(self._ends[-1, SPLITS.index(split)])

    def rows(self, source: Source, split: str, start: int, stop: int) -> np.ndarray:
        """int64 source indices of the rows [start, stop) of a split, in their dealt order."""
        code = SPLITS.index(split)
        ends = self._ends[:, code]
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        parts = []
        for number in range(first, last + 1):
            indices, codes = self._chunk(source, number)
            parts.append(indices[codes == code])
        skipped = int(ends[first - 1]) if first else 0
        return np.concatenate(parts)[start - skipped : stop - skipped]

    def _chunk(self, source: Source, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Source indices and split codes of one chunk of the permuted order."""
        start = number * CHUNK
        positions = np.arange(start, min(start + CHUNK, self._size), dtype=np.int64)
        indices = self._permutation.forward(positions)
        groups = source.groups(indices) if isinstance(source, Grouped) else None
        return indices, self._splitter.codes(indices, *source.parts(indices), groups)
