"""Which sample comes at which position: a pure function, evaluated lazily.

Owns the arithmetic from (manifest, split, seed, lanes, chunk, window) and a position to (shard,
block, row). Positions count on over the epochs: epoch = position // samples. Nothing here reads
data or remembers anything but the layout of the last epochs, so resume is arithmetic.
The surprise: blocks all hold the same number of samples except each shard's last, so the start of
the k-th permuted block is known from the short blocks alone, also among millions of blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wdtrain.store.manifest import Manifest
from wdtrain.store.permutation import Permutation, key_of, keyed_hash
from wdtrain.store.urls import shown

ORDER_VERSION = 2
"""Raised whenever the same arguments would give another order: old cursors are then refused."""

MAX_WINDOW = 4
"""Blocks of one shuffling window, where memory allows: shards are shuffled already, so a window
needs only to part neighbours of a block."""

WINDOW_BYTES = 256 * 2**20
"""What the open windows of all lanes may hold, inflated."""


TABLE_BLOCKS = 1 << 16
"""Up to here an epoch's permutation of blocks is kept as a table (512 KB), not worked out anew."""


class Piece(NamedTuple):
    """Rows of one chunk inside one batch: `rows` samples from `offset` on in `lane` of `epoch`."""

    position: int
    epoch: int
    lane: int
    offset: int
    rows: int


class WindowKey(NamedTuple):
    """One shuffling window: the `number`-th of a lane in an epoch."""

    epoch: int
    lane: int
    number: int


class _Layout(NamedTuple):
    """An epoch's permutation of blocks (also as a table, where they are few); where its short
    blocks end in the epoch, and how many rows all those before lacked."""

    permutation: Permutation
    table: np.ndarray | None
    ends: np.ndarray
    lacking: np.ndarray


class Order:
    """The order of one split's samples, epoch after epoch, the same for any world and batch size.

    Blocks are permuted anew each epoch, laid end to end and cut into `lanes`; within a lane samples
    are shuffled inside windows of `window` blocks; positions are dealt to lanes in chunks.
    Raises ValueError for an unknown split, or lanes or chunk below 1.
    """

    def __init__(
        self, manifest: Manifest, split: str, *, seed: int, lanes: int = 32, chunk: int = 32
    ) -> None:
        if split not in manifest.splits:
            held = ", ".join(manifest.splits)
            raise ValueError(f"split {split!r} is not in {shown(manifest.url)}; it holds {held}")
        if lanes < 1 or chunk < 1:
            raise ValueError(f"lanes is {lanes} and chunk is {chunk}; both must be at least 1")
        sizes = np.array([shard.samples for shard in manifest.splits[split].shards], np.int64)
        self.block_rows = manifest.samples_per_block
        self.samples = int(sizes.sum())
        self.split, self.seed, self.lanes, self.chunk = split, seed, lanes, chunk
        blocks = -(-sizes // self.block_rows)
        self._block_start = np.concatenate([[0], np.cumsum(blocks)])
        self.num_blocks = int(self._block_start[-1])
        deficit = blocks * self.block_rows - sizes
        self._short_blocks = (self._block_start[1:] - 1)[deficit > 0]
        self._deficits = deficit[deficit > 0]
        self.window = window_blocks(inflated_bytes(manifest), lanes)
        # A chunk must not lie across two windows, so a window is a multiple of the chunk.
        self.window_rows = max(1, self.window * self.block_rows // chunk) * chunk
        facts = [ORDER_VERSION, manifest.digest, split, seed, lanes, chunk, self.window]
        self.digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        self._epoch_layouts = lru_cache(maxsize=4)(self._lay_out_epoch)

    # ------------------------------------------------------------------ positions to lanes

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The chunks, or parts of chunks, that positions [start, stop) are made of, in order."""
        while start < stop:
            epoch, inside = divmod(start, self.samples)
            number, skip = divmod(inside, self.chunk)
            rows = min(self.chunk - skip, self.samples - inside, stop - start)
            turn, lane = divmod(number, self.lanes)
            yield Piece(start, epoch, lane, turn * self.chunk + skip, rows)
            start += rows

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """[start, stop) of a lane in the epoch's laid-out samples."""
        full, tail = divmod(self.samples, self.chunk)
        turns, extra = divmod(full, self.lanes)
        start = (lane * turns + min(lane, extra)) * self.chunk + (tail if lane > extra else 0)
        length = (turns + (lane < extra)) * self.chunk + (tail if lane == extra else 0)
        return start, start + length

    def window_of(self, piece: Piece) -> WindowKey:
        number = (piece.offset + self._shift(piece.lane)) // self.window_rows
        return WindowKey(piece.epoch, piece.lane, number)

    def window_offset(self, key: WindowKey) -> int:
        """Where in its lane a window begins."""
        return max(0, key.number * self.window_rows - self._shift(key.lane))

    def _shift(self, lane: int) -> int:
        """Rows by which a lane's first window is shorter than the others.

        Lanes advance together, so windows of equal beginnings would all have to be opened at once,
        every `window_rows` x `lanes` samples; staggered, a few are opened with each batch.
        """
        return lane % (self.window_rows // self.chunk) * self.chunk

    # ------------------------------------------------------------------ windows to blocks

    def window_samples(self, key: WindowKey) -> tuple[np.ndarray, np.ndarray]:
        """(block, row) of every sample of a window, int64 [m] each, in the order they come."""
        start, stop = self.lane_bounds(key.lane)
        end = start + (key.number + 1) * self.window_rows - self._shift(key.lane)
        laid = np.arange(start + self.window_offset(key), min(end, stop), dtype=np.int64)
        word = key_of(self.seed, key.epoch, "window", key.lane, key.number)
        mixed = np.argsort(keyed_hash(np.arange(len(laid)), word), kind="stable")
        blocks, rows = self._blocks_at(key.epoch, laid)
        return blocks[mixed], rows[mixed]

    def _lay_out_epoch(self, epoch: int) -> _Layout:
        permutation = Permutation(self.num_blocks, key_of(self.seed, epoch, "blocks"))
        place = permutation.inverse(self._short_blocks)
        by_place = np.argsort(place)
        lacking = np.cumsum(self._deficits[by_place])
        ends = (place[by_place] + 1) * self.block_rows - lacking
        is_small = self.num_blocks <= TABLE_BLOCKS
        table = permutation.forward(np.arange(self.num_blocks)) if is_small else None
        return _Layout(permutation, table, ends, np.concatenate([[0], lacking]))

    def _blocks_at(self, epoch: int, laid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(block, row) of samples that lie one after the other in the epoch."""
        layout = self._epoch_layouts(epoch)
        virtual = laid + layout.lacking[np.searchsorted(layout.ends, laid, side="right")]
        places, rows = np.divmod(virtual, self.block_rows)
        if layout.table is not None:
            return layout.table[places], rows
        few = np.arange(places[0], places[-1] + 1)
        return layout.permutation.forward(few)[places - places[0]], rows

    def shard_block(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, block in that shard) of block numbers that run over the whole split."""
        shards = np.searchsorted(self._block_start, blocks, side="right") - 1
        return shards, blocks - self._block_start[shards]

    def locate(self, position: int) -> tuple[int, int, int]:
        """(shard, block, row) of one position."""
        piece = next(self.pieces(position, position + 1))
        key = self.window_of(piece)
        blocks, rows = self.window_samples(key)
        at = piece.offset - self.window_offset(key)
        shards, in_shard = self.shard_block(blocks[at : at + 1])
        return int(shards[0]), int(in_shard[0]), int(rows[at])

    # ------------------------------------------------------------------ batches over ranks

    def check_batch(self, batch_size: int, world: int) -> None:
        """Raises ValueError if a batch is not whole chunks, or if ranks outnumber lanes."""
        if batch_size < 1 or batch_size % self.chunk:
            nearest = max(1, round(batch_size / self.chunk)) * self.chunk
            raise ValueError(
                f"batch size {batch_size} is not a multiple of the chunk of {self.chunk} samples, "
                f"so a normalisation group would be torn; the nearest is {nearest}"
            )
        if world > self.lanes:
            raise ValueError(
                f"{world} ranks share {self.lanes} lanes, so some would never get data; "
                f"set data.lanes to at least {world}, or start at most {self.lanes} processes"
            )

    def balance(self, batch_size: int, world: int) -> float:
        """Mean over largest share of a batch's chunks on the ranks: 1.0 is even."""
        chunks = batch_size // self.chunk
        shares = np.zeros(world)
        # The lanes of a batch begin anywhere; the mean over all beginnings is what a run sees.
        worst = 0.0
        for first in range(self.lanes):
            shares[:] = 0
            for number in range(first, first + chunks):
                shares[number % self.lanes % world] += 1
            worst += float(shares.max())
        return chunks / world / (worst / self.lanes)


def inflated_bytes(manifest: Manifest) -> int:
    """What a block takes in memory, at most: its pixels, and 4 KiB a sample of headers and JSON.

    Pictures in a block are stored, or smaller than their pixels (JPEG), so this bounds them.
    """
    pixels = manifest.height * manifest.width * (3 + 1 + manifest.depth.dtype.itemsize)
    return manifest.samples_per_block * (pixels + 4096)


def window_blocks(block_bytes: int, lanes: int) -> int:
    """Blocks of a window: as many as fit when each lane also holds one block that it shares.

    0 where not even one fits: then a window is one chunk, which the reader does not keep open.
    """
    fit = WINDOW_BYTES // (lanes * max(block_bytes, 1)) - 1
    return max(0, min(MAX_WINDOW, fit))
