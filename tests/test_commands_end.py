"""How every tool ends when what it writes is not read to the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wdtrain.commands import UNREAD, run_command

ROOT = Path(__file__).resolve().parent.parent


def unread(*command: object) -> tuple[int, str]:
    """(exit code, stderr) of a command whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            list(map(str, command)), stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("name", ["pack-shards", "inspect-shards", "bench-stream"])
def test_a_tool_whose_help_nobody_reads_says_nothing_more(name: str) -> None:
    assert unread(sys.executable, ROOT / "tools" / name, "--help")[1] == ""


def test_a_tool_ends_without_a_word_when_nobody_reads_it(tmp_path: Path) -> None:
    """Through plain prints, through rich, and with output that waits for the last flush."""
    where = tmp_path / "set"
    pack = [sys.executable, ROOT / "tools" / "pack-shards"]
    assert unread(*pack, "playground:count=40,size=32", where, "--processes", 1) == (UNREAD, "")
    for action in ("show", "verify", "audit"):
        look = [sys.executable, ROOT / "tools" / "inspect-shards", action, where]
        assert unread(*look) == (UNREAD, ""), action
        assert unread(look[0], "-u", *look[1:]) == (UNREAD, ""), action


def test_a_pipe_that_broke_elsewhere_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def upload() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    assert run_command(upload) == 2
    assert capsys.readouterr().err.startswith("error: Broken pipe")


def test_what_is_secret_in_an_argument_is_told_in_no_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise ValueError("no answer to s3(cr3t)s1g")

    monkeypatch.setattr(sys, "argv", ["predict", "--data=https://host/d?sig=s3(cr3t)s1g"])
    assert run_command(fails) == 2
    assert capsys.readouterr().err == "error: no answer to ...\n"
