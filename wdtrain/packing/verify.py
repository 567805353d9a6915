"""Is the dataset still what was packed?

`verify` reads every byte and decodes every sample, and reports all it finds rather than the first
thing. Whether the dataset was split without a leak is asked in `audit.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wdtrain.disk.failures import DamagedBlock, DamagedSample, StoreError
from wdtrain.fields.mask import FOREGROUND
from wdtrain.packing.duplicates import key_hash
from wdtrain.packing.prepare import OverlaySums
from wdtrain.store.foreign import open_shard
from wdtrain.store.manifest import Manifest, Shard, Split
from wdtrain.store.samples import AnyBlock, decode_row, parse_block
from wdtrain.store.shards import ShardReader

PackingProgress = Callable[[int, int], None]


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

    negatives: counts the samples without foreground, by split.
    """
    check = _Check(manifest, progress, Counter() if negatives is None else negatives)
    for split in manifest.splits.values():
        for shard in split.shards:
            check.shard(shard, split.name)
    is_draw = manifest.index is not None and check.sums.pixels != _stored_sums(manifest)["pixels"]
    if not check.problems and not is_draw and check.sums.as_dict() != _stored_sums(manifest):
        check.problems.append(
            "the overlays' sums differ from the manifest's, so its mean and std are not theirs "
            "(is this JPEG decoder another than the packer's?)"
        )
    return check.problems


def _stored_sums(manifest: Manifest) -> dict[str, Any]:
    return {name: manifest.sums[manifest.image][name] for name in ("pixels", "sum", "square_sum")}


@dataclass
class _Check:
    """The findings so far, and the sums of the train split's overlays."""

    manifest: Manifest
    progress: PackingProgress
    negatives: Counter[str]
    problems: list[str] = field(default_factory=list)
    sums: OverlaySums = field(default_factory=OverlaySums)
    done: int = 0
    keys: set[int] = field(default_factory=set)  # hashes of those of the shard

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
        self.negatives[split] += int(arrays["mask"].max() < FOREGROUND)
        if split == "train":
            self.sums.add(arrays[self.manifest.image])
