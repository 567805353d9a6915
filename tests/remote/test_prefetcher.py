"""The laws of reading ahead: each range once, within a bound, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.remote.prefetcher import BoundedPrefetcher, Key

pytestmark = pytest.mark.timeout(60)


def taken(ahead: BoundedPrefetcher[Any], key: Key) -> Any:
    loaded = ahead.take(key)
    return None if loaded is None else loaded.result(10)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.001)


def test_what_is_held_or_in_flight_never_exceeds_the_bound() -> None:
    ahead = BoundedPrefetcher(max_threads=4, max_bytes=100)
    loaded: list[int] = []
    for number in range(20):
        ahead.hint(
            ("file", number, 30), 30, lambda number=number: loaded.append(number) or bytes(30)
        )  # type: ignore[misc]
        assert ahead._held_bytes <= 100
    until(lambda: len(loaded) == 3)
    for number in range(20):
        taken(ahead, ("file", number, 30))
        assert ahead._held_bytes <= 100


def test_taken_ranges_make_room_for_those_that_wait() -> None:
    ahead = BoundedPrefetcher(max_threads=2, max_bytes=50)
    for number in range(30):
        ahead.hint(("file", number, 25), 25, lambda number=number: bytes([number] * 25))  # type: ignore[misc]
    for number in range(28):
        until(lambda number=number: ("file", number, 25) in ahead._held)  # type: ignore[misc]
        assert taken(ahead, ("file", number, 25)) == bytes([number] * 25)


def test_at_most_so_many_are_loaded_at_once() -> None:
    ahead = BoundedPrefetcher(max_threads=3, max_bytes=1000)
    lock, most, now = threading.Lock(), 0, 0

    def load() -> bytes:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return b"x"

    for number in range(20):
        ahead.hint(("file", number, 1), 1, load)
    assert all(taken(ahead, ("file", number, 1)) in (b"x", None) for number in range(20))
    assert most <= 3


def test_what_is_never_taken_goes_when_it_is_passed_by() -> None:
    ahead = BoundedPrefetcher(max_threads=2, max_bytes=40)
    for number in range(10):
        ahead.hint(("file", number, 20), 20, lambda: bytes(20))
    until(lambda: all(hint.loaded.done() for hint in ahead._held.values()))
    assert set(ahead._held) == {("file", 0, 20), ("file", 1, 20)}
    assert taken(ahead, ("file", 5, 20)) is None
    until(lambda: ("file", 2, 20) in ahead._held)
    assert set(ahead._held) == {("file", 1, 20), ("file", 2, 20)}


def test_what_cannot_be_loaded_is_left_to_the_read() -> None:
    ahead = BoundedPrefetcher(max_threads=1, max_bytes=40)
    ahead.hint(("file", 0, 20), 20, lambda: None)
    assert taken(ahead, ("file", 0, 20)) is None
    assert taken(ahead, ("file", 1, 20)) is None
    ahead.hint(("file", 2, 41), 41, lambda: bytes(41))
    assert taken(ahead, ("file", 2, 41)) is None


def test_an_error_in_loading_reaches_whoever_takes_it_and_the_next_is_loaded() -> None:
    ahead: BoundedPrefetcher[bytes] = BoundedPrefetcher(max_threads=1, max_bytes=40)
    begun = threading.Event()

    def fail() -> bytes:
        begun.wait(10)
        raise RuntimeError("a defect, on purpose")

    ahead.hint(("file", 0, 20), 20, fail)
    ahead.hint(("file", 1, 20), 20, lambda: bytes(20))
    loaded = ahead.take(("file", 0, 20))
    assert loaded is not None
    begun.set()
    with pytest.raises(RuntimeError, match="a defect, on purpose"):
        loaded.result(10)
    until(lambda: ("file", 1, 20) in ahead._held and ahead._held["file", 1, 20].loaded.done())


def test_a_hint_that_waits_for_a_thread_alone_drops_nothing_when_it_is_taken() -> None:
    ahead: BoundedPrefetcher[bytes] = BoundedPrefetcher(max_threads=1, max_bytes=None)
    held_up = threading.Event()
    ahead.hint(("file", 0, 20), 20, lambda: bytes(20))
    until(lambda: ahead._held["file", 0, 20].loaded.done() and not ahead._threads)
    ahead.hint(("file", 1, 20), 20, lambda: bytes(20) if held_up.wait(10) else b"")
    ahead.hint(("file", 2, 20), 20, lambda: bytes(20))
    assert ahead.take(("file", 2, 20)) is None
    held_up.set()
    assert taken(ahead, ("file", 0, 20)) == bytes(20)
    assert taken(ahead, ("file", 1, 20)) == bytes(20)


def test_a_join_waits_for_what_is_in_flight() -> None:
    ahead: BoundedPrefetcher[bytes] = BoundedPrefetcher(max_threads=2, max_bytes=100)
    done: list[int] = []

    def load(number: int) -> bytes:
        time.sleep(0.05)
        done.append(number)
        return b"x"

    for number in range(4):
        ahead.hint(("file", number, 1), 1, lambda number=number: load(number))  # type: ignore[misc]
    ahead.drop("file")
    ahead.join()
    assert sorted(done) == [0, 1]


def test_dropping_an_owner_leaves_the_others() -> None:
    ahead = BoundedPrefetcher(max_threads=2, max_bytes=60)
    for owner in ("a", "b"):
        for number in range(3):
            ahead.hint((owner, number, 20), 20, lambda: bytes(20))
    ahead.drop("a")
    assert {key[0] for key in (*ahead._held, *ahead._waiting)} == {"b"}
    until(lambda: ahead._held_bytes == 60)
    ahead.drop("b")
    assert ahead._held_bytes == 0


def test_what_an_abandoned_owner_held_goes_with_the_next_hint() -> None:
    ahead = BoundedPrefetcher(max_threads=1, max_bytes=20)
    ahead.hint(("a", 0, 20), 20, lambda: bytes(20))
    until(ahead._held["a", 0, 20].loaded.done)
    with ahead._lock:  # as in a finalizer that runs while the lock is held
        ahead.abandon("a")
    ahead.hint(("b", 0, 20), 20, lambda: b"x" * 20)
    until(lambda: ("b", 0, 20) in ahead._held)
    assert taken(ahead, ("b", 0, 20)) == b"x" * 20
    assert ahead._held_bytes == 0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 9)), max_size=40),
    st.integers(1, 4),
    st.integers(1, 20),
)
def test_any_hints_and_takes_give_the_right_bytes_within_the_bound(
    acts: list[tuple[bool, int, int]], threads: int, bound: int
) -> None:
    ahead = BoundedPrefetcher(max_threads=threads, max_bytes=bound)
    for is_hint, offset, count in acts:
        expected = bytes([offset]) * count
        if is_hint:
            ahead.hint(("file", offset, count), count, lambda expected=expected: expected)  # type: ignore[misc]
        else:
            assert taken(ahead, ("file", offset, count)) in (expected, None)
        assert 0 <= ahead._held_bytes <= bound
    ahead.drop("file")
    assert ahead._held_bytes == 0
