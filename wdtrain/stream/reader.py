"""Disk to batches, with threads and no worker processes.

Owns the open windows of each lane and the work in flight: blocks are read, inflated and parsed by
a pool, rows are decoded by the same pool straight into a batch's memory, and a bounded number of
batches is prepared ahead. zstd, libjpeg-turbo and OpenCV release the lock, so threads scale.
The surprise: there is no scheduler thread. Asking for a batch tops up the work in flight; since the
pool is first in, first out, a decode that waits for a block can never stand before its load.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from wdtrain.store.errors import DamagedBlock, DamagedSample, StoreError
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, decode_row, parse_block
from wdtrain.store.shards import ShardReader
from wdtrain.stream.batches import Batch, HostBuffers
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import Order, Piece, WindowKey
from wdtrain.stream.stages import Stages
from wdtrain.triple import resize_triple_arrays

AHEAD = 3
"""Batches prepared ahead of the step: enough to ride out an evaluation's first step or a slow
window, small enough that memory stays bounded by the windows."""

MAX_OPEN_SHARDS = 256
"""Shards held open at once: far below the usual limit of 1,024 open files."""

DamagePolicy = Literal["fatal", "skip"]


class Damaged(ValueError):
    """A block or a sample that is not what was packed: which one, and what is wrong with it."""

    def __init__(self, shard: str, block: int, key: str | None, why: str) -> None:
        self.where = f"shard {shard}, block {block}" + (f", sample {key}" if key else "")
        super().__init__(
            f"{self.where} is damaged: {why}; fetch the shard again or pack it again, or set "
            "data.on_damage=skip to train without it"
        )
        self.why = why


@dataclass(frozen=True)
class Window:
    """An open window: where its samples lie, and its blocks, loading or loaded."""

    blocks: np.ndarray
    rows: np.ndarray
    loads: dict[int, Future[BlockIndex | Damaged]]


@dataclass(frozen=True)
class Pending:
    """A batch being decoded: the buffers, who fills them, and the cursor after it."""

    buffers: HostBuffers
    pieces: list[Piece]
    fills: list[Future[list[str | Damaged]]]
    cursor: Cursor


class Stream(torch.utils.data.IterableDataset[Batch]):
    """The batches of one rank, from a cursor on; `open_stream` makes it.

    Each `iter()` begins again at the cursor that it was opened with. `stages` says where the time
    went; `damaged` says what was left out and why, by "shard S, block B, sample KEY".
    """

    def __init__(
        self,
        manifest: Manifest,
        order: Order,
        *,
        batch_size: int,
        rank: int,
        world: int,
        threads: int,
        start: int,
        stop: int | None,
        size: tuple[int, int] | None,
        on_damage: DamagePolicy,
        damaged: dict[str, str] | None,
    ) -> None:
        self.manifest, self.order = manifest, order
        self.batch_size, self.rank, self.world, self.threads = batch_size, rank, world, threads
        self.start, self.stop = start, stop
        self.size = size or (manifest.height, manifest.width)
        self.on_damage = on_damage
        self.stages = Stages()
        self.damaged = {} if damaged is None else damaged

    def __iter__(self) -> Iterator[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError(
                "a wdtrain stream reads with its own threads; a DataLoader worker would read "
                "everything once more; use num_workers=0"
            )
        return _Reading(self).batches()


class _Reading:
    """One pass over a stream: the pool, the open files and the open windows."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.order = stream, stream.order
        self.pool = ThreadPoolExecutor(stream.threads, thread_name_prefix="wdtrain-read")
        self.shards = stream.manifest.splits[stream.order.split].shards
        self.readers: dict[int, ShardReader] = {}
        self.lock = threading.Lock()
        self.windows: dict[int, tuple[WindowKey, Window]] = {}

    def batches(self) -> Iterator[Batch]:
        pending: deque[Pending] = deque()
        position, stop = self.stream.start, self.stream.stop
        try:
            while True:
                while len(pending) < AHEAD and (stop is None or position < stop):
                    end = self._batch_end(position, stop)
                    pending.append(self._begin(position, end))
                    position = end
                if not pending:
                    return
                yield self._finish(pending.popleft())
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.readers.clear()

    def _batch_end(self, position: int, stop: int | None) -> int:
        # Step t takes positions [tB, (t+1)B), also after a resume at any position.
        end = (position // self.stream.batch_size + 1) * self.stream.batch_size
        return end if stop is None else min(end, stop)

    # ------------------------------------------------------------------ ask for the work

    def _begin(self, start: int, stop: int) -> Pending:
        mine = [
            piece
            for piece in self.order.pieces(start, stop)
            if piece.lane % self.stream.world == self.stream.rank
        ]
        rows = sum(piece.rows for piece in mine)
        dtype = self.stream.manifest.depth.dtype
        buffers = HostBuffers(rows, *self.stream.size, dtype)
        fills, at = [], 0
        for piece in mine:
            key, window = self._open_window(self.order.window_of(piece))
            inside = piece.offset - key.number * self.order.window_rows
            fills.append(self.pool.submit(self._fill, buffers, at, window, inside, piece.rows))
            at += piece.rows
            if self.order.window_rows == self.order.chunk and inside + piece.rows == len(
                window.rows
            ):
                del self.windows[piece.lane]  # large pictures: nothing is held beyond its use
        return Pending(buffers, mine, fills, Cursor.at(self.order, stop))

    def _open_window(self, key: WindowKey) -> tuple[WindowKey, Window]:
        """The window of `key`; a lane holds one, and hands blocks that it shares to its next."""
        open_key, window = self.windows.get(key.lane, (None, None))
        if open_key != key:
            blocks, rows = self.order.window_samples(key)
            same_epoch = open_key is not None and open_key.epoch == key.epoch
            held = window.loads if window is not None and same_epoch else {}
            loads = {
                block: held[block] if block in held else self.pool.submit(self._load, block)
                for block in map(int, np.unique(blocks))
            }
            window = Window(blocks, rows, loads)
            self.windows[key.lane] = (key, window)
        assert window is not None
        return key, window

    # ------------------------------------------------------------------ the work, in the pool

    def _load(self, block: int) -> BlockIndex | Damaged:
        """A block, read, inflated, checked and parsed; or what is wrong with it."""
        shard, inside = self._place(block)
        reader = self._reader(shard)  # a missing shard is no damage to leave out: it stops the run
        try:
            with self.stream.stages.timed("read"):
                data = reader.read_block(inside)
        except DamagedBlock as error:
            return self._judged(Damaged(error.shard, error.block, None, error.why))
        try:
            with self.stream.stages.timed("parse"):
                return parse_block(data, self.stream.manifest)
        except StoreError as error:
            key = error.key if isinstance(error, DamagedSample) else None
            return self._judged(Damaged(self.shards[shard].name, inside, key, str(error)))

    def _fill(
        self, buffers: HostBuffers, at: int, window: Window, inside: int, rows: int
    ) -> list[str | Damaged]:
        """The key of each row, decoded into the batch; or the damage that leaves it out."""
        blocks = [window.loads[int(block)].result() for block in window.blocks[inside:][:rows]]
        with self.stream.stages.timed("decode"):
            return [
                block
                if isinstance(block, Damaged)
                else self._decode(buffers, at + number, block, window, inside + number)
                for number, block in enumerate(blocks)
            ]

    def _decode(
        self, buffers: HostBuffers, at: int, block: BlockIndex, window: Window, place: int
    ) -> str | Damaged:
        height, width = self.stream.size
        row = int(window.rows[place])
        try:
            arrays = decode_row(block, row)
        except DamagedSample as error:
            shard, inside = self._place(int(window.blocks[place]))
            return self._judged(Damaged(self.shards[shard].name, inside, error.key, error.why))
        overlay, mask, depth = resize_triple_arrays(*arrays, height=height, width=width)
        buffers.overlay[at], buffers.mask[at], buffers.depth[at] = overlay, mask, depth
        return block.keys[row]

    def _judged(self, damage: Damaged) -> Damaged:
        if self.stream.on_damage == "fatal":
            raise damage
        self.stream.damaged[damage.where] = damage.why
        return damage

    def _place(self, block: int) -> tuple[int, int]:
        shard, inside = self.order.shard_block(np.array([block]))
        return int(shard[0]), int(inside[0])

    def _reader(self, shard: int) -> ShardReader:
        with self.lock:
            if shard not in self.readers:
                entry, manifest = self.shards[shard], self.stream.manifest
                # One that is dropped closes itself when the last read of it has ended.
                while len(self.readers) >= MAX_OPEN_SHARDS:
                    self.readers.pop(next(iter(self.readers)))
                self.readers[shard] = ShardReader(manifest.shard_url(entry), entry, manifest)
            return self.readers[shard]

    # ------------------------------------------------------------------ hand on the batch

    def _finish(self, pending: Pending) -> Batch:
        started = time.perf_counter()
        filled = [fill.result() for fill in pending.fills]
        waited = time.perf_counter() - started
        self.stream.stages.add("wait", waited)
        found = [row for rows in filled for row in rows]
        kept = np.array([isinstance(row, str) for row in found], bool)
        positions = [np.arange(p.position, p.position + p.rows) for p in pending.pieces]
        overlay, mask, depth = pending.buffers.tensors(kept)
        return Batch(
            overlay=overlay,
            mask=mask,
            depth=depth,
            keys=[row for row in found if isinstance(row, str)],
            positions=np.concatenate([np.empty(0, np.int64), *positions])[kept],
            chunks=[sum(isinstance(row, str) for row in rows) for rows in filled],
            cursor=pending.cursor,
            wait_seconds=waited,
            occupancy=self.stream.stages.occupancy(self.stream.threads),
        )


def own_cores() -> int:
    """The cores this process may use, shared with the other ranks of its launcher here."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def open_stream(
    url: str | Manifest,
    *,
    split: str,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    threads: int | None = None,
    cursor: Cursor | None = None,
    epochs: int | None = 1,
    size: int | tuple[int, int] | None = None,
    lanes: int = 32,
    chunk: int = 32,
    on_damage: DamagePolicy = "fatal",
    damaged: dict[str, str] | None = None,
) -> Stream:
    """A stream over one split of a dataset, as an iterable of `Batch`es.

    It ends after `epochs` (None: never), counted from the order's beginning, not from `cursor`.
    `batch_size` is that of all ranks together, a multiple of `chunk`; this rank gets the chunks
    whose lane is its own (lane mod world). `size`: side, or (height, width), to decode at instead
    of the dataset's own. `threads`: None takes the cores this process may use. `on_damage`:
    "fatal" raises at a damaged block or sample, "skip" leaves its rows out and notes them in
    `damaged`, a dict that several streams may share.
    Raises ValueError when a batch is not whole chunks, ranks outnumber lanes, or the cursor was
    saved for another order.
    """
    manifest = url if isinstance(url, Manifest) else Manifest.load(url)
    order = Order(manifest, split, seed=seed, lanes=lanes, chunk=chunk)
    order.check_batch(batch_size, world)
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not in a world of {world}; ranks count from 0")
    if cursor is not None:
        if not isinstance(cursor, Cursor):
            raise TypeError(
                f"cursor is a {type(cursor).__name__}; read one with Cursor.loads(text)"
            )
        cursor.check(order)
    return Stream(
        manifest,
        order,
        batch_size=batch_size,
        rank=rank,
        world=world,
        threads=threads or own_cores(),
        start=cursor.position if cursor else 0,
        stop=None if epochs is None else epochs * order.samples,
        size=(size, size) if isinstance(size, int) else size,
        on_damage=on_damage,
        damaged=damaged,
    )
