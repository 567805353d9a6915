"""The permutation is a fair, keyed, invertible order of any size, without tables."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store.permutation import MAX_SIZE, Permutation, keyed_hash, permutation_key

KEYS = st.binary(min_size=1, max_size=40)


@given(size=st.integers(1, 5000), key=KEYS)
def test_hits_each_value_exactly_once(size: int, key: bytes) -> None:
    there = Permutation(size, key).forward(np.arange(size))
    assert np.array_equal(np.sort(there), np.arange(size))


@given(size=st.integers(1, MAX_SIZE), key=KEYS, data=st.data())
def test_inverse_undoes_forward_at_any_size(size: int, key: bytes, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=50)), np.int64)
    permutation = Permutation(size, key)
    there = permutation.forward(values)
    assert ((there >= 0) & (there < size)).all()
    assert np.array_equal(permutation.inverse(there), values)


@given(size=st.integers(1, 10**9), key=KEYS, start=st.integers(0, 10**9))
def test_a_part_is_what_the_whole_has_there(size: int, key: bytes, start: int) -> None:
    values = np.arange(start % size, min(start % size + 40000, size))
    permutation = Permutation(size, key)
    whole = permutation.forward(values)
    assert np.array_equal(permutation.forward(values[-7:]), whole[-7:])
    assert permutation.forward(values.reshape(1, -1)).shape == (1, len(values))


def test_the_order_of_a_key_never_changes() -> None:
    # Cursors and packed datasets depend on these numbers: a change of them breaks both.
    order = Permutation(10, permutation_key("order", 7)).forward(np.arange(10))
    assert order.tolist() == [9, 2, 0, 4, 6, 7, 1, 3, 8, 5]
    hashes = keyed_hash(np.array([0, 1, -1]), permutation_key("x")).tolist()
    assert hashes == [3975151368273586225, 2963440291337562490, 7009281176327601316]


def test_positions_and_neighbours_are_spread_evenly() -> None:
    size, draws = 64, 4000
    firsts = [
        Permutation(size, permutation_key("fair", seed)).forward(np.arange(2))
        for seed in range(draws)
    ]
    first, second = np.array(firsts).T
    expected = draws / size
    for values in (first, (second - first) % size):
        counts = np.bincount(values, minlength=size)
        used = counts if values is first else counts[1:]
        chi2 = ((used - expected) ** 2 / expected).sum()
        assert chi2 < 120, "63 degrees of freedom: 120 is beyond 1 in 100,000"


def test_keys_of_different_parts_differ() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (1, "1"), ("1", 1), (b"1", 1), (11,), (1, 1)]
    assert len({permutation_key(*each) for each in parts}) == len(parts)
    with pytest.raises(TypeError, match="float"):
        permutation_key(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 10])
def test_refuses_values_outside_its_range(value: int) -> None:
    with pytest.raises(ValueError, match="outside range"):
        Permutation(10, b"k").forward(np.array([value]))


@pytest.mark.parametrize("size", [0, MAX_SIZE + 1])
def test_refuses_sizes_it_cannot_hold(size: int) -> None:
    with pytest.raises(ValueError, match="size goes from"):
        Permutation(size, b"k")


def test_a_million_of_a_billion_takes_no_table_and_under_a_second() -> None:
    permutation = Permutation(10**9, b"k")
    values = np.arange(10**6)
    tracemalloc.start()
    started = time.perf_counter()
    permutation.forward(values)
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * values.nbytes
    assert seconds < 1
