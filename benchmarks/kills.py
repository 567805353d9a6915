"""Kills a training at random moments, again and again, and sees that its numbers stay the same.

Usage: python benchmarks/kills.py [--kills 100] [--data DIR] [--folder DIR] [--seed 0]

A run on the playground goes on undisturbed. Another one, of the same recipe, is killed by `kill -9`
at a random moment of its training and started again, until it has been killed so often as asked; a
run that reaches its end starts anew in another folder. Every loss that it logged, of every start,
must equal the undisturbed run's, bit for bit; so must its weights at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
STEPS = 60


def command(data: Path, folder: Path) -> list[str]:
    given = [
        f"data.url={data}",
        f"run.folder={folder}",
        f"train.steps={STEPS}",
        "train.batch_size=32",
        "data.size=32",
        "evaluate.every_steps=20",
        "evaluate.max_samples=64",
        "evaluate.splits=[val-new-new]",
        "checkpoint.every_steps=3",
        "log.console=plain",
        "log.trackers=[]",
        "tasks.depth.options.init_features=8",
        "cpu_threads=1",
    ]
    return [sys.executable, "wdtrain/train.py", "--config", "recipes/playground.yaml", *given]


def start(data: Path, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(data, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def losses(folder: Path) -> dict[int, tuple[float, float]]:
    """By step, as far as they were written whole."""
    path, found = folder / "metrics.jsonl", {}
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            record = json.loads(line)
            if "loss/mask" in record:
                found[record["step"]] = (record["loss/mask"], record["loss/depth"])
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = folder / "checkpoints" / f"step-{STEPS:08d}"
    return {
        f"{task}.{name}": value
        for task in ("mask", "depth")
        for name, value in load_file(newest / f"{task}.safetensors").items()
    }


def is_finished(folder: Path) -> bool:
    path = folder / "status.json"
    return path.exists() and json.loads(path.read_text())["state"] == "finished"


def wait_for_training(process: subprocess.Popen[bytes], folder: Path) -> None:
    """The process has opened the run and is about to go on."""
    since, status = time.time(), folder / "status.json"
    while process.poll() is None:
        if status.exists() and status.stat().st_mtime >= since:
            return
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--data", type=Path, help="a packed playground; packed where not given")
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one where not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = options.folder or Path(temporary)
        data = options.data or base / "data"
        if not (data / "manifest.json").exists():
            source = "playground:count=2000,size=64,difficulty=0.3"
            pack = [sys.executable, "tools/pack-shards", source, str(data)]
            subprocess.run(pack, cwd=ROOT, check=True)
        process = start(data, base / "whole")
        wait_for_training(process, base / "whole")
        began = time.perf_counter()
        if process.wait():
            raise SystemExit("the undisturbed run failed")
        seconds = time.perf_counter() - began
        report(options.kills, data.resolve(), base.resolve(), seconds, options.seed)
    return 0


def report(kills: int, data: Path, base: Path, seconds: float, seed: int) -> None:
    expected, expected_weights = losses(base / "whole"), weights(base / "whole")
    chance, done, number, reached = random.Random(seed), 0, 0, []
    while done < kills:
        folder = base / f"killed-{number}"
        process = start(data, folder)
        wait_for_training(process, folder)
        try:
            process.wait(timeout=chance.uniform(0.0, seconds / 4))  # most must not reach the end
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        process.communicate()
        for step, pair in losses(folder).items():
            if pair != expected[step]:
                raise SystemExit(f"step {step} gave {pair}, undisturbed {expected[step]}")
        reached.append(max(losses(folder), default=0))
        if is_finished(folder):
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
