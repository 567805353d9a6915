"""A reader can tell a run that goes from one that is dead."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from wdtrain.record import heartbeat, runlog
from wdtrain.record.heartbeat import Heartbeat, judge_status
from wdtrain.record.runlog import read_status, write_status


def status_of(folder, **changes) -> None:
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "heartbeat": time.time()}
    write_status(folder, "running", **{**facts, "heartbeat_seconds": 10.0, **changes})


def wait_for(ready) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_beats_until_it_has_ended(tmp_path):
    beating = Heartbeat(tmp_path, seconds=0.05)
    before = time.time() - 0.01
    beating.say("running", idle_steps={"depth": 2})
    first = read_status(tmp_path)
    assert (first["pid"], first["host"]) == (os.getpid(), socket.gethostname())
    assert first["heartbeat_seconds"] == 0.05
    assert before <= first["heartbeat"] <= time.time() + 0.01
    wait_for(lambda: read_status(tmp_path)["heartbeat"] > first["heartbeat"] + 0.2)
    assert read_status(tmp_path)["idle_steps"] == {"depth": 2}
    assert judge_status(tmp_path) == "running"
    beating.say("finished")
    last = read_status(tmp_path)
    time.sleep(0.3)
    assert read_status(tmp_path) == last
    assert judge_status(tmp_path) == "finished"
    beating.stop()


def test_it_beats_while_the_main_thread_computes(tmp_path):
    beating = Heartbeat(tmp_path, seconds=0.05)
    beating.say("running")
    first = read_status(tmp_path)["heartbeat"]
    until = time.monotonic() + 1.0
    while time.monotonic() < until:  # a validation, say
        sum(range(1000))
    assert read_status(tmp_path)["heartbeat"] > first + 0.2
    beating.stop()


def test_a_beat_says_nothing_over_what_another_rank_has_said(tmp_path):
    beating = Heartbeat(tmp_path, seconds=0.05)
    beating.say("running")
    write_status(tmp_path, "failed", "rank 0 does not answer", pid=1, host="other")
    time.sleep(0.3)
    assert judge_status(tmp_path) == "failed"
    beating.stop()


def test_a_disk_that_refuses_a_beat_gets_the_next(tmp_path, monkeypatch):
    beating = Heartbeat(tmp_path, seconds=0.05)
    beating.say("running")
    refusals = []

    def refuse(*_: object, **__: object) -> None:
        refusals.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "write_status", refuse)
        wait_for(lambda: len(refusals) > 2)
    last = read_status(tmp_path)["heartbeat"]
    wait_for(lambda: read_status(tmp_path)["heartbeat"] > last)
    beating.stop()


def test_a_process_that_is_gone_is_dead_however_fresh_its_beat(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    status_of(tmp_path, pid=int(gone.stdout))
    assert judge_status(tmp_path) == "dead"


def test_another_process_of_the_same_id_is_not_the_run(tmp_path):
    status_of(tmp_path)
    assert judge_status(tmp_path) == "running"
    status_of(tmp_path, heartbeat=time.time() - 10**7)  # long before this process began
    assert judge_status(tmp_path) == "dead"


def test_a_process_that_has_ended_and_was_not_asked_for_its_exit_code_is_dead(tmp_path):
    child = subprocess.Popen(["true"])
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    status_of(tmp_path, pid=child.pid)
    assert judge_status(tmp_path) == "dead"
    child.wait()


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(0, "running"), (29, "running"), (31, "dead"), (10**6, "dead"), (-60, "unknown host")],
)
def test_on_another_host_the_beat_decides(tmp_path, age, verdict):
    status_of(tmp_path, host="elsewhere", heartbeat=time.time() - age)
    assert judge_status(tmp_path) == verdict


def test_what_names_no_host_cannot_be_judged(tmp_path):
    assert judge_status(tmp_path) is None
    write_status(tmp_path, "running")
    assert judge_status(tmp_path) == "unknown host"
    write_status(tmp_path, "failed", "disk full")
    assert judge_status(tmp_path) == "failed"
    assert runlog.STATUS_NAME == "status.json"
