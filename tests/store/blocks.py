"""Blocks of packed shards, taken apart, and shards written of blocks that no packer would write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from wdtrain.store import frames, tar
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.samples import BlockIndex, parse_block
from wdtrain.store.shards import ShardReader

Members = dict[str, bytes]
Samples = list[tuple[str, Members]]
SAMPLES = 16
"""In a block of what `packed` gives."""


@contextmanager
def readers(manifest: Manifest) -> Iterator[list[ShardReader]]:
    """All shards of the train split."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(ShardReader(manifest.shard_url(shard), shard, manifest))
            for shard in manifest.split("train").shards
        ]


def inflated(manifest: Manifest) -> list[bytes]:
    """The whole blocks of the first shard."""
    with readers(manifest) as (shard, *_):
        numbers = range(shard.num_blocks)
        whole = [number for number in numbers if shard.block_samples(number) == SAMPLES]
        return [bytes(shard.read_block(number)) for number in whole]


def same(one: BlockIndex, other: BlockIndex) -> bool:
    """Also in what is derived from it."""
    places = zip((one.starts, one.sizes), (other.starts, other.sizes), strict=True)
    return (
        one.data == other.data
        and all(np.array_equal(*pair) for pair in places)
        and one.keys == other.keys
        and one.manifest is other.manifest
    )


def samples_of(data: bytes, manifest: Manifest) -> Samples:
    """The samples of a block: key, and members by their suffixes."""
    block = parse_block(data, manifest)
    suffixes = manifest.member_suffixes
    rows = [list(map(bytes, block.members(row))) for row in range(block.num_samples)]
    return [
        (key, dict(zip(suffixes, r, strict=True))) for key, r in zip(block.keys, rows, strict=True)
    ]


def block_of(samples: Samples) -> bytes:
    return b"".join(
        tar.member(f"{key}.{suffix}".encode(), data)
        for key, members in samples
        for suffix, data in members.items()
    )


@dataclasses.dataclass
class Written:
    """A shard about to be written: the frames of its blocks, and their entries in its table."""

    frames: list[bytes]
    entries: list[tuple[int, int, int]]
    samples: int

    @classmethod
    def of(cls, blocks: list[bytes], samples: int = SAMPLES) -> Written:
        """Of so many samples in each block."""
        packed = [frames.FrameCompressor(3)(block) for block in (*blocks, tar.END_OF_ARCHIVE)]
        sizes = [*map(len, blocks), len(tar.END_OF_ARCHIVE)]
        sums = map(frames.frame_checksum, packed)
        return cls(packed, list(zip(map(len, packed), sizes, sums, strict=True)), samples)

    def reader(self, path: Path, manifest: Manifest) -> ShardReader:
        """Of the file, with the sizes that a manifest would promise."""
        path.write_bytes(b"".join(self.frames) + frames.write_seek_table(self.entries))
        count = self.samples * (len(self.frames) - 1)
        return ShardReader(str(path), Shard(path.name, count, path.stat().st_size, ""), manifest)


def raw_arrays(block: BlockIndex) -> list[np.ndarray]:
    """Of a raw block, the array of each field."""
    return [block.raw_array(column) for column in range(len(block.manifest.fields))]
