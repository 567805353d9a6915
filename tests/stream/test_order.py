"""The laws of the order: each sample once an epoch, the same for any world and batch size."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws import check_each_once
from tests.stream.layouts import fake_manifest, orders
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import Order, WindowKey, inflated_bytes, window_blocks


def order_of(case: dict[str, Any]) -> Order:
    manifest = fake_manifest(case["sizes"], case["block"])
    return Order(manifest, "train", seed=case["seed"], lanes=case["lanes"], chunk=case["chunk"])


def stored(case: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Every (shard, block, row) that the dataset holds, counted plainly."""
    block = case["block"]
    return [
        (shard, i // block, i % block)
        for shard, size in enumerate(case["sizes"])
        for i in range(size)
    ]


def epoch_of(order: Order, epoch: int) -> list[tuple[int, int, int]]:
    start = epoch * order.samples
    return [order.locate(position) for position in range(start, start + order.samples)]


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 3))
def test_each_sample_comes_exactly_once_in_every_epoch(case: dict[str, Any], epoch: int) -> None:
    check_each_once(epoch_of(order_of(case), epoch), stored(case))


@settings(max_examples=100, deadline=None)
@given(orders())
def test_lanes_share_an_epoch_and_differ_by_at_most_one_chunk(case: dict[str, Any]) -> None:
    order = order_of(case)
    bounds = [order.lane_bounds(lane) for lane in range(order.lanes)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == order.samples
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) - min(lengths) <= order.chunk


@settings(max_examples=100, deadline=None)
@given(orders(), st.integers(1, 6), st.integers(1, 9), st.integers(0, 20))
def test_ranks_share_each_batch_without_gap_or_overlap(
    case: dict[str, Any], chunks: int, world: int, step: int
) -> None:
    order = order_of(case)
    world = min(world, order.lanes)
    start, stop = step * chunks * order.chunk, (step + 1) * chunks * order.chunk
    pieces = list(order.pieces(start, stop))
    taken = [
        (piece.position + i, rank)
        for rank in range(world)
        for piece in pieces
        if piece.lane % world == rank
        for i in range(piece.rows)
    ]
    check_each_once([position for position, _ in taken], range(start, stop))


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(1, 50), st.integers(1, 50))
def test_the_order_does_not_depend_on_how_it_is_cut(
    case: dict[str, Any], cut: int, other: int
) -> None:
    order, stop = order_of(case), 2 * sum(case["sizes"])

    def walked(size: int) -> list[tuple[int, int, int]]:
        return [
            (piece.epoch, piece.lane, piece.offset + i)
            for start in range(0, stop, size)
            for piece in order.pieces(start, min(start + size, stop))
            for i in range(piece.rows)
        ]

    assert walked(cut) == walked(other)


@settings(max_examples=60, deadline=None)
@given(orders())
def test_a_chunk_lies_on_one_lane_and_in_one_window(case: dict[str, Any]) -> None:
    order = order_of(case)
    for piece in order.pieces(0, 2 * order.samples):
        last = piece.offset + piece.rows - 1
        assert piece.offset // order.chunk == last // order.chunk
        key, end = order.window_of(piece), order.window_offset(order.window_of(piece))
        assert end <= piece.offset
        assert last < order.window_offset(WindowKey(key.epoch, key.lane, key.number + 1))


def test_a_lane_is_cut_into_windows_without_gap_or_overlap() -> None:
    order = order_of({"sizes": [900], "block": 8, "lanes": 5, "chunk": 4, "seed": 0})
    for lane in range(5):
        start, stop = order.lane_bounds(lane)
        rows, number = 0, 0
        while rows < stop - start:
            key = WindowKey(0, lane, number)
            assert order.window_offset(key) == rows
            rows, number = rows + len(order.window_samples(key)[0]), number + 1
        assert rows == stop - start


def test_lanes_open_their_windows_in_turn_and_not_all_at_once() -> None:
    # 32 lanes of 8 chunks a window: each batch of 256 takes a chunk of 8 lanes, 1/8 of a window.
    order = order_of({"sizes": [64 * 512], "block": 64, "lanes": 32, "chunk": 32, "seed": 0})
    seen = {order.window_of(piece) for piece in order.pieces(0, 2048)}
    for start in range(2048, 16384, 256):
        now = {order.window_of(piece) for piece in order.pieces(start, start + 256)}
        assert len(now - seen) <= 2
        seen |= now


def test_epochs_and_seeds_differ() -> None:
    case = {"sizes": [300, 211], "block": 8, "lanes": 4, "chunk": 8, "seed": 1}
    order = order_of(case)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(order_of({**case, "seed": 2}), 0)
    assert epoch_of(order, 0) == epoch_of(order_of(case), 0)
    windows = [order.window_samples(WindowKey(epoch, 0, 0))[0] for epoch in (0, 1)]
    assert set(windows[0]) != set(windows[1])  # other blocks lie together, not only their samples


def test_the_order_of_version_2_never_changes() -> None:
    # Cursors of version 2 lie in people's checkpoints: another order needs another version.
    order = order_of({"sizes": [200, 137], "block": 4, "lanes": 5, "chunk": 4, "seed": 7})
    assert [order.locate(position) for position in (0, 1, 30, 86, 250, 336, 1000)] == PINNED


PINNED = [(0, 48, 1), (0, 48, 3), (0, 47, 1), (1, 23, 0), (1, 10, 3), (0, 25, 3), (0, 1, 0)]


def test_an_epoch_is_well_mixed() -> None:
    order = order_of({"sizes": [4096], "block": 64, "lanes": 8, "chunk": 32, "seed": 3})
    numbers = np.array([block * 64 + row for _, block, row in epoch_of(order, 0)])
    # Mean distance of neighbours in a perfect shuffle of n is n / 3; sequential order gives 1.
    assert np.abs(np.diff(numbers)).mean() > 4096 / 5


def test_locating_in_a_billion_samples_takes_no_list_of_them() -> None:
    sizes = [8192] * 122_000 + [5000, 77]
    order = Order(fake_manifest(sizes, 64), "train", seed=1)
    tracemalloc.start()
    found = [order.locate(position) for position in range(0, order.samples, order.samples // 50)]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found)) == len(found)
    assert peak_bytes < 16e6  # a list of the blocks alone would hold 125 MB


def test_refuses_a_batch_of_torn_chunks_and_names_the_nearest() -> None:
    order = order_of({"sizes": [900], "block": 8, "lanes": 4, "chunk": 32, "seed": 0})
    with pytest.raises(ValueError, match=r"batch size 100 .* chunk of 32 .* nearest is 96"):
        order.check_batch(100, 1)
    with pytest.raises(ValueError, match=r"5 ranks share 4 lanes"):
        order.check_batch(96, 5)


def test_refuses_an_unknown_split_by_name() -> None:
    with pytest.raises(ValueError, match=r"'test' is not in fake; it holds train"):
        Order(fake_manifest([9], 4), "test", seed=0)


@settings(max_examples=200, deadline=None)
@given(st.integers(4, 600), st.integers(1, 64), st.integers(1, 64), st.integers(1, 300))
def test_windows_stay_within_their_memory(side: int, block: int, lanes: int, chunk: int) -> None:
    manifest = fake_manifest([5000], block, side=side)
    order = Order(manifest, "train", seed=0, lanes=lanes, chunk=chunk)
    blocks = -(-order.window_rows // block) + 1
    is_kept_open = order.window_rows > chunk
    assert not is_kept_open or blocks * lanes * inflated_bytes(manifest) <= 256 * 2**20
    assert order.window_rows % chunk == 0


def test_small_pictures_have_windows_of_several_blocks() -> None:
    assert window_blocks(2**20, 32) == 4
    assert window_blocks(20 * 2**20, 32) == 0


def test_balance_is_even_when_chunks_divide_over_the_ranks() -> None:
    order = order_of({"sizes": [900], "block": 8, "lanes": 32, "chunk": 32, "seed": 0})
    assert order.balance(256, 8) == 1.0
    assert order.balance(256, 3) < 0.9


def test_a_cursor_is_small_and_restores_exactly() -> None:
    order = order_of({"sizes": [900], "block": 8, "lanes": 4, "chunk": 32, "seed": 0})
    cursor = Cursor.at(order, 10**15)
    assert len(cursor.dumps()) < 200
    assert Cursor.loads(cursor.dumps()) == cursor
    assert cursor.epoch == 10**15 // 900


def test_refuses_a_cursor_of_another_order_and_names_both() -> None:
    case = {"sizes": [900], "block": 8, "lanes": 4, "chunk": 32, "seed": 0}
    cursor = Cursor.at(order_of(case), 64)
    other = order_of({**case, "seed": 1})
    cursor.check(order_of(case))
    with pytest.raises(ValueError, match=f"{cursor.digest}.*{other.digest}"):
        cursor.check(other)
    with pytest.raises(ValueError, match="is not a cursor"):
        Cursor.loads('{"pos": 3}')
