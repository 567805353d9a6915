"""What only a CUDA device can show; skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.end_to_end.runs import RECIPE, TRAIN, Runs
from tests.sources import NoiseSource
from wdtrain.store.packing import pack

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
