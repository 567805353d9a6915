"""Remote blocks, asked for before they are needed, on threads that only wait.

A block from a remote store takes tens of milliseconds, in which a decoding thread would stand
still. Owns what is needed when: every block up to the batch that is prepared, and as many more as
fit a bound; `remote/prefetcher.py` loads them. Local data is not read ahead: the page cache does
that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np

from wdtrain.remote.prefetcher import BoundedPrefetcher
from wdtrain.stream.order import Order, Piece, WindowKey

CONNECTIONS = 16
"""Requests in flight at once: at 50 ms each, 320 blocks or some 20,000 small triples a second."""

AHEAD_BYTES = 64 * 2**20
"""What blocks read ahead of the prepared batches may hold, counted as if they were inflated."""

Bytes = bytes | memoryview


class ReadAhead:
    """The blocks of one pass over a rank's share of the order, on their way before they are needed.

    A `BoundedPrefetcher` loads them, without a bound of its own: what the order needs until a
    position is asked for in any case, what is beyond while there is room.
    """

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
        self._read, self._samples, self._block_bytes = read, order.samples, block_bytes
        self._needs = _needs_of(pieces, order)
        self._room = max(CONNECTIONS, AHEAD_BYTES // max(block_bytes, 1))
        self._next = next(self._needs, None)
        self._prefetcher = BoundedPrefetcher[Bytes](max_threads=CONNECTIONS, max_bytes=None)

    def reach(self, position: int) -> None:
        """All blocks that are needed before a position are asked for, and more while there is
        room, of the epoch after it: where all are kept, none may be needed any more."""
        while self._next is not None:
            needed_at, needs = self._next
            is_full = len(self._prefetcher) >= self._room
            if needed_at >= position + (0 if is_full else self._samples):
                return
            for window, block in needs:
                load = partial(self._read, block)
                self._prefetcher.hint((self, window, block), self._block_bytes, load)
            self._next = next(self._needs, None)

    def request(self, window: WindowKey, block: int) -> Future[Bytes] | None:
        """Hands over the request for a block of a window; None if it is not begun: then whoever
        needs the block reads it."""
        return self._prefetcher.take((self, window, block))

    def cancel(self) -> None:
        """What is not begun is not asked for any more."""
        self._prefetcher.drop(self)

    def close(self) -> None:
        """Nothing is in flight any more."""
        self.cancel()
        self._prefetcher.join()


def _needs_of(
    pieces: Iterator[Piece], order: Order
) -> Iterator[tuple[int, list[tuple[WindowKey, int]]]]:
    """By piece its position and the blocks, by window, that come in it and that the window does not
    have yet: as the reader meets them."""
    last: dict[int, WindowKey] = {}
    windows: dict[int, tuple[WindowKey, np.ndarray, set[int]]] = {}
    whole: set[int] = set()
    for piece in pieces:
        needs: list[tuple[WindowKey, int]] = []
        for key, at, rows in order.fragments(piece, last):
            if key.lane not in windows or windows[key.lane][0] != key:
                had = whole if order.is_whole else set()
                windows[key.lane] = key, order.window_samples(key)[0], had
            _, blocks, had = windows[key.lane]
            new = sorted(set(blocks[at : at + rows].tolist()) - had)
            needs += [(key, block) for block in new]
            if order.keeps_windows:
                had.update(new)
        yield piece.position, needs
