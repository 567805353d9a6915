"""What only a CUDA device can show; skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.end_to_end.runs import RECIPE, TRAIN, Runs
from tests.gpu.waiting import no_waiting
from tests.learn.cases import built, make_rows, make_view, small_tasks
from tests.noise import NoiseSource
from wdtrain.learn.step import train_step
from wdtrain.learn.task import TaskSet
from wdtrain.memory.fitting import CudaGauge, Fitting
from wdtrain.networks import build
from wdtrain.packing.pack import pack
from wdtrain.ranks.collective import Alone
from wdtrain.ranks.devices import default_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("bits", [8, 16])
def test_trains_on_the_device_without_a_launcher(tmp_path: Path, bits: int) -> None:
    pack(NoiseSource(400, size=16, bits=bits), tmp_path / "data", processes=1)
    runs = Runs(tmp_path, str(tmp_path / "data"))
    given = [f"data.url={runs.data}", "run.folder=run", "train.steps=5", "precision=bf16"]
    result = subprocess.run(
        [sys.executable, str(TRAIN), "--config", str(RECIPE), *given, "memory=1GiB"],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "on cuda" in result.stdout
    assert runs.status("run")["state"] == "finished"


def test_a_step_waits_for_nothing_on_the_device() -> None:
    device = default_device()
    tasks = small_tasks(device=device)
    rows = [make_rows(24, seed=seed) for seed in range(4)]
    view = make_view("fp32")
    how = {"device": device, "view": view, "collective": Alone()}
    train_step(tasks, rows[0], **how)  # the first one looks kernels up
    with no_waiting():
        results = [train_step(tasks, part, **how) for part in rows[1:3]]
    assert all(result.read().losses["mask"] > 0 for result in results)


def test_a_real_shortage_is_recovered_from_and_micro_batches_are_fitted() -> None:
    device = default_device()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**30 / total))
    try:
        task = built(
            "mask", "mask", build("seed-mask"), loss="bce", optimizer={"name": "adamw", "lr": 1e-3},
            device=device, precision="bf16", micro_batch=2048, norm_group=32,
        )  # fmt: skip
        tasks, rows = TaskSet([task]), make_rows(2048, group=32, size=64)
        how = {"device": device, "view": make_view("bf16"), "collective": Alone()}
        result = train_step(tasks, rows, **how)
        assert result.recoveries
        assert result.samples == 2048
        fitting = Fitting(
            tasks=tasks, view=make_view("bf16"), height=64, width=64, share=2048, device=device,
            collective=Alone(), asked=lambda: False,
        )  # fmt: skip
        gauge = CudaGauge(device)
        choice = fitting.fit(gauge)["mask"]
        assert choice.measured_bytes <= gauge.budget_bytes <= 2**30
        assert not train_step(tasks, rows, **how).recoveries
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
