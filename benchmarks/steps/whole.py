"""`wdtrain/train.py` as a user starts it: streamed from disk, logged, its own process.

It runs all the time and is stopped (SIGSTOP) except in its turns; what its steps took is read from
its metrics.jsonl. The first lines of a turn are left out: a line is written one step late, and the
step that was under way when it was stopped holds the pause.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml
from torch import Tensor

from steps.turn import Turn
from steps.work import LEARNED, LEARNING_RATE, Settings
from wdtrain.record.runlog import read_log

ROOT = Path(__file__).resolve().parent.parent.parent
NEVER = 10**9
LATE_LINES = 2
START_SECONDS, STEP_SECONDS, END_SECONDS, POLL_SECONDS = 300.0, 120.0, 60.0, 0.05


class Failed(RuntimeError):
    """train.py ended or hangs; the message is the last line that it said."""


class WholeTraining:
    """A training that never ends by itself. Close it with `close`."""

    def __init__(self, settings: Settings, url: str, folder: Path) -> None:
        self.folder, self.losses = folder / "run", dict[str, Tensor]()
        folder.mkdir(parents=True)
        recipe, self.said = folder / "recipe.yaml", folder / "said.txt"
        recipe.write_text(yaml.safe_dump(recipe_of(settings, url, self.folder)))
        on_cpu = str(settings.device.type == "cpu").lower()
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "wdtrain" / "train.py"), "--config", str(recipe)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ACCELERATE_USE_CPU": on_cpu},
                start_new_session=True,
            )
        try:
            self._wait_for(1, START_SECONDS)
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def take(self, turn: Turn) -> None:
        before = self._steps_logged()
        discard = turn.discard + LATE_LINES
        wanted = before + discard + turn.steps
        self._signal(signal.SIGCONT)
        self._wait_for(wanted, STEP_SECONDS * (discard + turn.steps))
        self._signal(signal.SIGSTOP)
        lines = self._lines()[before + discard : wanted]
        turn.seconds = sum(line["seconds"] for line in lines)
        turn.discard = 0
        turn.readings = [
            {
                name.removeprefix("seconds/"): spent
                for name, spent in line.items()
                if name.startswith("seconds/")
            }
            for line in lines
        ]

    def close(self) -> None:
        """It is asked to end, as a cluster asks, and saves what it has."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _lines(self) -> list[dict[str, float]]:
        return [line for line in read_log(self.folder) if "seconds" in line]

    def _steps_logged(self) -> int:
        return len(self._lines())

    def _wait_for(self, num_lines: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._steps_logged() < num_lines:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                words = self.said.read_text(errors="replace").strip().splitlines()
                raise Failed((words or ["it said nothing"])[-1])
            time.sleep(POLL_SECONDS)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, number)


def recipe_of(settings: Settings, url: str, folder: Path) -> dict[str, object]:
    """The same training as a recipe; no validation and no checkpoint comes in between."""
    return {
        "data": {"url": url, "chunk": settings.chunk},
        "run": {"folder": str(folder)},
        "train": {"batch_size": settings.batch, "steps": NEVER},
        "step": {"norm_group": settings.norm_group, "micro_batch": settings.micro_batch},
        "evaluate": {"every_steps": NEVER},
        "checkpoint": {"every_steps": NEVER},
        "log": {"console": "plain"},
        "precision": settings.precision,
        "cpu_threads": settings.threads,
        "tasks": {
            target: {
                "network": LEARNED[target][0],
                "loss": LEARNED[target][1],
                "optimizer": {"name": "adamw", "lr": LEARNING_RATE},
                "schedule": {"name": "constant"},
            }
            for target in settings.targets
        },
    }
