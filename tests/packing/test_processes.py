"""Packing processes that die, and samples announced before they are loaded."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import SemLock
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import Disks, write_folder
from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError, Sample, announce
from wdtrain.packing.pack import pack
from wdtrain.sources.folder import FolderSource

ROOT = Path(__file__).resolve().parent.parent.parent
Read = Callable[[Path], dict[str, bytes]]
SMALL: dict[str, Any] = {"processes": 2, "shard_samples": 50, "samples_per_block": 8}
UNGUARDED = """
import sys
from tests.disks import Disks
from wdtrain.packing.pack import pack
twins = {index: index + 1 for index in range(1000, 40_000)}
pack(Disks(count=300, twins=twins), sys.argv[1], processes=2, shard_samples=50)
"""
HOLDING = """
import sys
from tests.packing.test_processes import SMALL, Troubled
from wdtrain.packing.pack import pack
if __name__ == "__main__":
    pack(Troubled(count=200, trouble="holding every lock"), sys.argv[1], **SMALL)
"""


@dataclass(frozen=True)
class Troubled(Disks):
    """At its hundredth sample, what `trouble` says."""

    trouble: str = ""

    def load(self, index: int) -> Sample:
        if index == 100 and self.trouble == "holding every lock":
            hold_every_lock()
        if index == 100 and self.trouble != "defect":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 100:
            raise ZeroDivisionError("a defect of the source")
        return super().load(index)


def test_a_killed_process_is_a_clear_error_and_packing_goes_on_after(
    tmp_path: Path, folder_bytes: Read
) -> None:
    pack(Disks(count=200), tmp_path / "whole", **SMALL)
    with pytest.raises(StoreError, match=r"a packing process died .* the same command goes on"):
        pack(Troubled(count=200, trouble="killed"), tmp_path / "set", **SMALL)
    assert not (tmp_path / "set" / "manifest.json").exists()
    with pytest.raises(ZeroDivisionError) as caught:
        pack(Troubled(count=200, trouble="defect"), tmp_path / "other", **SMALL)
    assert "test_processes.py" in caught.value.__notes__[0], "where it was"


def hold_every_lock() -> None:
    """Takes whatever locks this process shares with others, as if it were inside of all of them."""
    for thing in gc.get_objects():
        if isinstance(thing, SemLock):
            thing._semlock.acquire(False)  # type: ignore[attr-defined]


def test_a_process_that_is_killed_inside_a_lock_leaves_nobody_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "set")]
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = process.communicate(timeout=30)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "StoreError: a packing process died" in said


def test_processes_that_die_while_they_start_are_not_waited_for(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` packs again in each process it starts."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, "script.py", "set"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    said = done.stderr.splitlines()[-1]
    assert "a packing process died" in said
    assert "outside of `if __name__ == '__main__':`?" in said


def test_processes_end_when_there_is_nothing_to_pack(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=4))
    (folder / "triples.json").write_text("no JSON")
    started = time.monotonic()
    with pytest.raises(StoreError, match="is not readable JSON"):
        pack(FolderSource(folder), tmp_path / "set", **SMALL)
    assert time.monotonic() - started < 30


@given(st.integers(0, 100))
def test_each_sample_is_announced_once_some_time_before_it_comes(count: int) -> None:
    announced: list[int] = []
    indices = [7 * index % 101 for index in range(count)]
    for place, index in enumerate(announce.prefetched(indices, announced.append)):
        assert index == indices[place]
        assert announced == indices[: place + 1 + announce.SAMPLES_AHEAD]
    assert announced == indices


def test_a_folder_is_read_ahead_while_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=60))
    expected: list[int] = []
    prefetch = FolderSource.prefetch
    monkeypatch.setattr(
        FolderSource, "prefetch", lambda self, i: (expected.append(i), prefetch(self, i))
    )
    pack(FolderSource(folder), tmp_path / "set", **SMALL | {"processes": 1})
    assert sorted(expected) == list(range(60))


def test_files_that_are_not_there_are_announced_without_harm(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=4))
    source = FolderSource(folder)
    (folder / "disk-000002.json").unlink()  # which a sample need not have
    for path in sorted(folder.glob("disk-000002.*")):
        held = path.read_bytes()
        path.unlink()
        source.prefetch(2)
        with pytest.raises(FieldError, match=f"missing {path.suffixes[0][1:]}"):
            source.load(2)
        path.write_bytes(held)
    source.prefetch(2)
    assert source.load(2).key == "disk-000002"
