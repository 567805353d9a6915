"""Remote blocks are asked for early enough, once, and not without bound."""

from __future__ import annotations

import sys
import threading
from typing import Any

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
            request = wanted.ahead.request(key, block)
            assert request is not None, f"block {block} of {key} was not asked for"
            assert request.result(10) == str(block).encode()
            assert wanted.ahead.request(key, block) is None
    wanted.ahead.close()


@pytest.mark.parametrize("block_bytes", [2**20, 2**22, 2**30])
def test_what_is_asked_for_beyond_is_bounded(block_bytes: int) -> None:
    wanted = Wanted(block_bytes=block_bytes)
    wanted.ahead.reach(64)
    must = sum(len(blocks) for blocks in wanted.windows(64).values())
    room = max(CONNECTIONS, 2**26 // block_bytes)
    assert must <= len(wanted.ahead._requests) <= max(must, room) + 8  # of a piece at once
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
            request: Any = wanted.ahead.request(key, block)
            if block == bad:
                with pytest.raises(OSError, match="connection reset"):
                    request.result(10)
            else:
                assert request.result(10) == b"ok"
    wanted.ahead.close()
