"""Laws of the run lock: one holder, named; it dies with its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from wdtrain.disk.failures import RunError
from wdtrain.record.run_lock import RunLock, lock_holder

HOLDER = """
import sys, time
from wdtrain.record.run_lock import RunLock
RunLock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(60)
"""


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_start_waits_and_then_says_who_holds_the_run(tmp_path, holder):
    clock = Clock()
    with pytest.raises(RunError) as refusal:
        RunLock(tmp_path, clock=clock, sleep=clock.sleep).acquire()
    assert 15.0 <= clock.now < 15.5
    assert f"process {holder.pid} on {socket.gethostname()}" in str(refusal.value)
    assert "another run.folder" in str(refusal.value)


def test_the_lock_dies_with_its_process_however_it_was_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path, wait_seconds=0) as lock:
        assert str(os.getpid()) in lock.path.read_text()


def test_a_second_start_takes_over_while_it_waits(tmp_path, holder):
    clock = Clock()

    def kill_after_a_second(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 1:
            holder.kill()
            holder.wait()

    with RunLock(tmp_path, clock=clock, sleep=kill_after_a_second):
        assert clock.now < 2


def test_released_it_can_be_held_again_and_names_nobody(tmp_path):
    lock = RunLock(tmp_path / "new" / "run", wait_seconds=0)
    with lock, pytest.raises(RunError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path / "new" / "run", wait_seconds=0).acquire()
    assert lock.path.read_bytes() == b"{}"
    with lock:
        pass
    lock.release()  # a second release does nothing


def test_files_that_no_run_wrote_are_not_written_over(tmp_path):
    for name in ("config.yaml", "metrics.jsonl", "report.md", "status.json", "lock"):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / name).write_text("mine: 1\n")
        with pytest.raises(RunError, match=f"holds {name} and nothing by which a run is known"):
            RunLock(folder).acquire()
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "mine: 1\n"


@pytest.mark.parametrize("what", ["released", "killed", "status", "checkpoint", "others"])
def test_a_run_is_known_by_what_is_left_of_it(tmp_path, what):
    """However it ended, and if only its checkpoints were brought here; recipes may lie there."""
    if what == "released":
        with RunLock(tmp_path):
            pass
    elif what == "killed":
        (tmp_path / "lock").write_text('{"pid": 1, "host": "gone"}')
    elif what == "status":
        (tmp_path / "status.json").write_text('{"state": "finished", "why": ""}')
    elif what == "checkpoint":
        (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "my-recipe.yaml").write_text("mine")
    if what != "others":
        (tmp_path / "config.yaml").write_text("of the run")
    for _ in range(2):
        with RunLock(tmp_path):
            assert str(os.getpid()) in lock_holder(tmp_path)
        assert (tmp_path / "lock").read_text() == "{}"
    assert (tmp_path / "my-recipe.yaml").read_text() == "mine"


def test_an_empty_lock_is_nobodys_loss(tmp_path):
    (tmp_path / "lock").write_bytes(b"")  # killed right after it was made
    with RunLock(tmp_path):
        assert str(os.getpid()) in lock_holder(tmp_path)
