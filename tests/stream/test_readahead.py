"""Remote blocks are asked for early enough, once, and not without bound."""

from __future__ import annotations

import sys
import threading
from collections import Counter

import pytest

from tests.stream.layouts import SAMPLE_BYTES, fake_manifest
from wdtrain.stream.order import Order, WindowKey
from wdtrain.stream.readahead import CONNECTIONS, ReadAhead


class Wanted:
    """A stream over 4,096 samples, and which blocks were read for it."""

    def __init__(self, *, block_bytes: int = 2**20, lanes: int = 4, shuffled: int = 400) -> None:
        manifest, memory = fake_manifest([4096], 16), shuffled * SAMPLE_BYTES
        self.order = Order(manifest, "train", seed=1, lanes=lanes, chunk=8, shuffle_bytes=memory)
        self.read: list[int] = []
        self.lock = threading.Lock()
        pieces = self.order.pieces(0, sys.maxsize)
        self.ahead = ReadAhead(self.order, pieces, self._read, block_bytes=block_bytes)

    def _read(self, block: int) -> bytes:
        with self.lock:
            self.read.append(block)
        return str(block).encode()

    def is_asked(self, key: WindowKey, block: int) -> bool:
        of_all = self.ahead._prefetcher
        return (self.ahead, key, block) in {**of_all._waiting, **of_all._held}

    def get(self, key: WindowKey, block: int) -> bytes | memoryview:
        """A block as a stream gets it: from its request, or read where that is not begun."""
        request = self.ahead.request(key, block)
        return self.ahead._read(block) if request is None else request.result(10)

    def windows(self, stop: int) -> dict[WindowKey, set[int]]:
        """The blocks of each window that are needed before a position."""
        found: dict[WindowKey, set[int]] = {}
        for piece in self.order.pieces(0, stop):
            for key, at, rows in self.order.fragments(piece):
                blocks = self.order.window_samples(key)[0][at : at + rows]
                found.setdefault(key, set()).update(blocks.tolist())
        return found


@pytest.mark.parametrize("shuffled", [400, 10**4])
def test_every_block_up_to_a_position_is_asked_for_exactly_once(shuffled: int) -> None:
    wanted = Wanted(shuffled=shuffled)
    for position in (64, 700, 2048):
        wanted.ahead.reach(position)
    for key, blocks in wanted.windows(2048).items():
        for block in blocks:
            assert wanted.is_asked(key, block), f"block {block} of {key} was not asked for"
            assert wanted.get(key, block) == str(block).encode()
            assert not wanted.is_asked(key, block)
            assert wanted.ahead.request(key, block) is None
    wanted.ahead.close()
    read = Counter(wanted.read)
    needed = Counter(block for blocks in wanted.windows(2048).values() for block in blocks)
    assert needed <= read
    assert read.total() <= needed.total() + 64 + 8  # those beyond, of a piece at once


def test_what_is_read_goes_on_where_a_request_is_not_begun() -> None:
    """No thread waits for a request that stands in line: it reads that block itself."""
    wanted, held_up = Wanted(), threading.Event()
    wanted.ahead._read = lambda block: b"x" if held_up.wait(10) else b""
    wanted.ahead.reach(2048)
    asked = [(key, n) for key, blocks in wanted.windows(2048).items() for n in blocks]
    requests = [wanted.ahead.request(key, block) for key, block in asked]
    assert sum(request is not None for request in requests) == CONNECTIONS
    held_up.set()
    wanted.ahead.close()
    assert all(request.result(0) == b"x" for request in requests if request is not None)


def test_once_it_is_closed_nothing_is_read() -> None:
    wanted, held_up = Wanted(), threading.Event()
    begun: list[int] = []

    def read(block: int) -> bytes:
        begun.append(block)
        held_up.wait(10)
        return b"x"

    wanted.ahead._read = read
    wanted.ahead.reach(2048)
    wanted.ahead.cancel()
    held_up.set()
    wanted.ahead.close()
    assert len(begun) == CONNECTIONS


@pytest.mark.parametrize("block_bytes", [2**20, 2**22, 2**30])
def test_what_is_asked_for_beyond_is_bounded(block_bytes: int) -> None:
    wanted = Wanted(block_bytes=block_bytes)
    wanted.ahead.reach(64)
    must = sum(len(blocks) for blocks in wanted.windows(64).values())
    room = max(CONNECTIONS, 2**26 // block_bytes)
    assert must <= len(wanted.ahead._prefetcher) <= max(must, room) + 8  # of a piece at once
    wanted.ahead.close()


def test_an_error_reaches_the_one_who_needs_the_block_and_no_other() -> None:
    wanted = Wanted()
    windows = wanted.windows(256)
    bad = min(min(blocks) for blocks in windows.values())

    def fail(block: int) -> bytes:
        if block == bad:
            raise OSError("connection reset")
        return b"ok"

    wanted.ahead._read = fail
    wanted.ahead.reach(256)
    for key, blocks in windows.items():
        for block in blocks:
            if block == bad:
                with pytest.raises(OSError, match="connection reset"):
                    wanted.get(key, block)
            else:
                assert wanted.get(key, block) == b"ok"
    wanted.ahead.close()
