"""A run whose terminal closes, whose pipe nobody reads, whose disk is full: nothing is lost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.launchers import ranks, torchrun, wait
from tests.end_to_end.runs import Runs
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.record.heartbeat import judge_status

STEPS = ("train.steps=400", "checkpoint.every_steps=100", "evaluate.every_steps=400")


def on_terminal(runs: Runs, command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """The command as the leader of a terminal's session, and the terminal's other end."""
    outer, inner = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command,
        cwd=runs.folder,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        text=True,
        preexec_fn=take_terminal,  # noqa: PLW1509
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "TERM": "xterm"},
    )
    os.close(inner)
    runs.started.append(process)
    return process, outer


def read_on(outer: int, ready: Callable[[], bool]) -> None:
    """The terminal shows what comes, until it is ready."""
    os.set_blocking(outer, False)
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        try:
            os.read(outer, 1 << 16)
        except OSError:  # nothing to read; or nobody writes to it: nohup sends output elsewhere
            time.sleep(0.02)


def check_saved(runs: Runs, name: str, why: str) -> None:
    wait(runs, name, lambda: runs.status(name)["state"] != "running")
    assert runs.status(name) == {"state": "interrupted", "why": why}
    newest = Checkpoints(runs.folder / name / "checkpoints").latest()
    assert newest is not None
    assert newest.step == max(runs.losses(name)) < 400


def test_a_closed_terminal_saves(runs: Runs) -> None:
    command = runs.command("closed", *STEPS, "log.console=live")
    process, outer = on_terminal(runs, command)
    read_on(outer, runs.has_logged("closed", 5))
    os.close(outer)  # as when a window is closed, or ssh is dropped
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    check_saved(runs, "closed", "SIGHUP")


def test_a_closed_terminal_saves_two_ranks(runs: Runs) -> None:
    command = runs.command("closed", *STEPS, processes=2)
    process, outer = on_terminal(runs, command)
    read_on(outer, runs.has_logged("closed", 5))
    os.close(outer)
    process.wait(timeout=60)
    check_saved(runs, "closed", "SIGHUP")


def test_sighup_to_one_rank_saves_all(runs: Runs) -> None:
    process = runs.start("one", *STEPS, processes=2)
    runs.wait_until(process, runs.has_logged("one", 5))
    ranks(process)[1].send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    check_saved(runs, "one", "another rank was asked to stop")


# torch's launcher takes SIGHUP even where it is ignored, unless it is told not to.
DEAF = torchrun("--nproc-per-node", "2", "--standalone", "--signals-to-handle", "SIGTERM,SIGINT")


@pytest.mark.parametrize("launcher", [[sys.executable], DEAF], ids=["alone", "launcher"])
def test_under_nohup_a_closed_terminal_changes_nothing(
    runs: Runs, reference: Runs, launcher: list[str]
) -> None:
    process, outer = on_terminal(runs, ["nohup", *launcher, *runs.command("nohup")[1:]])
    read_on(outer, runs.has_logged("nohup", 2))
    os.close(outer)
    assert process.wait(timeout=120) == 0
    assert runs.status("nohup")["state"] == "finished"
    assert runs.losses("nohup").keys() == reference.losses("whole").keys()


def started(runs: Runs, name: str, *more: str, processes: int = 0) -> subprocess.Popen[bytes]:
    """Rank 0 and the others write to one pipe, of which nothing is read."""
    return subprocess.Popen(
        runs.command(name, *more, processes=processes),
        cwd=runs.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )


@pytest.mark.parametrize(("reader", "processes"), [("stuck", 2), ("gone", 0)])
def test_output_that_nobody_reads_neither_ends_nor_stalls_a_run(
    runs: Runs, reference: Runs, reader: str, processes: int
) -> None:
    with started(runs, "piped", processes=processes) as process:
        assert process.stdout is not None
        if reader == "gone":
            process.stdout.close()
        else:  # a pipe of one page is full at once
            fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 4096)
            os.set_blocking(process.stdout.fileno(), False)
        assert process.wait(timeout=120) == 0
        if reader == "stuck":
            assert len(process.stdout.read()) <= 4096
    assert runs.status("piped")["state"] == "finished"
    assert len(runs.losses("piped")) == 20
    if not processes:
        assert runs.losses("piped") == reference.losses("whole")


def test_an_error_to_a_closed_pipe_keeps_its_exit_code(runs: Runs) -> None:
    with started(runs, "wrong", "train.stepz=3") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 2


def test_the_status_tells_a_dead_run_from_a_running_one(runs: Runs) -> None:
    folder = runs.folder / "beating"
    process = runs.start("beating", *STEPS)
    runs.wait_until(process, runs.has_logged("beating", 3))
    status = json.loads((folder / "status.json").read_text())
    assert status["pid"] == process.pid
    assert status["heartbeat_seconds"] > 0
    assert abs(time.time() - status["heartbeat"]) < 60
    assert judge_status(folder) == "running"
    process.kill()
    process.communicate()
    assert runs.status("beating")["state"] == "running"
    assert judge_status(folder) == "dead"


FULL = """
import os, pathlib, sys
sys.path.insert(0, {root!r})
real = pathlib.Path.write_text
def full(self, *more, **named):
    if self.name == "checkpoint.json" and "00000010" in str(self):
        raise OSError(28, "No space left on device")
    return real(self, *more, **named)
if os.environ.get("RANK", "0") == "0":
    pathlib.Path.write_text = full
import torch
saved = torch.save
def refused(what, where, *more, **named):
    if os.environ.get("RANK") == "1" and "00000010" in str(where):
        pathlib.Path(where).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    return saved(what, where, *more, **named)
torch.save = refused
from wdtrain import train
sys.exit(train.main())
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_a_full_disk_in_a_save_is_told_and_leaves_nothing_begun(
    runs: Runs, reference: Runs, processes: int
) -> None:
    """One rank: the manifest cannot be written; two: rank 1 cannot write its part."""
    script = runs.folder / "full.py"
    script.write_text(FULL.format(root=str(Path(__file__).resolve().parents[2])))
    process = runs.start("full", processes=processes, script=script)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == (1 if processes else 2), output
    folder = runs.folder / "full"
    status = runs.status("full")
    assert status["state"] == "failed"
    assert str(Path("full") / "checkpoints" / ".saving-00000010") in status["why"]
    assert ("rank 1: " in status["why"]) == bool(processes)
    assert "No space left" in status["why"] or processes
    assert f"error: {status['why']}" in output
    assert all(path.name.startswith("step-") for path in (folder / "checkpoints").iterdir())
    assert not list(folder.glob("*.partial"))
    runs.finish("full")  # with room again
    assert len(runs.losses("full")) == 20
    if not processes:
        assert runs.losses("full") == reference.losses("whole")


def test_a_disk_that_runs_full_is_told_in_its_own_last_bytes(runs: Runs) -> None:
    """Where a small file system can be mounted: it is filled by somebody else in mid-training."""
    small = runs.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        process = runs.start("small/run", *STEPS)
        runs.wait_until(process, runs.has_logged("small/run", 5))
        with (small / "other").open("wb", buffering=0) as other:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        other.write(bytes(size))
                except OSError:
                    continue
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 2, output
        status = runs.status("small/run")
        assert status["state"] == "failed"
        assert "No space left on device" in status["why"]
        assert "small/run" in status["why"]
        assert f"error: {status['why']}" in output
        lines = (small / "run" / "metrics.jsonl").read_text()
        assert lines.endswith("}\n")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_a_damaged_line_of_the_log_is_said_on_resume(runs: Runs, reference: Runs) -> None:
    runs.copy(reference, "whole")
    folder = runs.folder / "whole"
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:30] + b"\0" * 9 + b"\n"
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    (folder / "status.json").write_text('{"state": "interrupted", "why": "power"}')
    output = runs.finish("whole")
    assert "warning: whole/metrics.jsonl, line 3 is damaged" in output


def test_ranks_that_take_turns_are_told_so_at_the_start(runs: Runs) -> None:
    output = runs.finish("turns", "train.batch_size=4", "train.steps=2", processes=2)
    assert output.count("warning: uneven: 2 ranks share 1 chunk of a batch (balance 0.50)") == 1
    assert "train.batch_size=8 or data.chunk=2" in output
    lines = (runs.folder / "turns" / "metrics.jsonl").read_text().splitlines()
    (said,) = [line for line in map(json.loads, lines) if "warning" in line]
    assert said["step"] == 0
    assert "would do" in said["warning"]
