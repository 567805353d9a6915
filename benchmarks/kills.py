"""Kills a training at random moments, again and again, and sees that its numbers stay the same.

Usage: python benchmarks/kills.py [--kills 100] [--data DIR] [--folder DIR] [--seed 0]

A run on the playground goes on undisturbed. Another one, of the same recipe, is killed by `kill -9`
at a random moment of its training and started again, until it has been killed so often as asked; a
run that reaches its end starts anew in another folder. Every loss that it logged, of every start,
must equal the undisturbed run's, bit for bit; so must its weights at the end.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from playground import ROOT, Place, opened, parser, state_of, steps_of, training
from safetensors.torch import load_file

STEPS = 60


def start(place: Place, name: str) -> subprocess.Popen[bytes]:
    command = training(
        place,
        name,
        f"train.steps={STEPS}",
        "data.size=32",
        "evaluate.every_steps=20",
        "evaluate.max_samples=64",
        "evaluate.splits=[val-new-new]",
        "checkpoint.every_steps=3",
        "log.trackers=[]",
        "tasks.depth.options.init_features=8",
        "cpu_threads=1",
    )
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def losses(folder: Path) -> dict[int, tuple[float, float]]:
    """By step."""
    return {step["step"]: (step["loss/mask"], step["loss/depth"]) for step in steps_of(folder)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = folder / "checkpoints" / f"step-{STEPS:08d}"
    return {
        f"{task}.{name}": value
        for task in ("mask", "depth")
        for name, value in load_file(newest / f"{task}.safetensors").items()
    }


def wait_for_training(process: subprocess.Popen[bytes], folder: Path) -> None:
    """The process has opened the run and is about to go on."""
    since, status = time.time(), folder / "status.json"
    while process.poll() is None:
        if status.exists() and status.stat().st_mtime >= since:
            return
        time.sleep(0.02)


def main() -> int:
    reads = parser(__doc__)
    reads.add_argument("--kills", type=int, default=100)
    reads.add_argument("--seed", type=int, default=0)
    options = reads.parse_args()
    with opened(options) as place:
        process = start(place, "whole")
        wait_for_training(process, place.folder / "whole")
        began = time.perf_counter()
        if process.wait():
            raise SystemExit("the undisturbed run failed")
        report(options.kills, place, time.perf_counter() - began, options.seed)
    return 0


def report(kills: int, place: Place, seconds: float, seed: int) -> None:
    whole = place.folder / "whole"
    expected, expected_weights = losses(whole), weights(whole)
    chance, done, number, reached = random.Random(seed), 0, 0, []
    while done < kills:
        name = f"killed-{number}"
        folder = place.folder / name
        process = start(place, name)
        wait_for_training(process, folder)
        try:
            process.wait(timeout=chance.uniform(0.0, seconds / 4))  # most must not reach the end
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        _, said = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{folder} does not go on: {said.decode()}")
        for step, pair in losses(folder).items():
            if pair != expected[step]:
                raise SystemExit(f"step {step} gave {pair}, undisturbed {expected[step]}")
        reached.append(max(losses(folder), default=0))
        if state_of(folder) == "finished":
            same = all(torch.equal(v, weights(folder)[k]) for k, v in expected_weights.items())
            if not same or losses(folder) != expected:
                raise SystemExit(f"{folder} ended with other weights or losses")
            number += 1
        print(f"\r{done} kills, {number} runs finished, all equal so far", end="", flush=True)
    print(
        f"\n{done} kills at steps {min(reached)} to {max(reached)} of {STEPS}; {number} runs "
        "reached their end; every loss and the last weights are those of the undisturbed run"
    )


if __name__ == "__main__":
    sys.exit(main())
