"""Memory that is used again: never while anything still shows it, and not without end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from wdtrain.store.buffers import KEPT, Lease, Recycled


def place_of(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_that_nothing_shows_any_more_is_given_again() -> None:
    memory = Recycled()
    place = place_of(memory.take(1000))
    others = [np.empty(1000, np.uint8) for _ in range(9)]  # they would get what was freed
    array = memory.take(1000)
    assert place_of(array) == place not in map(place_of, others)
    assert (array.dtype, array.shape, array.flags.writeable) == (np.uint8, (1000,), True)


VIEWS: dict[str, Callable[[np.ndarray], Any]] = {
    "itself": lambda array: array,
    "a slice": lambda array: array[10:20],
    "another type": lambda array: array.view(np.uint16).reshape(10, -1),
    "a view of a view": lambda array: array[10:].view(np.uint16)[3:][::2],
    "parts": lambda array: np.split(array, [100, 300])[1],
    "a memoryview": memoryview,
    "a slice of a memoryview": lambda array: memoryview(array)[5:6],
    "an array of a memoryview": lambda array: np.frombuffer(memoryview(array)[8:], np.uint8, 4, 4),
    "an array at an address": lambda array: np.ndarray((4,), np.uint8, array, 12),
}


@pytest.mark.parametrize("name", VIEWS)
def test_memory_that_any_view_still_shows_is_not_given_again(name: str) -> None:
    memory = Recycled()
    array = memory.take(1000)
    place, view = place_of(array), VIEWS[name](array)
    del array
    gc.collect()
    assert place_of(memory.take(1000)) != place
    del view
    gc.collect()
    held = [memory.take(1000), memory.take(1000)]
    assert place in map(place_of, held)


def test_arrays_that_are_held_share_nothing() -> None:
    memory = Recycled()
    first = [memory.take(100) for _ in range(5)]
    del first[::2]
    arrays = first + [memory.take(100) for _ in range(9)]
    for value, array in enumerate(arrays):
        array[:] = value
    assert [set(array.tolist()) for array in arrays] == [{value} for value in range(len(arrays))]


def test_what_is_of_about_one_size_shares_its_memory() -> None:
    memory = Recycled()
    place = place_of(memory.take(1000))
    for size in (1100, 900, 1000):
        array = memory.take(size)
        assert (place_of(array), array.shape) == (place, (size,))
        array[:] = 1  # it is all there
        del array


def test_memory_that_is_too_small_or_much_larger_is_not_given() -> None:
    memory = Recycled()
    place = place_of(memory.take(1000))
    for size in (1126, 700, 0):
        assert place_of(memory.take(size)) != place


def idle_bytes(memory: Recycled) -> int:
    return sum(owner.nbytes for owner in memory._free)


def test_what_many_held_arrays_took_is_not_hoarded() -> None:
    memory = Recycled()
    held = [memory.take(1000) for _ in range(3 * KEPT)]
    del held
    gc.collect()
    assert len(memory._free) == KEPT


def test_sizes_that_scatter_leave_little_idle() -> None:
    memory, sizes = Recycled(), np.random.default_rng(0).normal(10_000, 160, 2000).astype(int)
    held: list[np.ndarray] = []
    for size in sizes.tolist():
        held = [*held[-31:], memory.take(size)]
        assert idle_bytes(memory) <= KEPT * 12_000


def test_sizes_that_have_changed_get_the_room_of_those_before() -> None:
    memory = Recycled()
    held = [memory.take(1000) for _ in range(KEPT)]
    del held
    for _ in range(KEPT):
        memory.take(5000)
    assert any(owner.nbytes > 5000 for owner in memory._free)


class Copying:
    """An event behind a copy that a device has yet to make."""

    def __init__(self) -> None:
        self.is_done = False
        self.waited = 0

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.waited += 1
        self.is_done = True


def let_go(memory: Recycled, *events: Copying) -> int:
    """The place of an array that nothing shows any more and that is read until these events."""
    lease = Lease()
    array = memory.take(1000, lease)
    for queue, event in enumerate(events):
        lease.read_until(event, queue)
    return place_of(array)


def test_memory_that_a_device_still_reads_is_not_given_again() -> None:
    memory, copies = Recycled(), [Copying(), Copying()]
    place = let_go(memory, *copies)
    held = [memory.take(1000)]
    for copy in copies:
        assert place not in map(place_of, held)
        copy.is_done = True
        held.append(memory.take(1000))
    assert place == place_of(held[-1])


def test_of_one_queue_the_last_copy_counts() -> None:
    memory, lease, first, last = Recycled(), Lease(), Copying(), Copying()
    array = memory.take(1000, lease)
    lease.read_until(first, "a stream")
    lease.read_until(last, "a stream")
    place, last.is_done = place_of(array), True
    del array
    gc.collect()
    assert place_of(memory.take(1000)) == place


def test_what_may_still_read_it_can_be_told_when_it_is_let_go() -> None:
    copy = Copying()
    memory = Recycled(released=lambda lease: lease.read_until(copy, "a stream"))
    place = let_go(memory)
    assert place_of(memory.take(1000, Lease())) != place
    copy.is_done = True
    assert place in [place_of(memory.take(1000)), place_of(memory.take(1000))]


def test_what_a_device_reads_is_never_freed_however_much_it_is() -> None:
    owners: list[weakref.ref] = []

    def allocate(num_bytes: int) -> np.ndarray:
        owner = np.empty(num_bytes, np.uint8)
        owners.append(weakref.ref(owner))
        return owner

    memory, copies = Recycled(allocate), [Copying() for _ in range(3 * KEPT)]
    for copy in copies:
        let_go(memory, copy)
    assert all(owner() is not None for owner in owners)
    for copy in copies[KEPT:]:
        copy.is_done = True
    memory.take(5000)
    gc.collect()
    assert all(owner() is not None for owner in owners[:KEPT])
    assert sum(owner() is not None for owner in owners) <= 2 * KEPT + 1
    del memory
    gc.collect()
    assert [copy.waited for copy in copies] == [1] * KEPT + [0] * 2 * KEPT


def test_nothing_can_be_taken_too() -> None:
    memory = Recycled()
    assert [len(memory.take(0)) for _ in range(3)] == [0, 0, 0]


def test_threads_that_take_at_once_are_given_their_own() -> None:
    memory = Recycled()

    def work(value: int) -> bool:
        is_own = True
        for _ in range(200):
            arrays = [memory.take(256) for _ in range(3)]
            for array in arrays:
                array[:] = value
            is_own &= all((array == value).all() for array in arrays)
        return is_own

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
