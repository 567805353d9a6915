"""Every call to CUDA gets a device with an index, by PyTorch's own strictest check."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from tests.learn.cases import FIELDS
from tests.learn.fake_cuda import FREE_BYTES, HELD_BYTES, TOTAL_BYTES, FakeCuda
from wdtrain.config import Recipe
from wdtrain.learn.build import build_tasks, learned_by
from wdtrain.memory.fitting import CudaGauge, budget_bytes
from wdtrain.ranks import launch
from wdtrain.ranks.devices import default_device, indexed, warm_up
from wdtrain.record.plan_cache import device_facts
from wdtrain.record.process_memory import measure_memory

PACKAGE = Path(launch.__file__).parent.parent


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch, current=1)


def test_a_device_gets_the_index_of_the_current_one_and_keeps_its_own(fake_cuda: FakeCuda) -> None:
    with pytest.raises(ValueError, match="index"):
        torch.cuda.get_per_process_memory_fraction(torch.device("cuda"))
    assert indexed("cuda") == torch.device("cuda:1") == default_device()
    assert indexed(torch.device("cuda:3")) == torch.device("cuda:3")
    assert indexed("cpu") == torch.device("cpu")


def test_without_a_gpu_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == torch.device("cpu")


def test_the_gauge_takes_a_device_as_people_write_it(fake_cuda: FakeCuda) -> None:
    torch.cuda.set_per_process_memory_fraction(0.5, 1)
    gauge = CudaGauge(torch.device("cuda"))
    assert gauge.budget_bytes == TOTAL_BYTES // 2 == budget_bytes(torch.device("cuda"))
    torch.cuda.set_per_process_memory_fraction(1.0, 1)
    assert CudaGauge(torch.device("cuda")).budget_bytes == FREE_BYTES + HELD_BYTES
    gauge.restart()
    assert gauge.peak_bytes() == HELD_BYTES
    gauge.now()
    assert {index for _, index in fake_cuda.calls} == {1}


def test_the_device_of_a_run_without_a_launcher_serves_every_call(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """accelerate's own device there is "cuda"; everything that follows gets what it says."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda")
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    AcceleratorState._reset_state(True)
    try:
        assert PartialState().device == torch.device("cuda")
        accelerator = launch.start_accelerator(
            precision="fp32", trackers=[], folder=str(tmp_path), cpu_threads=None, memory=4 * 2**30
        )
        device = accelerator.device
    finally:
        AcceleratorState._reset_state(True)
    assert device == torch.device("cuda:1")
    assert fake_cuda.shares == {1: 0.5}
    assert threads == [min(2, len(os.sched_getaffinity(0)))]
    assert CudaGauge(device).budget_bytes == measure_memory(device).budget_bytes == 4 * 2**30
    assert device_facts(device)["bytes"] == TOTAL_BYTES


def test_a_device_is_warm_after_a_small_pass_that_was_waited_for(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ones = [], torch.ones

    def on_host(*size: int, device: torch.device, **more: bool) -> torch.Tensor:
        made.append(ones(*size, **more))
        return made[-1]

    monkeypatch.setattr(torch, "ones", on_host)
    warm_up(torch.device("cpu"))
    assert (made, fake_cuda.calls) == ([], [])
    warm_up(torch.device("cuda:2"))
    assert made[0].grad is not None
    assert fake_cuda.calls == [("set_device", 2), ("synchronize", 2)]


def test_beside_a_gpu_arithmetic_on_the_cpu_takes_two_threads_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    cuda, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert (launch.default_threads(cuda), launch.default_threads(cpu)) == (2, 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert (launch.default_threads(cuda), launch.default_threads(cpu)) == (1, 1)


def test_float32_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    recipe = Recipe.model_validate(
        {
            "data": {"url": "nowhere"},
            "run": {"folder": "nowhere"},
            "train": {"steps": 1},
            "tasks": {"mask": {"network": "seed-mask", "loss": "bce"}},
        }
    )
    learned = learned_by(recipe, FIELDS)
    build_tasks(recipe, learned, total_steps=1, device=torch.device("cpu"), size=(16, 16))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_one_place_turns_a_device_into_one_with_an_index(path: Path) -> None:
    if path == PACKAGE / "ranks" / "devices.py":
        return
    assert not re.search(r"""current_device\(|device\(\s*["']cuda["']""", path.read_text())
