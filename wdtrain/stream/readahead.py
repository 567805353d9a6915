"""Remote blocks, asked for before they are needed, on threads that only wait.

A block from a remote store takes tens of milliseconds, in which a decoding thread would stand
still. Owns the requests in flight: those of every window up to the batch that is prepared, and of
as many more as fit a bound. Local data is not read ahead: the page cache does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from wdtrain.stream.order import Order, Piece, WindowKey

CONNECTIONS = 16
"""Requests in flight at once: at 50 ms each, 320 blocks or some 20,000 small triples a second."""

AHEAD_BYTES = 64 * 2**20
"""What blocks read ahead of the prepared batches may hold, counted as if they were inflated."""

Bytes = bytes | memoryview


class ReadAhead:
    """The requests of one pass over a rank's share of the order."""

    def __init__(
        self,
        order: Order,
        pieces: Iterator[Piece],
        read: Callable[[int], Bytes],
        *,
        block_bytes: int,
    ) -> None:
        """`pieces`: all that this rank will read, in order, perhaps without end; `read`: of a
        block's number; `block_bytes`: what a block may take in memory."""
        self._order, self._read = order, read
        self._windows = _windows_of(pieces, order)
        self._room = max(CONNECTIONS, AHEAD_BYTES // max(block_bytes, 1))
        self._next = next(self._windows, None)
        self._seen: dict[int, tuple[WindowKey, set[int]]] = {}
        self._requests: dict[tuple[WindowKey, int], Future[Bytes]] = {}
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="wdtrain-request")

    def reach(self, position: int) -> None:
        """All windows that begin before a position are asked for, and more while there is room."""
        while self._next is not None:
            begins, key = self._next
            if begins >= position and len(self._requests) >= self._room:
                return
            self._ask(key)
            self._next = next(self._windows, None)

    def _ask(self, key: WindowKey) -> None:
        needed = set(np.unique(self._order.window_samples(key)[0]).tolist())
        before, held = self._seen.get(key.lane, (None, set()))
        keeps_windows = self._order.window_rows > self._order.chunk
        if before is None or before.epoch != key.epoch or not keeps_windows:
            held = set()  # as in the reader: a lane's windows share blocks within an epoch
        for block in sorted(needed - held):
            self._requests[key, block] = self._pool.submit(self._read, block)
        self._seen[key.lane] = (key, needed)

    def request(self, key: WindowKey, block: int) -> Future[Bytes] | None:
        """Hands over the request for a block of a window; None if it was not asked for."""
        return self._requests.pop((key, block), None)

    def cancel(self) -> None:
        """What is not begun is not asked for any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Nothing is in flight any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _windows_of(pieces: Iterator[Piece], order: Order) -> Iterator[tuple[int, WindowKey]]:
    """(position, window) wherever a lane comes to its next window."""
    open_windows: dict[int, WindowKey] = {}
    for piece in pieces:
        key = order.window_of(piece)
        if open_windows.get(piece.lane) != key:
            open_windows[piece.lane] = key
            yield piece.position, key
