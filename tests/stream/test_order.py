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
from tests.stream.layouts import SAMPLE_BYTES, fake_manifest, orders
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import ALL_LANES, ORDER_VERSION, Order, WindowKey, sample_bytes


def order_of(case: dict[str, Any]) -> Order:
    options = {name: case[name] for name in case.keys() - {"sizes", "block"}}
    return Order(fake_manifest(case["sizes"], case["block"]), "train", **options)


def small(samples: int) -> int:
    """So much memory that samples are shuffled among so many."""
    return samples * SAMPLE_BYTES


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


def windows_of(order: Order, lane: int, epoch: int = 0) -> list[WindowKey]:
    """The windows of a lane, one after the other."""
    start, stop = order.lane_bounds(lane)
    found: list[WindowKey] = []
    while not found or found[-1].stop < stop - start:
        found.append(order.window_at(epoch, lane, found[-1].stop if found else 0))
    return found


@settings(max_examples=100, deadline=None)
@given(orders())
def test_fragments_are_the_rows_of_their_piece_one_after_the_other(case: dict[str, Any]) -> None:
    order, last = order_of(case), {}
    for piece in order.pieces(0, 2 * order.samples):
        fragments = order.fragments(piece, last)
        assert fragments == order.fragments(piece)  # remembered or found anew
        assert sum(rows for _, _, rows in fragments) == piece.rows
        at = piece.position % order.samples if order.is_whole else piece.offset
        for key, inside, rows in fragments:
            assert key.epoch == piece.epoch
            assert key.lane == (ALL_LANES if order.is_whole else piece.lane)
            assert key.start + inside == at
            assert 0 < rows <= key.stop - at
            at += rows


@settings(max_examples=100, deadline=None)
@given(orders(), st.integers(0, 2))
def test_a_lane_is_cut_into_windows_of_whole_blocks_without_gap_or_overlap(
    case: dict[str, Any], epoch: int
) -> None:
    order = order_of({**case, "shuffle_bytes": min(case["shuffle_bytes"], small(case["sizes"][0]))})
    if order.is_whole:
        return
    for lane in range(order.lanes):
        start, stop = order.lane_bounds(lane)
        if start == stop:
            continue
        windows = windows_of(order, lane, epoch)
        assert (windows[0].start, windows[-1].stop) == (0, stop - start)
        assert all(before.stop == after.start for before, after in pairwise(windows))
        blocks = [set(order.window_samples(key)[0].tolist()) for key in windows]
        assert len(set().union(*blocks)) == sum(map(len, blocks))  # no block in two windows
        for key in windows:
            inside = range(key.start, key.stop)
            assert {order.window_at(epoch, lane, at) for at in inside} == {key}


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 600), st.integers(1, 64), st.integers(1, 64), st.integers(1, 2000))
def test_windows_of_all_lanes_take_the_memory_given_to_them(
    side: int, block: int, lanes: int, mebibytes: int
) -> None:
    manifest = fake_manifest([20 * block * lanes], block, side=side)
    order = Order(manifest, "train", seed=0, lanes=lanes, shuffle_bytes=mebibytes * 2**20)
    block_bytes = block * sample_bytes(manifest, "train")
    if order.is_whole:
        assert order.samples * sample_bytes(manifest, "train") <= order.shuffle_bytes
        return
    bounds = map(order.lane_bounds, range(lanes))
    windows = [windows_of(order, lane) for lane, (a, b) in enumerate(bounds) if a < b]
    if not order.keeps_windows:  # not even a block for each lane: none is held beyond its batch
        assert lanes * block_bytes > order.shuffle_bytes
        assert {len(set(order.window_samples(keys[0])[0].tolist())) for keys in windows} == {1}
        return
    for moment in np.linspace(0, 0.999, 9):
        held = 0
        for keys in windows:
            now = next(key for key in keys if moment * keys[-1].stop < key.stop)
            held += len(np.unique(order.window_samples(now)[0]))
        # A lane of 1.5 times its share is cut in two or in one, so the mean is an eighth above;
        # with a few lanes, somewhat more. Blocks at both ends of a lane are its neighbours', too.
        assert held * block_bytes <= 1.25 * order.shuffle_bytes + 2 * lanes * block_bytes


def test_shuffled_as_a_whole_up_to_the_memory_given_and_by_lane_above() -> None:
    case = {"sizes": [300, 211], "block": 8, "lanes": 4, "chunk": 8, "seed": 1}
    assert order_of({**case, "shuffle_bytes": small(511)}).is_whole
    assert not order_of({**case, "shuffle_bytes": small(511) - 1}).is_whole


def test_lanes_open_their_windows_in_turn_and_not_all_at_once() -> None:
    # 32 lanes of 8 chunks a window: each batch of 256 takes a chunk of 8 lanes, 1/8 of a window,
    # so that one window is opened with each on the average.
    case = {"sizes": [64 * 512], "block": 64, "lanes": 32, "chunk": 32, "seed": 0}
    order = order_of({**case, "shuffle_bytes": small(32 * 256)})

    def opened(start: int, stop: int) -> set[WindowKey]:
        pieces = order.pieces(start, stop)
        return {key for piece in pieces for key, _, _ in order.fragments(piece)}

    seen = opened(0, 2048)
    for start in range(2048, 16384, 256):
        now = opened(start, start + 256)
        assert len(now - seen) <= 3
        seen |= now


# ---------------------------------------------------------------------------- neighbours


def meetings(order: Order, epochs: int) -> float:
    """Share of the epochs in which two samples of one block come in one chunk."""
    met = pairs = 0
    blocks = np.zeros((2, order.samples), np.int64)
    for epoch in range(epochs):
        at = 0
        for piece in order.pieces(epoch * order.samples, (epoch + 1) * order.samples):
            for fragment in order.fragments(piece):
                blocks[0, at : at + fragment.rows] = order.samples_of(fragment)[0]
                at += fragment.rows
        blocks[1] = np.arange(order.samples) // order.chunk
        together = np.unique(blocks, axis=1, return_counts=True)[1]
        alone = np.unique(blocks[0], return_counts=True)[1]
        met += (together * (together - 1) // 2).sum()
        pairs += (alone * (alone - 1) // 2).sum()
    return met / pairs


@pytest.mark.parametrize("block", [8, 32, 64])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_neighbours_of_a_block_part(block: int, share: float) -> None:
    case = {"sizes": [5000, 5000, 4003], "block": block, "lanes": 8, "chunk": 16, "seed": 5}
    order = order_of({**case, "shuffle_bytes": small(round(share * 14003))})
    chance = (order.chunk - 1) / (order.samples - 1)
    by_lane = order.chunk * order.lanes * SAMPLE_BYTES / order.shuffle_bytes
    found = meetings(order, 12)
    assert found <= max(1.02 * by_lane + chance, 3 * chance)  # found in a sample of epochs
    if share == 1.0:
        assert 0.9 * chance < found < 1.1 * chance


def test_epochs_and_seeds_differ() -> None:
    case = {"sizes": [300, 211], "block": 8, "lanes": 4, "chunk": 8, "seed": 1}
    order = order_of(case)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(order_of({**case, "seed": 2}), 0)
    assert epoch_of(order, 0) == epoch_of(order_of(case), 0)


def test_in_another_epoch_other_blocks_lie_in_a_window() -> None:
    case = {"sizes": [300, 211], "block": 8, "lanes": 4, "chunk": 8, "seed": 1}
    order = order_of({**case, "shuffle_bytes": small(200)})
    windows = [order.window_samples(order.window_at(epoch, 0, 0))[0] for epoch in (0, 1)]
    assert set(windows[0]) != set(windows[1])  # and not only their samples in another order


@pytest.mark.parametrize("samples", [100, 337])
def test_the_order_of_version_3_never_changes(samples: int) -> None:
    # Cursors of version 3 lie in people's checkpoints: another order needs another version.
    case = {"sizes": [200, 137], "block": 4, "lanes": 5, "chunk": 4, "seed": 7}
    order = order_of({**case, "shuffle_bytes": small(samples)})
    assert ORDER_VERSION == 3
    assert order.is_whole == (samples == 337)
    found = [order.locate(position) for position in (0, 1, 30, 86, 250, 336, 1000)]
    assert found == PINNED[samples]


PINNED = {
    100: [(0, 48, 1), (0, 48, 3), (0, 47, 3), (0, 22, 3), (0, 31, 1), (0, 11, 3), (1, 20, 2)],
    337: [(0, 45, 1), (0, 31, 0), (0, 0, 3), (1, 12, 1), (0, 48, 1), (1, 24, 0), (1, 25, 0)],
}


def test_an_epoch_is_well_mixed() -> None:
    order = order_of({"sizes": [4096], "block": 64, "lanes": 8, "chunk": 32, "seed": 3})
    numbers = np.array([block * 64 + row for _, block, row in epoch_of(order, 0)])
    # Mean distance of neighbours in a perfect shuffle of n is n / 3; sequential order gives 1.
    assert np.abs(np.diff(numbers)).mean() > 4096 / 5


def test_locating_in_a_billion_samples_takes_no_list_of_them() -> None:
    sizes = [8192] * 122_000 + [5000, 77]
    order = Order(fake_manifest(sizes, 64), "train", seed=1, shuffle_bytes=2**27)
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
    more = order_of({**case, "shuffle_bytes": 2**20})
    with pytest.raises(ValueError, match=f"{cursor.digest}.*{more.digest}.*shuffle_bytes differ"):
        cursor.check(more)


def test_a_cursor_of_an_older_order_is_refused_by_its_version() -> None:
    order = order_of({"sizes": [900], "block": 8, "lanes": 4, "chunk": 32, "seed": 0})
    old = Cursor.loads(
        f'{{"position": 64, "samples": 900, "digest": "{order.digest}", "version": 2}}'
    )
    with pytest.raises(ValueError, match=r"order version 2, .* of version 3: .* new run from its"):
        old.check(order)


@pytest.mark.parametrize(
    "text",
    [
        '{"pos": 3}', "", "3", '{"position": -1, "samples": 9, "digest": "d"}',
        '{"position": "1", "samples": 9, "digest": "d"}',
        '{"position": 1, "samples": 0, "digest": "d"}',
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a cursor"):
        Cursor.loads(text)
