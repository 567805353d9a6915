"""Ranks of one start find one another in a store that others have used before them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.ranks.join import backend_for, is_on_cpu, is_one_of_several, meet

PATIENCE_SECONDS = 30.0


def start(store: dist.HashStore, delays: list[float]) -> list[str]:
    """The name that each rank of a start gets; rank r comes after `delays[r]` seconds."""

    def come(rank: int) -> str:
        time.sleep(delays[rank])
        return meet(store, rank, len(delays), PATIENCE_SECONDS)

    with ThreadPoolExecutor(len(delays)) as pool:
        return list(pool.map(come, range(len(delays))))


@settings(max_examples=10, deadline=None)
@given(
    worlds=st.lists(
        st.lists(st.sampled_from([0.0, 0.01, 0.08]), min_size=2, max_size=4), min_size=2, max_size=3
    )
)
def test_each_start_meets_under_one_name_that_none_had_before(worlds: list[list[float]]) -> None:
    store = dist.HashStore()
    names = [start(store, delays) for delays in worlds]
    assert all(len(set(of_start)) == 1 for of_start in names)
    assert len({of_start[0] for of_start in names}) == len(worlds)


def test_a_rank_that_died_while_meeting_does_not_disturb_the_next_start() -> None:
    store = dist.HashStore()
    with pytest.raises(ValueError, match="did not come"):
        meet(store, 0, 3, 0.0)
    with pytest.raises(ValueError, match="did not come"):
        meet(store, 2, 3, 0.0)
    assert len(set(start(store, [0.0, 0.3, 0.0]))) == 1


def test_those_who_do_not_come_are_named() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(ValueError, match=r"ranks 1, 2 of 3 did not come within 90 s: a job begins"):
        meet(dist.HashStore(), 0, 3, 90.0, clock=lambda: now[0], sleep=sleep)
    assert now[0] >= 90


def test_gradients_travel_over_gloo_on_cpu_and_where_ranks_share_a_gpu() -> None:
    assert [backend_for(2, devices) for devices in (0, 1, 2, 8)] == ["gloo", "gloo", "nccl", "nccl"]


def test_several_processes_are_known_by_what_launchers_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_one_of_several()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_one_of_several()
    monkeypatch.delenv("MASTER_ADDR")
    assert not is_one_of_several()


def test_a_machine_without_a_gpu_needs_not_be_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert is_on_cpu()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not is_on_cpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert is_on_cpu()
