"""Which sample comes at which position: a pure function, evaluated lazily.

Owns the arithmetic from (manifest, split, seed, lanes, chunk, shuffle_bytes) and a position to
(shard, block, row). Positions count on over the epochs: epoch = position // samples. Nothing here
reads data or remembers anything but the layout of the last epochs, so resume is arithmetic.
The surprise: blocks all hold the same number of samples except each shard's last, so the start of
the k-th permuted block is known from the short blocks alone, also among millions of blocks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wdtrain.remote.urls import redacted
from wdtrain.store.manifest import Manifest
from wdtrain.store.permutation import Permutation, keyed_hash, permutation_key
from wdtrain.stream.shares import balance

ORDER_VERSION = 3
"""Raised whenever the same arguments would give another order: old cursors are then refused."""

SHUFFLE_BYTES = 2**30
"""What samples are shuffled among, in bytes of memory, by default."""

TABLE_BLOCKS = 1 << 16
"""Up to here an epoch's permutation of blocks is kept as a table (512 KB), not worked out anew."""

ALL_LANES = -1
"""The lane of a window that all lanes share: a split that is shuffled as a whole."""


class Piece(NamedTuple):
    """Rows of one chunk inside one batch: `rows` samples from `offset` on in `lane` of `epoch`."""

    position: int
    epoch: int
    lane: int
    offset: int
    rows: int


class WindowKey(NamedTuple):
    """One shuffling window: the `number`-th of a lane in an epoch, its samples [start, stop)."""

    epoch: int
    lane: int
    number: int
    start: int
    stop: int


class Fragment(NamedTuple):
    """Rows of a piece that lie in one window, from its place `at` on."""

    window: WindowKey
    at: int
    rows: int


class _Layout(NamedTuple):
    """An epoch's permutation of blocks (also as a table, where they are few); at which places its
    short blocks lie, where they end in the epoch, and how many rows all those before lacked."""

    permutation: Permutation
    table: np.ndarray | None
    places: np.ndarray
    ends: np.ndarray
    lacking: np.ndarray


class _Cut(NamedTuple):
    """The blocks of a lane cut into windows: of equal length, but for the first, shorter by
    `shift` / `unit` (within half) of one, and the last, longer by it.

    Lanes advance together, so windows of equal beginnings would all have to be opened at once;
    shifted, a few are opened with each batch.
    """

    blocks: int
    windows: int
    shift: int
    unit: int

    def start_of(self, number: int) -> int:
        """The first block of a window; of the one behind the last, where the lane ends."""
        if number in (0, self.windows):
            return number and self.blocks
        return (number * self.unit - self.shift) * self.blocks // (self.unit * self.windows)

    def window_of(self, block: int) -> int:
        """The last window that begins at this block or before it."""
        end = (block + 1) * self.unit * self.windows + self.shift * self.blocks
        return min(max(0, (end - 1) // (self.unit * self.blocks)), self.windows - 1)


class Order:
    """The order of one split's samples, epoch after epoch, the same for any world and batch size.

    Positions are dealt to `lanes` in chunks. A split of at most `shuffle_bytes` in memory is
    shuffled as a whole in each epoch. Of a larger one the blocks are permuted anew each epoch, laid
    end to end and cut into lanes; within a lane samples are shuffled inside windows of whole
    blocks, which take `shuffle_bytes` over all lanes together.
    Raises ValueError for an unknown split, or an argument that is no number above 0 (seed: from 0).
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        *,
        seed: int,
        lanes: int = 32,
        chunk: int = 32,
        shuffle_bytes: int = SHUFFLE_BYTES,
    ) -> None:
        if split not in manifest.splits:
            held = ", ".join(manifest.splits)
            raise ValueError(f"split {split!r} is not in {redacted(manifest.url)}; it holds {held}")
        check_count("seed", seed, least=0)
        for name, value in (("lanes", lanes), ("chunk", chunk), ("shuffle_bytes", shuffle_bytes)):
            check_count(name, value)
        sizes = np.array([shard.samples for shard in manifest.splits[split].shards], np.int64)
        self.block_rows = manifest.samples_per_block
        self.samples = int(sizes.sum())
        self.split, self.seed, self.lanes, self.chunk = split, seed, lanes, chunk
        self.shuffle_bytes, self.sample_bytes = shuffle_bytes, sample_bytes(manifest, split)
        self.is_whole = self.samples * self.sample_bytes <= shuffle_bytes
        blocks = -(-sizes // self.block_rows)
        self._block_start = np.concatenate([[0], np.cumsum(blocks)])
        self.num_blocks = int(self._block_start[-1])
        deficit = blocks * self.block_rows - sizes
        self._short_blocks = (self._block_start[1:] - 1)[deficit > 0]
        self._deficits = deficit[deficit > 0]
        # Not even a block for each lane fits: then a window is a block, which is not kept until its
        # lane comes to it again.
        self.least_bytes = lanes * self.block_rows * self.sample_bytes
        self.keeps_windows = self.is_whole or self.least_bytes <= shuffle_bytes
        golden = round(lanes * 0.618)
        self._stride = next(n for n in range(golden, lanes + 2) if math.gcd(n, lanes) == 1)
        facts = [ORDER_VERSION, manifest.digest, split, seed, lanes, chunk, shuffle_bytes]
        self.digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        self._epoch_layouts = lru_cache(maxsize=4)(self._lay_out_epoch)
        self._windows = lru_cache(maxsize=lanes + 1)(self.window_samples)  # of each lane, one

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

    # ------------------------------------------------------------------ lanes to windows

    def fragments(self, piece: Piece, last: dict[int, WindowKey] | None = None) -> list[Fragment]:
        """A piece, cut where its windows end. `last`: by lane the window that was found last, kept
        by whoever goes through the order, so that it need not be found again."""
        if self.is_whole:
            at = piece.position - piece.epoch * self.samples
            whole = WindowKey(piece.epoch, ALL_LANES, 0, 0, self.samples)
            return [Fragment(whole, at, piece.rows)]
        last = {} if last is None else last
        found, offset, stop = [], piece.offset, piece.offset + piece.rows
        while offset < stop:
            key = last.get(piece.lane)
            if key is None or key.epoch != piece.epoch or not key.start <= offset < key.stop:
                key = last[piece.lane] = self.window_at(piece.epoch, piece.lane, offset)
            rows = min(stop, key.stop) - offset
            found.append(Fragment(key, offset - key.start, rows))
            offset += rows
        return found

    def window_at(self, epoch: int, lane: int, offset: int) -> WindowKey:
        """The window of a lane's sample; `offset` counts from the lane's beginning in the epoch."""
        layout, (start, stop) = self._epoch_layouts(epoch), self.lane_bounds(lane)
        first, place, last = (
            self._place_at(layout, laid) for laid in (start, start + offset, stop - 1)
        )
        cut = self._cut(lane, last + 1 - first)
        number = cut.window_of(place - first)
        begins, ends = (
            self._start_of(layout, first + cut.start_of(n)) - start for n in (number, number + 1)
        )
        return WindowKey(epoch, lane, number, max(0, begins), min(ends, stop - start))

    def _cut(self, lane: int, blocks: int) -> _Cut:
        """How the blocks of a lane are cut into windows: into so many that the mean over lanes is
        the times that the split is `shuffle_bytes`. So two samples of a block meet in a chunk as
        often as in windows of just that size, though lanes are not whole numbers of them."""
        if not self.keeps_windows:
            return _Cut(blocks, blocks, 0, 1)
        num_bytes = self.samples * self.sample_bytes
        before, after = (-(-n * num_bytes // self.shuffle_bytes) for n in (lane, lane + 1))
        turn = lane * self._stride % self.lanes  # lanes of one batch are far from each other
        shift = 2 * turn + 1 - self.lanes
        return _Cut(blocks, min(after - before, blocks), shift, 2 * self.lanes)

    # ------------------------------------------------------------------ windows to blocks

    def window_samples(self, key: WindowKey) -> tuple[np.ndarray, np.ndarray]:
        """(block, row) of every sample of a window, int64 [m] each, in the order they come."""
        start = 0 if key.lane == ALL_LANES else self.lane_bounds(key.lane)[0]
        laid = np.arange(start + key.start, start + key.stop, dtype=np.int64)
        word = permutation_key(self.seed, key.epoch, "window", key.lane, key.number)
        mixed = np.argsort(keyed_hash(np.arange(len(laid)), word), kind="stable")
        blocks, rows = self._blocks_at(key.epoch, laid)
        return blocks[mixed], rows[mixed]

    def _lay_out_epoch(self, epoch: int) -> _Layout:
        permutation = Permutation(self.num_blocks, permutation_key(self.seed, epoch, "blocks"))
        place = permutation.inverse(self._short_blocks)
        by_place = np.argsort(place)
        lacking = np.cumsum(self._deficits[by_place])
        ends = (place[by_place] + 1) * self.block_rows - lacking
        is_small = self.num_blocks <= TABLE_BLOCKS
        table = permutation.forward(np.arange(self.num_blocks)) if is_small else None
        return _Layout(permutation, table, place[by_place], ends, np.concatenate([[0], lacking]))

    def _place_at(self, layout: _Layout, laid: int) -> int:
        """Which of the permuted blocks, counted from 0, holds a sample of the epoch."""
        lacking = layout.lacking[layout.ends.searchsorted(laid, side="right")]
        return (laid + int(lacking)) // self.block_rows

    def _start_of(self, layout: _Layout, place: int) -> int:
        """Where in the epoch a permuted block begins."""
        return place * self.block_rows - int(layout.lacking[layout.places.searchsorted(place)])

    def _blocks_at(self, epoch: int, laid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(block, row) of samples that lie one after the other in the epoch."""
        layout = self._epoch_layouts(epoch)
        virtual = laid + layout.lacking[np.searchsorted(layout.ends, laid, side="right")]
        places, rows = np.divmod(virtual, self.block_rows)
        if layout.table is not None:
            return layout.table[places], rows
        few = np.arange(places[0], places[-1] + 1)
        return layout.permutation.forward(few)[places - places[0]], rows

    def block_sizes(self) -> np.ndarray:
        """int64 [blocks]: the samples of each block of the split."""
        sizes = np.full(self.num_blocks, self.block_rows)
        sizes[self._short_blocks] -= self._deficits
        return sizes

    def shard_block(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, block in that shard) of block numbers that run over the whole split."""
        shards = np.searchsorted(self._block_start, blocks, side="right") - 1
        return shards, blocks - self._block_start[shards]

    def samples_of(self, fragment: Fragment) -> tuple[np.ndarray, np.ndarray]:
        """(block, row) of a fragment's samples, int64 [rows] each."""
        blocks, rows = self._windows(fragment.window)
        part = slice(fragment.at, fragment.at + fragment.rows)
        return blocks[part], rows[part]

    def locate(self, position: int) -> tuple[int, int, int]:
        """(shard, block, row) of one position."""
        (fragment,) = self.fragments(next(self.pieces(position, position + 1)))
        blocks, rows = self.samples_of(fragment)
        shards, in_shard = self.shard_block(blocks)
        return int(shards[0]), int(in_shard[0]), int(rows[0])

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
        return balance(batch_size // self.chunk, self.lanes, world)


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """ValueError, naming the argument, unless it is a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} on")


def sample_bytes(manifest: Manifest, split: str) -> int:
    """What a sample takes in memory: as stored, where shards are not compressed; else at most its
    pixels, and 4 KiB of headers and JSON.

    Pictures in a compressed block are stored, or smaller than their pixels (JPEG).
    """
    held = manifest.splits[split]
    if manifest.index is not None and held.samples:
        return max(1, manifest.index.split_bytes[split] // held.samples)
    if not manifest.is_compressed and held.samples:
        return max(1, sum(shard.num_bytes for shard in held.shards) // held.samples)
    values = sum(field.channels * field.dtype.itemsize for field in manifest.fields.values())
    return manifest.height * manifest.width * values + 4096
