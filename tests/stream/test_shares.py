"""How a batch falls on the ranks: the fullest one's part is exact, and what would do does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.test_order import order_of
from wdtrain.stream.shares import EVEN, balance, balance_advice, fullest_share


def parts(order, start: int, batch_size: int, world: int) -> list[int]:
    """Samples of each rank, of the batch that begins at this position."""
    found = [0] * world
    for piece in order.pieces(start, start + batch_size):
        found[piece.lane % world] += piece.rows
    return found


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(8, 150),
    chunk=st.sampled_from([1, 3, 4, 8]),
    chunks=st.integers(1, 9),
    lanes=st.integers(1, 7),
    world=st.integers(1, 5),
)
def test_the_fullest_share_is_that_of_the_worst_beginning(samples, chunk, chunks, lanes, world):
    world, batch_size = min(world, lanes), chunks * chunk
    order = order_of({"sizes": [samples], "block": 8, "lanes": lanes, "chunk": chunk, "seed": 0})
    wanted = max(
        max(parts(order, start, batch_size, world)) for start in range(2 * samples + batch_size)
    )
    found = fullest_share(batch_size, world, samples=samples, lanes=lanes, chunk=chunk)
    # Lanes that an epoch as short as these never begins with are counted too: it is a bound.
    longer = order_of({"sizes": [4096], "block": 8, "lanes": lanes, "chunk": chunk, "seed": 0})
    begins = (lane * chunk for lane in range(lanes))
    inside = max(max(parts(longer, begin, batch_size, world)) for begin in begins)
    assert found == max(wanted, inside)


def test_five_ranks_at_256():
    assert fullest_share(256, 5, samples=20_000, lanes=32, chunk=32) == 96
    assert fullest_share(256, 2, samples=20_000, lanes=32, chunk=32) >= 128
    assert fullest_share(64, 1, samples=10, lanes=32, chunk=32) == 64


@pytest.mark.parametrize(
    ("batch_size", "world", "lanes", "chunk", "group"),
    [(32, 2, 32, 32, None), (64, 4, 32, 32, None), (256, 5, 30, 32, None), (256, 3, 32, 32, 16),
     (96, 2, 6, 32, None), (1, 2, 2, 1, None), (32, 8, 32, 32, 4)],
)  # fmt: skip
def test_what_is_said_to_do_does(batch_size, world, lanes, chunk, group):
    assert balance(batch_size // chunk, lanes, world) < EVEN
    text = balance_advice(batch_size, world, lanes=lanes, chunk=chunk, norm_group=group)
    better = re.findall(r"train.batch_size=(\d+)", text)
    smaller = re.findall(r"data.chunk=(\d+)", text)
    assert better or smaller
    for size in map(int, better):
        assert balance_advice(size, world, lanes=lanes, chunk=chunk, norm_group=group) == ""
    for size in map(int, smaller):
        assert balance_advice(batch_size, world, lanes=lanes, chunk=size, norm_group=group) == ""
        assert size % (group or 1) == 0
    assert f"{world} ranks" in text


@pytest.mark.parametrize(("batch_size", "world"), [(64, 1), (64, 2), (256, 8), (2048, 3)])
def test_nothing_is_said_of_an_even_batch(batch_size, world):
    assert balance_advice(batch_size, world, lanes=32, chunk=32, norm_group=None) == ""
