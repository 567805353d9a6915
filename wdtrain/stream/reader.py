"""Disk to batches, with threads and no worker processes.

Owns the open windows of each lane and the work in flight: a pool loads blocks (reads, inflates and
parses them) and decodes rows straight into a batch's memory; a bounded number of batches is
prepared ahead. zstd, libjpeg-turbo and our own loops release the lock, so threads scale.
The surprise: there is no scheduler thread. Asking for a batch tops up the work in flight; since the
pool is first in, first out, a decode that waits for a block can never stand before its loading.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch

from wdtrain.disk.machine import own_cores
from wdtrain.store.filling import Filler, RowBuffers, WindowSlice
from wdtrain.store.manifest import Manifest
from wdtrain.stream.batches import Batch, HostMemory, Lent, tensors
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import SHUFFLE_BYTES, Order, Piece, WindowKey, check_count
from wdtrain.stream.readahead import ReadAhead
from wdtrain.stream.stages import Stages
from wdtrain.stream.windows import Blocks, Damage, Loading, Window

AHEAD = 3
"""Batches prepared ahead of the step: enough to ride out an evaluation's first step or a slow
read, small enough that memory stays bounded by what is shuffled among."""

PATIENCE_SECONDS = 0.2
"""How often a reader that waits looks whether it should wait no longer."""

DamagePolicy = Literal["fatal", "skip"]
_T = TypeVar("_T")


class Damaged(ValueError):
    """A block or a sample that is not what was packed: which one, and what is wrong with it."""

    def __init__(self, damage: Damage) -> None:
        self.where, self.why = damage.where, damage.why
        super().__init__(
            f"{self.where} is damaged: {self.why}; fetch the shard again or pack it again, or set "
            "data.on_damage=skip to train without it"
        )


class Fill(NamedTuple):
    """Rows of a batch: `rows` of a window's from `start` on go to the batch's from `at` on."""

    window: Window
    start: int
    rows: int
    at: int


class Share(NamedTuple):
    """This rank's part of one batch, up to a position: its pieces, and how they are filled."""

    stop: int
    pieces: list[Piece]
    fills: list[Fill]


@dataclass(frozen=True)
class Pending:
    """A batch being decoded: its memory, which rows are kept, who fills them, the cursor after."""

    target: Lent
    kept: np.ndarray
    pieces: list[Piece]
    tasks: list[Future[None]]
    cursor: Cursor


class Stream(torch.utils.data.IterableDataset[Batch]):
    """The batches of one rank, from a cursor on; `open_stream` makes it.

    Each `iter()` is a pass: the first goes on from the cursor, each later one with the epochs after
    those of the pass before, also where that was left early. A stream without end goes on after the
    last batch that was taken. `stages` says where the time went; `damaged` says what was left out
    and why, by "shard S, block B, sample KEY".
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
        epochs: int | None,
        size: tuple[int, int],
        fields: Sequence[str] | None,
        on_damage: DamagePolicy,
        damaged: dict[str, str] | None,
        pin_memory: bool,
        give_up: Callable[[], bool] | None,
    ) -> None:
        self.manifest, self.order = manifest, order
        self.batch_size, self.rank, self.world, self.threads = batch_size, rank, world, threads
        self._opened_at, self.start, self.epochs = start, start, epochs
        self.size = size
        self.on_damage, self.give_up = on_damage, give_up
        self.stages = Stages()
        self.damaged = {} if damaged is None else damaged
        # Kept over the epochs: open files with what they have verified, batches' memory and, of a
        # split that is shuffled as a whole, its blocks.
        self.held: dict[int, Loading] = {}
        self.blocks = Blocks(manifest, order, self.stages)
        wanted = [name for name in manifest.fields if fields is None or name in fields]
        self.filler = Filler(manifest, self.size, fields=wanted)
        read = [manifest.fields[name] for name in wanted]
        self.memory = HostMemory(read, self.size, pinned=pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError(
                "a wdtrain stream reads with its own threads; a DataLoader worker would read "
                "everything once more; use num_workers=0"
            )
        return self._pass()

    def _pass(self) -> Iterator[Batch]:
        # Here, where the first batch is asked for: an iterator that nobody asks is no pass.
        start, stop = self.start, self._end_of_pass(self.start)
        if stop is not None:
            self.start = stop
        self.blocks.reopen()
        for batch in _Reading(self, start, stop).batches():
            if stop is None:
                self.start = batch.cursor.position
            yield batch

    def _end_of_pass(self, start: int) -> int | None:
        """Where a pass from a position ends. Of a job of several epochs that stands at its end
        nothing is left; where a pass is one epoch, the next one is."""
        if self.epochs is None:
            return None
        positions = self.epochs * self.order.samples
        is_over = self.epochs > 1 and start == positions == self._opened_at
        return start if is_over else (start // positions + 1) * positions


class _Reading:
    """One pass over a stream: the pool and the open windows."""

    def __init__(self, stream: Stream, start: int, stop: int | None) -> None:
        self.stream, self.order = stream, stream.order
        self.start, self.stop = start, stop
        self.pool = ThreadPoolExecutor(stream.threads, thread_name_prefix="wdtrain-read")
        self.last: dict[int, WindowKey] = {}
        self.windows: dict[int, Window] = {}  # by lane, the one that is open
        self.held = dict(stream.held)  # all blocks, where the split is shuffled as a whole
        self.ahead = self._read_ahead() if stream.blocks.is_remote else None

    def _read_ahead(self) -> ReadAhead:
        order = self.order
        return ReadAhead(
            order,
            self._mine(self.start, sys.maxsize if self.stop is None else self.stop),
            self.stream.blocks.read,
            block_bytes=order.block_rows * order.sample_bytes,
        )

    def batches(self) -> Iterator[Batch]:
        pending: deque[Pending] = deque()
        position = self.start
        share = self._next_share(position)
        try:
            while True:
                while len(pending) < AHEAD and (self.stop is None or position < self.stop):
                    position = share.stop
                    # What the next batch needs is loaded before the batch in front of it is
                    # decoded: so no thread waits for a block that another has just begun to load.
                    following = self._next_share(position)
                    pending.append(self._begin(share))
                    share = following
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
            self.stream.held = {n: one for n, one in self.held.items() if _is_loaded(one)}

    def _batch_end(self, position: int) -> int:
        # Step t takes positions [tB, (t+1)B), also after a resume at any position.
        end = (position // self.stream.batch_size + 1) * self.stream.batch_size
        return end if self.stop is None else min(end, self.stop)

    # ------------------------------------------------------------------ ask for the work

    def _next_share(self, position: int) -> Share:
        """The share of the batch from a position on; its blocks are being loaded then."""
        stop = self._batch_end(position)
        if self.ahead is not None:
            self.ahead.reach(stop)
        pieces, fills, wanted, at = list(self._mine(position, stop)), [], [], 0
        for piece in pieces:
            for key, start, rows in self.order.fragments(piece, self.last):
                window = self._window(key)
                wanted += window.wanted(start, rows)
                fills.append(Fill(window, start, rows, at))
                at += rows
        if not self.order.keeps_windows:
            self.windows.clear()  # large pictures: nothing is held beyond its batch
        for part in _parts(wanted, self.stream.threads):
            self.pool.submit(self.stream.blocks.load_all, part, self.ahead)
        return Share(stop, pieces, fills)

    def _mine(self, start: int, stop: int) -> Iterator[Piece]:
        """The pieces of positions [start, stop) that lie on this rank's lanes."""
        for piece in self.order.pieces(start, stop):
            if piece.lane % self.stream.world == self.stream.rank:
                yield piece

    def _window(self, key: WindowKey) -> Window:
        """The window of `key`; a lane has one open, and blocks go with it."""
        window = self.windows.get(key.lane)
        if window is None or window.key != key:
            held = self.held if self.order.is_whole else {}
            window = self.windows[key.lane] = self.stream.blocks.open_window(key, held)
        return window

    def _begin(self, share: Share) -> Pending:
        rows = sum(piece.rows for piece in share.pieces)
        target, kept = self.stream.memory.take(rows), np.ones(rows, bool)
        tasks = [
            self.pool.submit(self._fill, target, kept, fills)
            for fills in _parts(share.fills, self.stream.threads)
        ]
        return Pending(target, kept, share.pieces, tasks, Cursor.at(self.order, share.stop))

    # ------------------------------------------------------------------ the work, in the pool

    def _fill(self, target: RowBuffers, kept: np.ndarray, fills: Sequence[Fill]) -> None:
        """Decodes pieces into the batch; rows that damage leaves out are marked as not kept."""
        while fills:
            done = self._fill_at_once(target, fills)
            if done < len(fills):
                self._fill_by_row(target, kept, fills[done])
            fills = fills[done + 1 :]

    def _fill_at_once(self, target: RowBuffers, fills: Sequence[Fill]) -> int:
        """How many pieces are in the batch, in turn, before one in which something is unusual."""
        parts = []
        for window, start, rows, at in fills:
            if not window.settle(start, rows):
                break
            parts.append(WindowSlice(window.rows, start, rows, at))
        if not parts:
            return 0
        filled = self.stream.filler.fill(parts, target)
        self.stream.stages.add(gather=filled.gathering, decode=filled.decoding)
        return filled.parts

    def _fill_by_row(self, target: RowBuffers, kept: np.ndarray, fill: Fill) -> None:
        with self.stream.stages.timed("decode"):
            for row in range(fill.rows):
                damage = fill.window.decode_one(fill.start + row, target, fill.at + row)
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
        spans = [(piece.position, piece.position + piece.rows) for piece in pending.pieces]
        positions = np.concatenate([np.arange(*span) for span in spans] or [np.arange(0)])
        chunks = [piece.rows for piece in pending.pieces]
        if not kept.all():
            ends = np.cumsum(chunks)[:-1]
            chunks = [int(part.sum()) for part in np.split(kept, ends)]
            names, positions = names[kept], positions[kept]
        return Batch(
            fields=tensors(pending.target, kept),
            names=names,
            positions=positions,
            chunks=chunks,
            cursor=pending.cursor,
            wait_seconds=waited,
            occupancy=self.stream.stages.occupancy(self.stream.threads),
            lease=pending.target.lease,
        )

    def _wait_for(self, task: Future[None]) -> bool:
        """Whether the task ended before `give_up` returned True."""
        give_up = self.stream.give_up
        if give_up is not None:
            # `wait` says whether it ended: a TimeoutError of `result` may be the task's own.
            while not wait([task], PATIENCE_SECONDS).done:
                if give_up():
                    return False
        task.result()
        return True


def _parts(work: Sequence[_T], threads: int) -> list[Sequence[_T]]:
    """Work in turn, cut into as many parts as threads, or fewer."""
    step = max(1, -(-len(work) // threads))
    return [work[first : first + step] for first in range(0, len(work), step)]


def _is_loaded(one: Loading) -> bool:
    """Whether a block is there, or known to be damaged; what failed or was given up is not."""
    return one.done() and not one.cancelled() and one.exception() is None


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
    fields: Sequence[str] | None = None,
    shuffle_bytes: int = SHUFFLE_BYTES,
    on_damage: DamagePolicy = "fatal",
    damaged: dict[str, str] | None = None,
    pin_memory: bool = False,
    give_up: Callable[[], bool] | None = None,
) -> Stream:
    """A stream over one split of a dataset, as an iterable of `Batch`es.

    A pass over it ends after `epochs` (None: never), counted from the order's beginning, not from
    `cursor`; the next pass goes on with the epochs after those.
    `batch_size` is that of all ranks together, a multiple of `chunk`; this rank gets the chunks
    whose lane is its own (lane mod world). `size`: to read at instead of the dataset's own, the
    shorter side (the shape is kept) or (height, width). `fields`: what is decoded (None: all).
    `threads`: None takes the cores this process may use. `shuffle_bytes`: of what samples are
    shuffled among, over all lanes; a rank holds those of its own, or of a split that is no larger
    and so shuffled as a whole, all.
    `on_damage`: "fatal" raises at a damaged block or sample, "skip" leaves its rows out and notes
    them in `damaged`, a dict that several streams may share. `pin_memory`: batches lie in
    page-locked memory, from which copies to a GPU overlap its work. `give_up`: asked now and then
    while a batch is waited for; where it says yes, the iteration ends before that batch.
    ValueError, naming the argument, for one that cannot be (a cursor of another order ...).
    """
    manifest = url if isinstance(url, Manifest) else Manifest.load(url)
    order = Order(manifest, split, seed=seed, lanes=lanes, chunk=chunk, shuffle_bytes=shuffle_bytes)
    _check_counts(batch_size=batch_size, world=world, threads=threads, epochs=epochs)
    order.check_batch(batch_size, world)
    _check_rank(rank, world)
    _check_choices(fields, on_damage, manifest)
    _check_cursor(cursor, order)
    return Stream(
        manifest,
        order,
        batch_size=batch_size,
        rank=rank,
        world=world,
        threads=threads or own_cores(),
        start=cursor.position if cursor else 0,
        epochs=epochs,
        size=manifest.size_at(size),
        fields=fields,
        on_damage=on_damage,
        damaged=damaged,
        pin_memory=pin_memory,
        give_up=give_up,
    )


def _check_counts(**counts: int | None) -> None:
    """ValueError for a count that is none; None is where the default is."""
    for name, value in counts.items():
        if value is not None or name in ("batch_size", "world"):
            check_count(name, value)


def _check_rank(rank: int, world: int) -> None:
    check_count("rank", rank, least=0)
    if rank >= world:
        raise ValueError(f"rank {rank} is not in a world of {world}; ranks count from 0")


def _check_choices(fields: Sequence[str] | None, on_damage: object, manifest: Manifest) -> None:
    if on_damage not in get_args(DamagePolicy):
        raise ValueError(f"on_damage is {on_damage!r}; it must be 'fatal' or 'skip'")
    there = ", ".join(manifest.fields)
    if fields is not None and (isinstance(fields, str) or not len(fields)):
        raise ValueError(f"fields is {fields!r}; it must be a list of one or more of {there}")
    for name in fields or ():
        if name not in manifest.fields:
            raise ValueError(f"fields names {name!r}, which the dataset has not; it has {there}")


def _check_cursor(cursor: object, order: Order) -> None:
    if cursor is None:
        return
    if not isinstance(cursor, Cursor):
        kind = type(cursor).__name__
        raise ValueError(f"cursor is of type {kind}; read one with Cursor.loads(text)")
    cursor.check(order)
