"""What one rank is asked, all ranks do, at the same place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.learn.cases import run_ranks
from wdtrain.ranks.collective import Alone
from wdtrain.ranks.stopping import RunStopped, StopOnAllRanks, check_stop, no_sudden_collection


@dataclass
class Numbers:
    """As many batches as it says; size as a stream has it."""

    count: int
    size: tuple[int, int] = (16, 16)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def test_all_batches_come_and_then_the_end_for_everyone():
    def work(collective):
        stream = StopOnAllRanks(Numbers(3), collective, lambda: False)
        return list(stream), stream.size

    assert run_ranks(2, work) == [([0, 1, 2], (16, 16))] * 2


def test_asked_on_one_rank_all_stop_after_the_same_batch():
    def work(collective):
        seen: list[int] = []
        with pytest.raises(RunStopped):
            seen.extend(
                StopOnAllRanks(
                    Numbers(9), collective, lambda: collective.rank == 1 and len(seen) == 4
                )
            )
        return seen

    assert run_ranks(2, work) == [[0, 1, 2, 3]] * 2


def test_a_stream_that_gives_up_waiting_on_one_rank_stops_all():
    def work(collective):
        gave_up = collective.rank == 0
        seen: list[int] = []
        stream = Numbers(2 if gave_up else 9)
        with pytest.raises(RunStopped):
            seen.extend(StopOnAllRanks(stream, collective, lambda: gave_up and len(seen) == 2))
        return seen

    assert run_ranks(2, work) == [[0, 1]] * 2


def test_a_check_between_two_things_stops_all_or_none():
    def work(collective):
        check_stop(collective, lambda: False)
        with pytest.raises(RunStopped):
            check_stop(collective, lambda: collective.rank == 1)
        return True

    assert run_ranks(2, work) == [True, True]
    check_stop(Alone(), lambda: False)


def test_garbage_is_collected_when_told_and_not_before():
    with no_sudden_collection() as collect:
        assert not gc.isenabled()
        ring: list[object] = []
        ring.append(ring)
        del ring
        assert collect() >= 1
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
