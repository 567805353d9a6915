"""Real processes over gloo, one of which is lost: the others end with its name, all in one story.

All stories run side by side, because they consist of waiting. The store lies in this process, as
with a launcher; in one story it lies with rank 0.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from wdtrain.ranks.collective import Distributed
from wdtrain.ranks.liveness import Beat, FailedWait, LostRanks, RankLost, judge

WORLD = 3
SETTLED_SECONDS = 1.5
"""Until all have left the barrier: one that ends earlier may still owe others its message."""
COMPUTING_SECONDS = 2.0
TIMEOUT_SECONDS, SLOW_SECONDS = 10.0, 25.0
"""Only the story of a stuck rank waits so long; all of it happens beside other tests."""
PATIENCE_SECONDS = 120.0

Outcome = dict[str, Any]
Outcomes = Callable[..., list[Outcome]]


def killed(collective: Distributed, victim: int) -> None:
    if collective.rank == victim:
        time.sleep(SETTLED_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def stuck(collective: Distributed, victim: int) -> None:
    """Alive, its thread beats, and its main thread is elsewhere for longer than the limit."""
    if collective.rank == victim:
        time.sleep(SLOW_SECONDS)


def killed_while_another_computes(collective: Distributed, victim: int) -> None:
    killed(collective, victim)
    if collective.rank == victim + 1:
        time.sleep(COMPUTING_SECONDS)


@dataclass(frozen=True)
class Story:
    happens: Callable[[Distributed, int], None]
    victim: int
    own_store: bool = False
    timeout_seconds: float = PATIENCE_SECONDS


STORIES = {
    "killed-0": Story(killed, 0),
    "killed-2": Story(killed, 2),
    "stuck-1": Story(stuck, 1, timeout_seconds=TIMEOUT_SECONDS),
    "killed-1-while-2-computes": Story(killed_while_another_computes, 1),
    "killed-0-with-its-store": Story(killed, 0, own_store=True),
}


def rank_of(name: str, rank: int, port: int, folder: str) -> None:
    """One rank of a story: an agreement that succeeds, then what happens, then one that fails."""
    story = STORIES[name]
    torch.set_num_threads(1)
    is_master = story.own_store and rank == 0
    patience = timedelta(seconds=PATIENCE_SECONDS)
    store = dist.TCPStore("127.0.0.1", port, None, is_master, timeout=patience)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    dist.barrier()  # all are awake, which may take longer than a story's limit
    collective = Distributed(story.timeout_seconds)
    assert collective.host_sum([rank, 1]) == [3, WORLD]
    assert collective.host_min([rank, -rank]) == [0, -2]
    assert collective.host_max([rank, -rank]) == [2, 0]
    objects: list[Any] = ["", [("key", 0.5)], {"a": "b" * 1000}]
    assert collective.gather(objects[rank]) == objects
    collective.barrier()
    story.happens(collective, story.victim)
    began = time.monotonic()
    outcome: Outcome = {"raised": ""}
    try:
        collective.flat_sum(torch.ones(7))
    except RankLost as error:
        outcome = {"raised": type(error).__name__, "said": str(error)}
        outcome |= {"lost": list(error.lost), "speaks": error.speaks}
    outcome["seconds"] = time.monotonic() - began
    aside = Path(folder, f"{name}-{rank}.partial")
    aside.write_text(json.dumps(outcome))
    aside.rename(aside.with_suffix(".json"))


def free_port() -> int:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """By story, what each rank that was left met, by rank; or the ranks that are asked for."""
    folder = tmp_path_factory.mktemp("ranks")
    context = mp.get_context("forkserver")  # torch is imported once for all ranks
    context.set_forkserver_preload([__name__])
    stores, ranks = {}, []
    for name, story in STORIES.items():
        stores[name] = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = free_port() if story.own_store else stores[name].port
        for rank in range(WORLD):
            ranks.append(context.Process(target=rank_of, args=(name, rank, port, str(folder))))
            ranks[-1].start()

    def of(name: str, *asked: int) -> list[Outcome]:
        is_gone = STORIES[name].happens is not stuck
        others = [rank for rank in range(WORLD) if not is_gone or rank != STORIES[name].victim]
        left = [folder / f"{name}-{rank}.json" for rank in asked or others]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(path.exists() for path in left):
            assert time.monotonic() < deadline, f"{name}: a rank hangs"
            time.sleep(0.1)
        return [json.loads(path.read_text()) for path in left]

    yield of
    for process in ranks:
        process.kill()
        process.join()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_is_named_by_every_other_long_before_the_limit(
    outcomes: Outcomes, victim: int
) -> None:
    for outcome in outcomes(f"killed-{victim}"):
        assert outcome["raised"] == "RankLost"
        assert outcome["lost"] == [victim]
        assert f"rank {victim} (process" in outcome["said"]
        assert "has ended, while the sum of gradients was waited for" in outcome["said"]
        assert "start the same command again" in outcome["said"]


def test_a_rank_that_lives_and_does_not_come_is_named_and_hears_it_itself(
    outcomes: Outcomes,
) -> None:
    said = outcomes("stuck-1")
    assert [outcome["lost"] for outcome in said] == [[1]] * WORLD
    assert said[1]["seconds"] < 1  # it is told, and waits for nobody


def test_a_rank_that_only_computes_is_not_blamed_for_one_that_ended(outcomes: Outcomes) -> None:
    said = outcomes("killed-1-while-2-computes")
    assert [outcome["lost"] for outcome in said] == [[1], [1]]


@pytest.mark.parametrize("name", ["killed-0", "killed-2", "stuck-1"])
def test_all_ranks_tell_one_story_and_the_lowest_that_is_left_speaks(
    outcomes: Outcomes, name: str
) -> None:
    said = outcomes(name)
    assert len({outcome["said"] for outcome in said}) == 1
    assert [outcome["speaks"] for outcome in said] == [True] + [False] * (len(said) - 1)


def test_where_rank_0_took_the_store_along_it_is_named(outcomes: Outcomes) -> None:
    said = outcomes("killed-0-with-its-store")
    assert [outcome["lost"] for outcome in said] == [[0], [0]]
    assert [outcome["speaks"] for outcome in said] == [True, False]
    assert all("rank 0, or the launcher on its machine, has ended" in one["said"] for one in said)


def beats(*numbers_and_calls: tuple[int, int]) -> list[Beat]:
    return [Beat(number, calls, "process 1 on a host") for number, calls in numbers_and_calls]


ENDED = FailedWait("an agreement", 2.0, False, "Connection closed by peer\nand more")
TIMED_OUT = FailedWait("an agreement", 600.0, True, "Timed out")


def test_those_who_fell_silent_are_lost_and_those_behind_only_when_the_time_is_over() -> None:
    before, after = beats((4, 9), (4, 9), (4, 8)), beats((9, 9), (4, 9), (9, 8))
    assert judge(before, after, ENDED).lost == (1,)
    assert judge(before, after, TIMED_OUT).lost == (1, 2)
    assert "ranks 1 (process 1 on a host), 2" in judge(before, after, TIMED_OUT).text
    assert judge([None, *before[1:]], [None, *after[1:]], ENDED).lost == (0, 1)


def test_where_everybody_still_runs_the_connection_is_blamed() -> None:
    verdict = judge(beats((1, 9), (1, 9)), beats((6, 9), (6, 9)), ENDED)
    assert (verdict.lost, verdict.speaker) == ((), 0)
    assert "although every rank still runs (Connection closed by peer)" in verdict.text


def test_a_verdict_comes_out_of_the_store_as_it_went_in() -> None:
    verdict = LostRanks((1, 3), 0, "rank 1 and »3«")
    assert LostRanks.loads(verdict.dumps()) == verdict
