"""Whatever takes a run away, and whenever: a whole checkpoint, a status, and the same numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.runs import Runs
from tests.remote.servers import FaultyServer
from wdtrain.record.checkpoint import Checkpoints

NETWORK = """
import time

from tiny_network import TinyDepth


class SlowToLookAt(TinyDepth):
    def forward(self, picture):
        if not self.training:
            time.sleep(0.1)
        return super().forward(picture)
"""
PROBING = """
import sys
import time
from pathlib import Path

from wdtrain import train
from wdtrain.job import Run


class Gauge:
    budget_bytes = 2**40

    def restart(self):
        Path("probing").touch()

    def peak_bytes(self):
        time.sleep(1.0)
        return 2**20

    def now(self):
        return time.perf_counter()


Run.fit = lambda run: run.fitting.fit(Gauge())
sys.exit(train.main())
"""
LIMIT_SECONDS = 10.0
SLACK = 3.0
"""The limit is for a machine that does nothing else; tests run side by side."""


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes below a launcher, by rank."""
    below = psutil.Process(process.pid).children(recursive=True)
    training = [one for one in below if any("train.py" in word for word in one.cmdline()[:3])]
    return sorted(training, key=lambda one: int(one.environ().get("RANK", "0")))


def check_interrupted(runs: Runs, name: str, why: str, since: float) -> int:
    """The run stands as interrupted in time, with all that it logged in a whole checkpoint."""
    folder = runs.folder / name
    deadline = since + SLACK * LIMIT_SECONDS
    while runs.status(name)["state"] == "running":
        assert time.monotonic() < deadline, "no status in time"
        time.sleep(0.02)
    assert runs.status(name) == {"state": "interrupted", "why": why}
    newest = Checkpoints(folder / "checkpoints").latest()
    assert newest is not None
    assert newest.step == max(runs.losses(name), default=0)
    return newest.step


def to_launcher(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def to_rank_1(process: subprocess.Popen[str]) -> None:
    workers(process)[1].send_signal(signal.SIGTERM)


def to_all(process: subprocess.Popen[str]) -> None:
    for one in [*workers(process), psutil.Process(process.pid)]:
        one.send_signal(signal.SIGTERM)


def ctrl_c(process: subprocess.Popen[str]) -> None:
    for one in [psutil.Process(process.pid), *workers(process)]:  # as a terminal does
        one.send_signal(signal.SIGINT)


SIGNALS: dict[Callable[[subprocess.Popen[str]], None], set[str]] = {
    to_launcher: {"SIGTERM"},
    to_rank_1: {"another rank was asked to stop"},
    to_all: {"SIGTERM"},
    ctrl_c: {"Ctrl-C", "SIGTERM"},  # the launcher passes it on as SIGTERM, and may be first
}


@pytest.mark.parametrize("send", SIGNALS, ids=lambda send: send.__name__)
def test_two_ranks_that_are_asked_to_stop_save_and_go_on(
    runs: Runs, reference: Runs, send: Callable[[subprocess.Popen[str]], None]
) -> None:
    process = runs.start("stopped", processes=2)
    runs.wait_until(process, runs.has_logged("stopped", 3))
    since = time.monotonic()
    send(process)
    process.communicate(timeout=200)
    assert process.returncode != 0
    why = runs.status("stopped")["why"]
    assert why in SIGNALS[send]
    assert 3 < check_interrupted(runs, "stopped", why, since) < 20
    if send is to_rank_1:
        runs.finish("stopped")
        losses, expected = runs.losses("stopped"), reference.losses("whole")
        assert losses.keys() == expected.keys()
        for step, pair in losses.items():
            assert pair == pytest.approx(expected[step], rel=0, abs=1e-8)


def test_ctrl_c_twice_ends_at_once_and_says_that_something_is_lost(runs: Runs) -> None:
    slow(runs)
    process = runs.start("twice", *SLOW)
    runs.wait_until(process, runs.has_logged("twice", 4))
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)  # at once would be taken for one Ctrl-C that came twice
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode in (130, -signal.SIGINT)  # the latter at the very end of Python
    assert "Traceback" not in output
    assert runs.status("twice")["state"] == "interrupted"
    assert runs.status("twice")["why"] in ("Ctrl-C", "Ctrl-C twice: what was not saved is lost")


SLOW = ("tasks.depth.network=slow_network:SlowToLookAt", "evaluate.max_samples=400")


def slow(runs: Runs) -> None:
    (runs.folder / "slow_network.py").write_text(NETWORK)


def test_a_signal_during_evaluation_does_not_wait_for_its_end(runs: Runs) -> None:
    slow(runs)
    process = runs.start("looking", *SLOW, "evaluate.batch_size=4")
    runs.wait_until(process, runs.has_logged("looking", 4))  # written when validation begins
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert check_interrupted(runs, "looking", "SIGTERM", since) == 4
    assert not any("validation" in line for line in lines(runs, "looking"))
    (runs.folder / "slow_network.py").write_text(NETWORK.replace("0.1", "0.0"))
    runs.finish("looking", *SLOW, "evaluate.batch_size=4")
    validated = [line for line in lines(runs, "looking") if '"validation/' in line]
    # What was broken off is done again, for the same step.
    assert [json.loads(line)["step"] for line in validated] == [4, 8, 12, 16, 20]


def lines(runs: Runs, name: str) -> list[str]:
    return (runs.folder / name / "metrics.jsonl").read_text().splitlines()


def test_a_signal_while_data_is_waited_for_does_not_wait_for_it(runs: Runs) -> None:
    stuck: list[int] = []
    with FaultyServer(Path(runs.data), lambda asked: "hang" if stuck else None) as server:
        runs.data = server.url
        # Quiet, since nobody reads what it prints: it would wait for that instead.
        long = ("train.steps=100000", "evaluate.every_steps=100000", "log.plain_seconds=1000")
        # Blocks are not kept; and quick, to need more than was read ahead, which is many epochs of
        # so little data.
        long += ("data.shuffle_bytes=1",)
        long += ("train.batch_size=240", "evaluate.batch_size=24", "checkpoint.every_steps=100000")
        long += (
            "tasks.mask.network=tiny_network:TinyDepth",
            "tasks.mask.loss=l1",
            "precision=fp32",
        )
        process = runs.start("waiting", *long)
        runs.wait_until(process, runs.has_logged("waiting", 3))
        stuck.append(1)
        wait_until_idle(process)
        since = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert check_interrupted(runs, "waiting", "SIGTERM", since) > 3
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        server.ended.set()


def wait_until_idle(process: subprocess.Popen[str]) -> None:
    """What was read ahead is used up: nothing is computed any more."""
    for _ in range(600):
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(0.3)
        if sum(psutil.Process(process.pid).cpu_times()[:2]) - before < 0.05:
            return
    raise AssertionError("the run goes on although its data hangs")


def test_a_signal_before_the_first_step_leaves_a_checkpoint_of_step_0(runs: Runs) -> None:
    process = runs.start("early")
    status = runs.folder / "early" / "status.json"
    runs.wait_until(process, status.exists)
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert check_interrupted(runs, "early", "SIGTERM", since) <= 2
    runs.finish("early")


def test_a_signal_to_one_of_two_ranks_during_the_probes_ends_both(runs: Runs) -> None:
    script = runs.folder / "train.py"
    script.write_text(PROBING)  # there is no device here that is probed: one that only tells
    process = runs.start("probed", processes=2, script=script)
    runs.wait_until(process, (runs.folder / "probing").exists)
    since = time.monotonic()
    to_rank_1(process)
    said = process.communicate(timeout=60)[0]
    assert check_interrupted(runs, "probed", "another rank was asked to stop", since) == 0
    assert "batch 24 =" not in said  # of the plan, which comes next
    assert "batch 24 =" in runs.finish("probed")
