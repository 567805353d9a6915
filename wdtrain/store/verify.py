"""Is the dataset still what was packed, and was it split without a leak?

`verify` reads every byte and decodes every sample; `audit` reads every sample's JSON. Both report
all they find rather than the first thing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wdtrain.store.duplicates import key_hash
from wdtrain.store.errors import DamagedBlock, DamagedSample, StoreError
from wdtrain.store.manifest import Manifest, Shard, Split, canonical
from wdtrain.store.prepare import OverlaySums
from wdtrain.store.samples import BlockIndex, decode_row, parse_block
from wdtrain.store.shards import ShardReader
from wdtrain.triple import FOREGROUND

Progress = Callable[[int, int], None]


def walk_blocks(manifest: Manifest, split: Split) -> Iterator[tuple[Shard, int, BlockIndex]]:
    """Every block of a split, parsed, with its shard and number; raises on the first damage."""
    for shard in split.shards:
        with ShardReader(manifest.shard_url(shard), shard, manifest) as reader:
            for number in range(reader.num_blocks):
                yield shard, number, parse_block(reader.read_block(number), manifest)


# ---------------------------------------------------------------------------- verify


def verify(
    manifest: Manifest, progress: Progress, *, negatives: Counter[str] | None = None
) -> list[str]:
    """What is wrong with a dataset, one line each, naming shard, block or key; [] when whole.

    negatives: counts the samples without foreground, by split.
    """
    check = _Check(manifest, progress, Counter() if negatives is None else negatives)
    for split in manifest.splits.values():
        for shard in split.shards:
            check.shard(shard, split.name)
    if not check.problems and check.sums.as_dict() != _stored_sums(manifest):
        check.problems.append(
            "the overlays' sums differ from the manifest's, so its mean and std are not theirs "
            "(is this JPEG decoder another than the packer's?)"
        )
    return check.problems


def _stored_sums(manifest: Manifest) -> dict[str, Any]:
    return {name: manifest.overlay_sums[name] for name in ("pixels", "sum", "square_sum")}


@dataclass
class _Check:
    """The findings so far, and the sums of the train split's overlays."""

    manifest: Manifest
    progress: Progress
    negatives: Counter[str]
    problems: list[str] = field(default_factory=list)
    sums: OverlaySums = field(default_factory=OverlaySums)
    done: int = 0

    def shard(self, shard: Shard, split: str) -> None:
        url = self.manifest.shard_url(shard)
        try:
            with ShardReader(url, shard, self.manifest) as reader:
                num_problems = len(self.problems)
                for number in range(reader.num_blocks):
                    self._block(reader, number, split)
            found = self.manifest.content_of(shard)[1]
        except StoreError as error:
            self.problems.append(str(error))
            return
        if found != shard.sha256 and len(self.problems) == num_problems:
            self.problems.append(
                f"shard {shard.name}: SHA-256 {found[:12]}... is not the manifest's "
                f"{shard.sha256[:12]}..., yet every block is whole: its last bytes were changed"
            )

    def _block(self, reader: ShardReader, number: int, split: str) -> None:
        place = f"shard {reader.shard.name}, block {number}"
        try:
            block = parse_block(reader.read_block(number), self.manifest)
        except DamagedBlock as error:
            self.problems.append(str(error))
            return
        except ValueError as error:
            self.problems.append(f"{place}: {error}")
            return
        if block.num_samples != reader.block_samples(number):
            self.problems.append(
                f"{place}: {block.num_samples} samples, {reader.block_samples(number)} were packed"
            )
        for row in range(block.num_samples):
            self._sample(block, row, place, split)
        self.done += block.num_samples
        self.progress(self.done, self.manifest.samples)

    def _sample(self, block: BlockIndex, row: int, place: str, split: str) -> None:
        try:
            overlay, mask, _ = decode_row(block, row)
            block.meta(row)
        except DamagedSample as error:
            self.problems.append(f"{place}: {error}")
            return
        self.negatives[split] += int(mask.max() < FOREGROUND)
        if split == "train":
            self.sums.add(overlay)


# ---------------------------------------------------------------------------- audit


@dataclass
class SplitParts:
    """What one split holds: sample count, and hashes of its backgrounds, cut-outs and pairs."""

    samples: int = 0
    backgrounds: set[int] = field(default_factory=set)
    cutouts: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)

    def add(self, meta: dict[str, Any]) -> None:
        self.samples += 1
        background, cutout = (
            key_hash(canonical(meta[name]).decode()) if name in meta else None
            for name in ("background", "cutout")
        )
        if background is not None:
            self.backgrounds.add(background)
        if cutout is not None:
            self.cutouts.add(cutout)
        if background is not None and cutout is not None:
            self.pairs.add((background, cutout))


@dataclass(frozen=True)
class Audit:
    """The parts of each split, and what speaks against it: empty when nothing leaks."""

    splits: dict[str, SplitParts]
    problems: list[str]


def audit(manifest: Manifest, progress: Progress) -> Audit:
    """Proves from the stored samples alone that training holds nothing that was held out.

    Reads every sample's JSON; keeps 8 bytes a sample and the different parts. Raises on damage.
    """
    parts: dict[str, SplitParts] = defaultdict(SplitParts)
    hashes = np.empty(manifest.samples, np.uint64)
    done = 0
    for split in manifest.splits.values():
        for _, _, block in walk_blocks(manifest, split):
            for row, key in enumerate(block.keys):
                hashes[done + row] = key_hash(key)
                parts[split.name].add(block.meta(row))
            done += block.num_samples
            progress(done, manifest.samples)
    problems = [*_leaks(parts), *_miscounts(manifest, parts)]
    repeated = done - len(np.unique(hashes[:done]))
    if repeated:
        problems.append(f"{repeated:,} keys come more than once in the dataset")
    return Audit(dict(parts), problems)


_NEW_BACKGROUND = ("val-new-seen", "val-new-new")
_NEW_CUTOUT = ("val-seen-new", "val-new-new")


def _leaks(parts: dict[str, SplitParts]) -> Iterator[str]:
    """One line for each pair of splits that share what they must not."""
    for name, held in parts.items():
        for other, seen in parts.items():
            if other == name:
                continue
            if name in _NEW_BACKGROUND and other not in (*_NEW_BACKGROUND, "val"):
                yield from _shared(name, other, "backgrounds", held.backgrounds & seen.backgrounds)
            if name in _NEW_CUTOUT and other not in (*_NEW_CUTOUT, "val"):
                yield from _shared(name, other, "cut-outs", held.cutouts & seen.cutouts)
            if name < other:
                yield from _shared(name, other, "pairs of parts", held.pairs & seen.pairs)


def _shared(name: str, other: str, what: str, shared: set[Any]) -> Iterator[str]:
    if shared:
        yield f"{other} and {name} share {len(shared):,} {what}"


def _miscounts(manifest: Manifest, parts: dict[str, SplitParts]) -> Iterator[str]:
    for name, split in manifest.splits.items():
        found = parts[name].samples
        if found != split.samples:
            yield f"{name} holds {found:,} samples, the manifest says {split.samples:,}"
