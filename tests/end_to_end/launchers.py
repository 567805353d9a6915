"""Jobs of several processes, as accelerate and torchrun start them, and their processes by rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch.distributed as dist
from torch import cuda

from tests.end_to_end.runs import Runs

PATIENCE_SECONDS = 200.0


def accelerate(*options: str) -> list[str]:
    """The launcher of the README on CPU, at a port of its own unless told one."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    port = [] if "--main_process_port" in options else ["--main_process_port", "0"]
    return [*command, *port, *options]


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


def free_port() -> int:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port


def start(
    runs: Runs, launcher: list[str], name: str, *overrides: str, where: Path | None = None
) -> subprocess.Popen[str]:
    """A run of the tiny recipe by a launcher; its output goes to NAME-NUMBER.txt in the folder.

    where: the working folder, in which run folders lie; None: the runs' own.
    """
    _, *script = runs.command(name, *overrides)
    number = len(runs.started)
    with (runs.folder / f"{name}-{number}.txt").open("w") as output:
        process = subprocess.Popen(
            [*launcher, *script],
            cwd=where or runs.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            # Without a GPU nothing has to be said; with one, these pictures are too small for it.
            env={**os.environ, **({"ACCELERATE_USE_CPU": "true"} if cuda.is_available() else {})},
        )
    runs.started.append(process)
    return process


def output(runs: Runs, name: str) -> str:
    """What all launchers of a run have printed."""
    return "\n".join(path.read_text() for path in sorted(runs.folder.glob(f"{name}-[0-9].txt")))


def ranks(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The living training processes of a launcher, by rank."""
    found = {}
    for process in psutil.Process(launcher.pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and "RANK" in process.environ():
                found[int(process.environ()["RANK"])] = process
        except psutil.Error:
            continue  # it ended while it was looked at
    return found


def send(launcher: subprocess.Popen[str], rank: int, number: signal.Signals) -> int:
    """A signal goes to one rank; returns its process id."""
    process = ranks(launcher)[rank]
    process.send_signal(number)
    return process.pid


def listens(launcher: subprocess.Popen[str], port: int) -> bool:
    """Whether the launcher itself keeps this port, where the others meet it."""
    connections = psutil.Process(launcher.pid).net_connections(kind="tcp")
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def wait(runs: Runs, name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < deadline, output(runs, name)
        time.sleep(0.05)


def finish(runs: Runs, name: str, *launchers: subprocess.Popen[str]) -> None:
    """All launchers end well, and so did the run."""
    for launcher in launchers:
        assert launcher.wait(timeout=PATIENCE_SECONDS) == 0, output(runs, name)
    assert runs.status(name)["state"] == "finished"
