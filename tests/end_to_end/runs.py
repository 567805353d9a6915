"""Training as its users start it: a process of its own, a recipe, a run folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "wdtrain" / "train.py"
RECIPE = Path(__file__).with_name("tiny.yaml")
NETWORK = """
from torch import nn

class TinyDepth(nn.Module):
    domain = "unit"

    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Dropout(0.1), nn.Conv2d(width, 1, 1), nn.Sigmoid(),
        )

    def forward(self, picture):
        return self.layers(picture)
"""


@dataclass
class Runs:
    """Runs on one dataset, in one working folder."""

    folder: Path
    data: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "tiny_network.py").write_text(NETWORK)

    def command(
        self,
        name: str,
        *overrides: str,
        processes: int = 0,
        script: Path = TRAIN,
        recipe: str | None = None,
    ) -> list[str]:
        """recipe: of the repository, by its path there, on data that the overrides name."""
        launcher = [sys.executable]
        if processes:
            launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port"]
            launcher += ["0", "--num_processes", str(processes)]
        given = [f"run.folder={name}", *overrides]
        if recipe is None:
            given.insert(0, f"data.url={self.data}")
        config = RECIPE if recipe is None else ROOT / recipe
        return [*launcher, str(script), "--config", str(config), *given]

    def start(self, name: str, *overrides: str, **how: Any) -> subprocess.Popen[str]:
        """how: as `command` takes it."""
        process = subprocess.Popen(
            self.command(name, *overrides, **how),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        )
        self.started.append(process)
        return process

    def run(self, name: str, *overrides: str, **how: Any) -> tuple[int, str]:
        """(exit code, output) of a run to its end; how: as `command` takes it."""
        process = self.start(name, *overrides, **how)
        output, _ = process.communicate(timeout=280)
        return process.returncode, output

    def finish(self, name: str, *overrides: str, **how: Any) -> str:
        code, output = self.run(name, *overrides, **how)
        assert code == 0, output
        assert self.status(name)["state"] == "finished"
        return output

    def copy(self, other: Runs, name: str) -> None:
        """A run of another folder is here too, as it stands."""
        shutil.copytree(other.folder / name, self.folder / name)

    def status(self, name: str) -> dict[str, Any]:
        """How it stands, and why; not who wrote that, and when."""
        status = json.loads((self.folder / name / "status.json").read_text())
        return {key: status[key] for key in ("state", "why")}

    def losses(self, name: str) -> dict[int, tuple[float, float]]:
        """The losses of every step, as logged."""
        trained = self.records(name)
        assert len({record["step"] for record in trained}) == len(trained), "a step is logged twice"
        return {record["step"]: (record["loss/mask"], record["loss/depth"]) for record in trained}

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log that tell of a step."""
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if "loss/mask" in record]

    def wait_until(self, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        for _ in range(9000):
            if ready():
                return
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        raise AssertionError("the run never came so far")

    def has_logged(self, name: str, step: int) -> Callable[[], bool]:
        log = self.folder / name / "metrics.jsonl"
        return lambda: log.exists() and f'"step": {step},' in log.read_text()
