"""Blocks of local compressed shards, many by one compiled call that holds no interpreter lock.

Reads, inflates, checks and indexes them. The surprise: it reports no error; it stops before a block
that is in any way unusual, and the caller goes on with `ShardReader` and `parse_block`, which give
the same or name what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from wdtrain.disk.failures import DamagedBlock
from wdtrain.store import native
from wdtrain.store.buffers import Recycled
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, begins_with_arrays, payloads
from wdtrain.store.shards import Frame, ShardReader


class Loaded(NamedTuple):
    """Blocks, and the seconds spent on reading, inflating and indexing them."""

    blocks: list[BlockIndex]
    reading: float
    inflating: float
    parsing: float


class BlockLoader:
    """Loads blocks of one dataset into memory that is used again, each verified when its shard's
    reader first meets it. Thread-safe."""

    def __init__(self, manifest: Manifest, memory: Recycled) -> None:
        self._manifest, self._memory = manifest, memory
        self._is_raw = manifest.encoding == "raw"
        ends = payloads(manifest) if self._is_raw else None
        self._members = native.Members.of(manifest.member_suffixes, ends)

    @staticmethod
    def can_load(manifest: Manifest, *, is_remote: bool) -> bool:
        """Whether this way exists for a dataset, on this machine."""
        return manifest.is_compressed and not is_remote and native.zstd() is not None

    def load(self, wanted: Sequence[tuple[ShardReader, int]]) -> Loaded:
        """The blocks (by shard and number in it) in turn, fewer before one that is unusual."""
        frames = list(self._frames(wanted))
        if not frames:
            return Loaded([], 0.0, 0.0, 0.0)
        packed = self._memory.take(max(frame.packed_bytes for frame in frames))
        data = [self._memory.take(frame.inflated_bytes) for frame in frames]
        places = [np.empty((2, frame.samples, self._members.columns), np.int64) for frame in frames]
        table = [
            (
                frame.descriptor,
                frame.offset,
                native.at(packed),
                frame.packed_bytes,
                native.at(block),
                frame.inflated_bytes,
                frame.checksum,
                frame.samples,
                native.at(starts),
                native.at(sizes),
            )
            for frame, block, (starts, sizes) in zip(frames, data, places, strict=True)
        ]
        done, *seconds = native.load(self._members, table)
        blocks = [
            BlockIndex(block.data, starts, sizes, self._manifest)
            for block, (starts, sizes) in zip(data[:done], places[:done], strict=True)
        ]
        if self._is_raw:
            blocks = list(takewhile(begins_with_arrays, blocks))
        for shard, index in wanted[: len(blocks)]:
            shard.note_verified(index)
        return Loaded(blocks, *seconds)

    def _frames(self, wanted: Sequence[tuple[ShardReader, int]]) -> Iterator[Frame]:
        """Those before one that is larger than a block may be."""
        for shard, index in wanted:
            try:
                yield shard.frame(index)
            except DamagedBlock:
                return
