"""How long a run takes from being asked to stop until all of it is saved, on the demo's recipe.

Usage: python benchmarks/stops.py [--ranks 1,2] [--data DIR] [--folder DIR]

Runs started by accelerate are stopped in training, in a validation and before their first step: by
SIGTERM to the launcher, by SIGTERM to one rank, by Ctrl-C. Seconds are those until `status.json`
says "interrupted", and until the launcher has ended. Each time, the newest checkpoint must be whole
and hold every step that was logged.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from playground import ROOT, Place, opened, parser, state_of, steps_of, training

from wdtrain.record.checkpoint import Checkpoints

PATIENCE_SECONDS = 180.0


def start(place: Place, name: str, ranks: int) -> subprocess.Popen[bytes]:
    """A run that would not end, and validates long after its fourth step."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", "accelerate_config.yaml", "--main_process_port", "0"]
    launch += ["--num_processes", str(ranks)]
    long = ("train.steps=100000", "evaluate.every_steps=4", "evaluate.max_samples=100000")
    if name.startswith("training"):
        long = ("train.steps=100000", "evaluate.every_steps=100000")
    return subprocess.Popen(
        [*launch, *training(place, name, *long, "checkpoint.every_steps=100000")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def last_step(folder: Path) -> int:
    return max((step["step"] for step in steps_of(folder)), default=0)


def in_training(folder: Path) -> bool:
    return last_step(folder) >= 6


def in_validation(folder: Path) -> bool:
    return last_step(folder) >= 4


def before_the_first_step(folder: Path) -> bool:
    return state_of(folder) != ""


def to_launcher(launcher: subprocess.Popen[bytes]) -> None:
    launcher.terminate()


def to_one_rank(launcher: subprocess.Popen[bytes]) -> None:
    below = psutil.Process(launcher.pid).children(recursive=True)
    training_ones = [one for one in below if "wdtrain/train.py" in one.cmdline()]
    training_ones[-1].terminate()


def ctrl_c(launcher: subprocess.Popen[bytes]) -> None:
    os.killpg(launcher.pid, signal.SIGINT)  # the whole group, as a terminal does


MOMENTS = {
    "training": in_training,
    "validation": in_validation,
    "first seconds": before_the_first_step,
}
WAYS = {"SIGTERM to the launcher": to_launcher, "to one rank": to_one_rank, "Ctrl-C": ctrl_c}


def wait_for(ready: Callable[[], bool]) -> float:
    """Seconds until it was so."""
    began = time.perf_counter()
    while not ready():
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise SystemExit("a run does not get there")
        time.sleep(0.01)
    return time.perf_counter() - began


def stop(place: Place, moment: str, way: str, ranks: int) -> tuple[float, float]:
    """Seconds until all is saved, and until the launcher has ended."""
    name = f"{moment}-{way}-{ranks}".replace(" ", "-")
    folder, launcher = place.folder / name, start(place, name, ranks)
    try:
        wait_for(lambda: MOMENTS[moment](folder))
        time.sleep(0.5)  # well into it
        began = time.perf_counter()
        WAYS[way](launcher)
        saved = wait_for(lambda: state_of(folder) != "running")
        launcher.wait(PATIENCE_SECONDS)
        ended = time.perf_counter() - began
    except BaseException:
        for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
            process.kill()
        raise
    newest = Checkpoints(folder / "checkpoints").latest()
    if state_of(folder) != "interrupted" or newest is None or newest.step != last_step(folder):
        raise SystemExit(f"{folder} is {state_of(folder)!r}, its newest checkpoint {newest}")
    return saved, ended


def main() -> int:
    reads = parser(__doc__)
    reads.add_argument("--ranks", default="1,2", help="numbers of processes (default 1,2)")
    options = reads.parse_args()
    print(f"{'':<50} {'saved':>8} {'ended':>8}")
    with opened(options) as place:
        for ranks, moment, way in itertools.product(options.ranks.split(","), MOMENTS, WAYS):
            saved, ended = stop(place, moment, way, int(ranks))
            case = f"{ranks} rank(s), {moment}, {way}"
            print(f"{case:<50} {saved:>6.2f} s {ended:>6.2f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
