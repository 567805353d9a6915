"""Disk to batches, with threads and no worker processes.

Owns the open windows of each lane and the work in flight: a pool opens windows (reads, inflates and
parses their blocks) and decodes rows straight into a batch's memory; a bounded number of batches is
prepared ahead. zstd, libjpeg-turbo and our own loops release the lock, so threads scale.
The surprise: there is no scheduler thread. Asking for a batch tops up the work in flight; since the
pool is first in, first out, a decode that waits for a window can never stand before its opening.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from wdtrain.resize import size_for
from wdtrain.store.manifest import Manifest
from wdtrain.store.rows import Filler, Part, Target
from wdtrain.stream.batches import Batch, HostMemory, tensors
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import Order, Piece, WindowKey, inflated_bytes
from wdtrain.stream.readahead import ReadAhead
from wdtrain.stream.stages import Stages
from wdtrain.stream.windows import Blocks, Damage, Window

AHEAD = 3
"""Batches prepared ahead of the step: enough to ride out an evaluation's first step or a slow
window, small enough that memory stays bounded by the windows."""

PATIENCE_SECONDS = 0.2
"""How often a reader that waits looks whether it should wait no longer."""

DamagePolicy = Literal["fatal", "skip"]


class Damaged(ValueError):
    """A block or a sample that is not what was packed: which one, and what is wrong with it."""

    def __init__(self, damage: Damage) -> None:
        self.where, self.why = damage.where, damage.why
        super().__init__(
            f"{self.where} is damaged: {self.why}; fetch the shard again or pack it again, or set "
            "data.on_damage=skip to train without it"
        )


class Fill(NamedTuple):
    """A piece of a batch: which rows of which window go to the batch's rows from `at` on."""

    piece: Piece
    window: Future[Window]
    start: int
    at: int


@dataclass(frozen=True)
class Pending:
    """A batch being decoded: its memory, which rows are kept, who fills them, the cursor after."""

    target: Target
    kept: np.ndarray
    pieces: list[Piece]
    tasks: list[Future[None]]
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
        size: tuple[int, int],
        on_damage: DamagePolicy,
        damaged: dict[str, str] | None,
        pin_memory: bool,
        give_up: Callable[[], bool] | None,
    ) -> None:
        self.manifest, self.order = manifest, order
        self.batch_size, self.rank, self.world, self.threads = batch_size, rank, world, threads
        self.start, self.stop = start, stop
        self.size = size
        self.on_damage, self.give_up = on_damage, give_up
        self.stages = Stages()
        self.damaged = {} if damaged is None else damaged
        # Kept over the epochs: open files with what they have verified, and batches' memory.
        self.blocks = Blocks(manifest, order, self.stages)
        self.filler = Filler(manifest, self.size)
        self.memory = HostMemory(*self.size, manifest.depth.dtype, pinned=pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError(
                "a wdtrain stream reads with its own threads; a DataLoader worker would read "
                "everything once more; use num_workers=0"
            )
        self.blocks.reopen()
        return _Reading(self).batches()


class _Reading:
    """One pass over a stream: the pool and the open windows."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.order = stream, stream.order
        self.pool = ThreadPoolExecutor(stream.threads, thread_name_prefix="wdtrain-read")
        self.windows: dict[int, tuple[WindowKey, Future[Window]]] = {}
        self.ahead = self._read_ahead() if stream.blocks.is_remote else None

    def _read_ahead(self) -> ReadAhead:
        stream, end = self.stream, self.stream.stop
        return ReadAhead(
            self.order,
            self._mine(stream.start, sys.maxsize if end is None else end),
            stream.blocks.read,
            block_bytes=inflated_bytes(stream.manifest),
        )

    def batches(self) -> Iterator[Batch]:
        pending: deque[Pending] = deque()
        position, stop = self.stream.start, self.stream.stop
        end = self._batch_end(position, stop)
        pieces = list(self._mine(position, end))
        try:
            while True:
                while len(pending) < AHEAD and (stop is None or position < stop):
                    next_end = self._batch_end(end, stop)
                    if self.ahead is not None:
                        self.ahead.reach(next_end)
                    following = list(self._mine(end, next_end))
                    pending.append(self._begin(pieces, end, following))
                    position, end, pieces = end, next_end, following
                if not pending:
                    return
                batch = self._finish(pending.popleft())
                if batch is None:
                    return
                yield batch
        finally:
            self.pool.shutdown(wait=False, cancel_futures=True)
            if self.ahead is not None:
                self.ahead.cancel()
                if pending:  # stopped in the midst: reads in flight may have long to try
                    self.stream.blocks.close()
                self.ahead.close()
            self.pool.shutdown(wait=True)

    def _batch_end(self, position: int, stop: int | None) -> int:
        # Step t takes positions [tB, (t+1)B), also after a resume at any position.
        end = (position // self.stream.batch_size + 1) * self.stream.batch_size
        return end if stop is None else min(end, stop)

    # ------------------------------------------------------------------ ask for the work

    def _begin(self, pieces: list[Piece], stop: int, following: list[Piece]) -> Pending:
        rows = sum(piece.rows for piece in pieces)
        target, kept = self.stream.memory.take(rows), np.ones(rows, bool)
        fills, at = [], 0
        for piece in pieces:
            fills.append(self._fill_of(piece, at))
            at += piece.rows
        if self.ahead is None:  # else threads would wait for requests, with work at hand
            self._open_first_windows(following)
        step = max(1, -(-len(fills) // self.stream.threads))
        tasks = [
            self.pool.submit(self._fill, target, kept, fills[first : first + step])
            for first in range(0, len(fills), step)
        ]
        return Pending(target, kept, pieces, tasks, Cursor.at(self.order, stop))

    def _open_first_windows(self, pieces: list[Piece]) -> None:
        """What the next batch begins with is opened before the batch in front of it is decoded: so
        no thread waits for a window that another has just begun to open."""
        first: dict[int, Piece] = {}
        for piece in pieces:
            first.setdefault(piece.lane, piece)
        for piece in first.values():
            self._open_window(self.order.window_of(piece))

    def _mine(self, start: int, stop: int) -> Iterator[Piece]:
        """The pieces of positions [start, stop) that lie on this rank's lanes."""
        for piece in self.order.pieces(start, stop):
            if piece.lane % self.stream.world == self.stream.rank:
                yield piece

    def _fill_of(self, piece: Piece, at: int) -> Fill:
        key = self.order.window_of(piece)
        inside = piece.offset - self.order.window_offset(key)
        window = self._open_window(key)
        if self.order.window_rows == self.order.chunk:
            del self.windows[piece.lane]  # large pictures: nothing is held beyond its use
        return Fill(piece, window, inside, at)

    def _open_window(self, key: WindowKey) -> Future[Window]:
        """The window of `key`; a lane holds one, and hands blocks that it shares to its next."""
        open_key, window = self.windows.get(key.lane, (None, None))
        if window is None or open_key != key:
            same_epoch = open_key is not None and open_key.epoch == key.epoch
            before = window if same_epoch else None
            known = self.stream.blocks.known_window(key)
            if known is None:
                window = self.pool.submit(self.stream.blocks.open_window, key, before, self.ahead)
            else:
                window = Future()
                window.set_result(known)
            self.windows[key.lane] = (key, window)
        return window

    # ------------------------------------------------------------------ the work, in the pool

    def _fill(self, target: Target, kept: np.ndarray, fills: list[Fill]) -> None:
        """Decodes pieces into the batch; rows that damage leaves out are marked as not kept."""
        while fills:
            done = self._fill_at_once(target, fills)
            if done < len(fills):
                self._fill_by_row(target, kept, fills[done])
            fills = fills[done + 1 :]

    def _fill_at_once(self, target: Target, fills: list[Fill]) -> int:
        """How many pieces are in the batch, in turn, before one in which something is unusual."""
        parts = []
        for fill in fills:
            window = fill.window.result()
            if window.rows is None:
                break
            parts.append(Part(window.rows, fill.start, fill.piece.rows, fill.at))
        if not parts:
            return 0
        filled = self.stream.filler.fill(parts, target)
        self.stream.stages.add(gather=filled.gathering, decode=filled.decoding)
        return filled.parts

    def _fill_by_row(self, target: Target, kept: np.ndarray, fill: Fill) -> None:
        window = fill.window.result()
        with self.stream.stages.timed("decode"):
            for row in range(fill.piece.rows):
                damage = window.decode_one(fill.start + row, target, fill.at + row)
                if damage is not None:
                    if self.stream.on_damage == "fatal":
                        raise Damaged(damage)
                    self.stream.damaged[damage.where] = damage.why
                    kept[fill.at + row] = False

    # ------------------------------------------------------------------ hand on the batch

    def _finish(self, pending: Pending) -> Batch | None:
        started = time.perf_counter()
        if not all(self._wait_for(task) for task in pending.tasks):
            return None
        waited = time.perf_counter() - started
        self.stream.stages.add(wait=waited)
        kept, names = pending.kept, pending.target.names
        overlay, mask, depth = tensors(pending.target, kept)
        spans = [(piece.position, piece.position + piece.rows) for piece in pending.pieces]
        positions = np.concatenate([np.arange(*span) for span in spans] or [np.arange(0)])
        chunks = [piece.rows for piece in pending.pieces]
        if not kept.all():
            ends = np.cumsum(chunks)[:-1]
            chunks = [int(part.sum()) for part in np.split(kept, ends)]
            names, positions = names[kept], positions[kept]
        return Batch(
            overlay=overlay,
            mask=mask,
            depth=depth,
            names=names,
            positions=positions,
            chunks=chunks,
            cursor=pending.cursor,
            wait_seconds=waited,
            occupancy=self.stream.stages.occupancy(self.stream.threads),
        )

    def _wait_for(self, task: Future[None]) -> bool:
        """Whether the task ended before `give_up` said to wait no longer."""
        while True:
            try:
                task.result(timeout=None if self.stream.give_up is None else PATIENCE_SECONDS)
            except TimeoutError:
                if task.done():  # its own error
                    raise
                if self.stream.give_up is not None and self.stream.give_up():
                    return False
            else:
                return True


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
    pin_memory: bool = False,
    give_up: Callable[[], bool] | None = None,
) -> Stream:
    """A stream over one split of a dataset, as an iterable of `Batch`es.

    It ends after `epochs` (None: never), counted from the order's beginning, not from `cursor`.
    `batch_size` is that of all ranks together, a multiple of `chunk`; this rank gets the chunks
    whose lane is its own (lane mod world). `size`: to read at instead of the dataset's own, the
    shorter side (the shape is kept) or (height, width). `threads`: None takes the cores this
    process may use. `on_damage`: "fatal" raises at a damaged block or sample, "skip" leaves its
    rows out and notes them in `damaged`, a dict that several streams may share. `pin_memory`:
    batches lie in page-locked memory, from which copies to a GPU overlap its work. `give_up`: asked
    now and then while a batch is waited for; where it says yes, the iteration ends before it.
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
        size=size_for((manifest.height, manifest.width), size),
        on_damage=on_damage,
        damaged=damaged,
        pin_memory=pin_memory,
        give_up=give_up,
    )
