"""Is the dataset still what was packed?

`verify` reads every byte and decodes every sample, and reports all it finds rather than the first
thing. Whether the dataset was split without a leak is asked in `audit.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from wdtrain.disk.failures import DamagedBlock, DamagedSample, StoreError
from wdtrain.fields import MaskField
from wdtrain.fields.mask import FOREGROUND, UNKNOWN
from wdtrain.packing.duplicates import key_hash
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.prepare import PixelSums
from wdtrain.store.foreign import open_shard
from wdtrain.store.manifest import Manifest, Shard, Split
from wdtrain.store.samples import AnyBlock, decode_row, parse_block
from wdtrain.store.shards import ShardReader


def walk_blocks(manifest: Manifest, split: Split) -> Iterator[tuple[Shard, int, AnyBlock]]:
    """Every block of a split, parsed, with its shard and number; raises on the first damage."""
    for shard in split.shards:
        with open_shard(manifest.shard_url(shard), shard, manifest) as reader:
            for number in range(reader.num_blocks):
                yield shard, number, parse_block(reader.read_block(number), manifest)


# ---------------------------------------------------------------------------- verify


def verify(
    manifest: Manifest, progress: PackingProgress, *, negatives: Counter[str] | None = None
) -> list[str]:
    """What is wrong with a dataset, one line each, naming shard, block or key; [] when whole.

    negatives: counts the samples without foreground in any mask, by split; a mask that is unknown
    does not count.
    """
    check = _Check(manifest, progress, Counter() if negatives is None else negatives)
    for split in manifest.splits.values():
        for shard in split.shards:
            check.shard(shard, split.name)
    for name, sums in check.sums.items() if not check.problems else ():
        if manifest.index is not None and sums.pixels != manifest.sums[name]["pixels"]:
            continue  # those of a draw stand there
        if any(manifest.sums[name][key] != value for key, value in sums.as_dict().items()):
            check.problems.append(
                f"the sums of {name} differ from the manifest's, so its mean and std are not of "
                "these pictures (is this JPEG decoder another than the packer's?)"
            )
    return check.problems


@dataclass
class _Check:
    """The findings so far, and the sums of each image of the train split."""

    manifest: Manifest
    progress: PackingProgress
    negatives: Counter[str]
    problems: list[str] = field(default_factory=list)
    done: int = 0
    keys: set[int] = field(default_factory=set)  # hashes of those of the shard

    def __post_init__(self) -> None:
        self.sums = {name: PixelSums() for name in self.manifest.sums}
        self._masks = [one for one in self.manifest.fields.values() if isinstance(one, MaskField)]

    def shard(self, shard: Shard, split: str) -> None:
        url = self.manifest.shard_url(shard)
        self.keys.clear()
        try:
            with open_shard(url, shard, self.manifest) as reader:
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
        for row, key in enumerate(block.keys):
            if (hashed := key_hash(key)) in self.keys:
                self.problems.append(f"{place}: key {key} comes more than once in the shard")
            self.keys.add(hashed)
            self._sample(block, row, place, split)
        self.done += block.num_samples
        self.progress(self.done, self.manifest.samples)

    def _sample(self, block: AnyBlock, row: int, place: str, split: str) -> None:
        try:
            arrays = decode_row(block, row)
            block.meta(row)
        except DamagedSample as error:
            self.problems.append(f"{place}: {error}")
            return
        masks = [arrays[mask.name] for mask in self._masks]
        known = [
            alpha
            for mask, alpha in zip(self._masks, masks, strict=True)
            if not (mask.has_unknown and (alpha == UNKNOWN).all())
        ]
        self.negatives[split] += bool(known) and all(alpha.max() < FOREGROUND for alpha in known)
        if split == "train":
            for name, sums in self.sums.items():
                sums.add(arrays[name])
