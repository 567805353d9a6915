"""What is set up before anybody looks at what memory is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.end_to_end.runs import RECIPE
from tests.learn.cases import small_tasks
from tests.noise import NoiseSource
from wdtrain import job, memory, ranks
from wdtrain.config import load_recipe
from wdtrain.packing.pack import pack
from wdtrain.ranks import launch
from wdtrain.ranks.collective import Alone, RankLost
from wdtrain.ranks.liveness import LostRanks


class Logged(Alone):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def flat_sum(self, flat: torch.Tensor) -> None:
        assert not flat.any()
        self.calls.append(f"sum of {flat.numel()}")


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("handlers_kept")
def test_device_and_communicator_are_there_before_the_planner_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(NoiseSource(400, size=16), tmp_path / "data", processes=1)
    given = [f"data.url={tmp_path / 'data'}", "tasks.depth.network=seed-unet", "data.size=16"]
    recipe = load_recipe(RECIPE, [*given, f"run.folder={tmp_path / 'run'}"])
    calls: list[str] = []

    def gauge(device: Any) -> SimpleNamespace:
        calls.append("gauge")
        return SimpleNamespace(budget_bytes=2**30)

    def fit(self: Any, gauge: Any, known: Any) -> dict[str, Any]:
        calls.append("fit")
        return {}

    monkeypatch.setattr(ranks, "open_collective", lambda *_: Logged(calls))
    monkeypatch.setattr(launch, "warm_up", lambda device: calls.append(f"{device} is warm"))
    monkeypatch.setattr(memory, "CudaGauge", gauge)
    monkeypatch.setattr(memory.Fitting, "fit", fit)
    monkeypatch.setattr(job, "device_facts", lambda device: {})
    run = job.open_run(recipe)
    gpu = SimpleNamespace(device=torch.device("cuda:0"), is_local_main_process=False)
    monkeypatch.setattr(run, "accelerator", gpu)
    run.fit()
    size = run.tasks.gradient_buffer.flat.numel()
    assert calls == ["cpu is warm", f"sum of {size}", "gauge", "fit"]


def test_a_first_sum_that_fails_says_what_to_look_at() -> None:
    class Broken(Alone):
        def flat_sum(self, flat: torch.Tensor) -> None:
            error = RankLost(LostRanks((), 0, "broke although every rank still runs"), 0)
            raise error from RuntimeError("NCCL Error 1: out of memory\nmore")

    with pytest.raises(ValueError, match=r"failed \(NCCL Error 1: out of memory\).*nvidia-smi"):
        ranks.set_up(torch.device("cpu"), small_tasks().gradient_buffer.flat, Broken())


def test_a_rank_that_is_lost_in_the_first_sum_is_named() -> None:
    class Lost(Alone):
        def flat_sum(self, flat: torch.Tensor) -> None:
            raise RankLost(LostRanks((1,), 0, "rank 1 has ended"), 0)

    with pytest.raises(RankLost, match="rank 1 has ended"):
        ranks.set_up(torch.device("cpu"), small_tasks().gradient_buffer.flat, Lost())
