"""Laws of the run folder: lines, cut back, status, recipe."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.disk import durable
from wdtrain.disk.failures import RunError
from wdtrain.record import runlog
from wdtrain.record.runlog import RunLog, read_log, read_status, save_config, write_status


def write_log(folder, steps) -> None:
    with RunLog(folder) as log:
        for step in steps:
            log.append({"step": step, "loss/mask": 1 / step})


def steps_of(folder) -> list[int]:
    return [record["step"] for record in read_log(folder)]


def test_lines_are_read_back_as_written(tmp_path):
    with RunLog(tmp_path / "run") as log:
        log.append({"step": 1, "loss/mask": 0.1 + 0.2, "keys": ["a", "b"]})
        log.append({"step": 2, "loss/mask": float("nan"), "more": {"x": float("inf")}})
        assert steps_of(tmp_path / "run") == [1, 2]  # flushed line by line
    first, second = read_log(tmp_path / "run")
    assert first == {"step": 1, "loss/mask": 0.1 + 0.2, "keys": ["a", "b"]}
    assert second == {"step": 2, "loss/mask": None, "more": {"x": None}}
    assert list(read_log(tmp_path / "nothing")) == []


@settings(max_examples=30, deadline=None)
@given(last=st.integers(0, 12), step=st.integers(0, 14), torn=st.integers(0, 25))
def test_a_resume_cuts_the_log_back_to_its_step(tmp_path_factory, last, step, torn):
    folder = tmp_path_factory.mktemp("run")
    write_log(folder, range(1, last + 1))
    uncut = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps({"step": last + 1, "loss/mask": 0.5}).encode()[:torn])
    with RunLog(folder) as log:
        assert log.cut_back(step) == max(0, last - step)
        log.append({"step": step + 1})
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert lines[:-1] == uncut[:step]
    assert json.loads(lines[-1]) == {"step": step + 1}


@pytest.mark.parametrize("step", [0, 2])
def test_the_warnings_of_starts_that_saved_nothing_do_not_pile_up(tmp_path, step):
    with RunLog(tmp_path) as log:
        log.append({"step": 0, "warning": "the first start"})
        for number in range(1, step + 1):
            log.append({"step": number})
    for start in range(3):
        with RunLog(tmp_path) as log:
            log.cut_back(step)
            log.append({"step": step, "warning": f"start {start}"})
            log.append({"step": step + 1})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    said = [record["warning"] for record in records if "warning" in record]
    assert said == (["the first start"] if step else []) + ["start 2"]
    assert [record["step"] for record in records if "warning" not in record] == [
        *range(1, step + 2)
    ]


@pytest.mark.parametrize("torn", [b'{"step": 4, "loss', b"x" * 100_000, b'{"step": 4}'])
def test_a_torn_last_line_is_cut_off_when_the_log_is_opened(tmp_path, torn):
    write_log(tmp_path, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [1, 2, 3]
    write_log(tmp_path, [4])
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_line_is_said_with_its_number_and_cut(tmp_path):
    write_log(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\0\0\n[1]\n")
    write_log(tmp_path, [3])
    with pytest.warns(UserWarning, match="is damaged") as said:
        assert steps_of(tmp_path) == [1, 2, 3]
    for number, warning in zip((3, 4), said, strict=True):
        assert f"metrics.jsonl, line {number} is damaged" in str(warning.message)
    with RunLog(tmp_path) as log:
        assert log.cut_back(3) == 2
        assert ["line 3" in log.damaged[0], "line 4" in log.damaged[1]] == [True, True]
        assert log.cut_back(3) == 0
        assert log.damaged == []
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part(tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from wdtrain.record.runlog import RunLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with RunLog(sys.argv[1]) as log:\n"
        "    for step in range(100):\n"
        "        log.append({'step': step})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "OSError" in done.stderr
    assert f"File too large: '{tmp_path / 'metrics.jsonl'}'" in done.stderr
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    assert len(steps_of(tmp_path)) > 50


@pytest.mark.parametrize("why", ["disk full", "x" * 100_000])
def test_the_status_can_be_told_where_the_disk_is_full(tmp_path, monkeypatch, why):
    write_status(tmp_path, "running", "a longer reason than the one that follows", pid=1)
    allocated = (tmp_path / "status.json").stat().st_blocks

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runlog, "write_whole", full)
    write_status(tmp_path, "failed", why)
    found = read_status(tmp_path)
    assert found["state"] == "failed"
    assert why.startswith(found["why"])
    assert len(found["why"]) >= min(len(why), 1000)
    assert (tmp_path / "status.json").stat().st_blocks == allocated


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_cut_back_that_fails_leaves_the_log_as_it_was(tmp_path, monkeypatch, operation):
    write_log(tmp_path, range(1, 9))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    log = RunLog(tmp_path)

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(durable.os, operation, fail)
    with pytest.raises(OSError, match="No space"):
        log.cut_back(3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_sync_puts_the_lines_on_disk(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    with RunLog(tmp_path) as log:
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real(fd)))
        log.append({"step": 1})
        assert synced == []
        log.sync()
        assert os.stat(tmp_path / "metrics.jsonl").st_ino in synced
        assert os.stat(tmp_path).st_ino in synced


def test_other_ranks_touch_nothing(tmp_path):
    with RunLog(tmp_path / "run", active=False) as log:
        log.append({"step": 1})
        log.sync()
        assert log.cut_back(0) == 0
    assert not (tmp_path / "run").exists()


def test_a_line_without_a_step_is_refused(tmp_path):
    with RunLog(tmp_path) as log, pytest.raises(RunError, match="no whole number under 'step'"):
        log.append({"loss/mask": 1.0})


def test_status_says_how_the_run_stands_and_is_only_ever_whole(tmp_path, monkeypatch):
    assert read_status(tmp_path) is None
    write_status(tmp_path, "running")
    monkeypatch.setattr(durable.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_status(tmp_path, "failed", "disk full")
    monkeypatch.undo()
    assert read_status(tmp_path) == {"state": "running", "why": ""}
    write_status(tmp_path, "interrupted", "SIGTERM", step=7)
    assert read_status(tmp_path) == {"state": "interrupted", "why": "SIGTERM", "step": 7}
    with pytest.raises(RunError, match="must be one of running, interrupted"):
        write_status(tmp_path, "done")  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_a_status_that_is_not_ours_is_refused(tmp_path, body):
    (tmp_path / "status.json").write_bytes(body)
    with pytest.raises(RunError, match="delete it"):
        read_status(tmp_path)


def test_the_resolved_recipe_is_kept(tmp_path):
    path = save_config(tmp_path / "run", "train:\n  steps: 3\n")
    assert path == tmp_path / "run" / "config.yaml"
    assert path.read_text() == "train:\n  steps: 3\n"
