"""`kill -9` at any moment, and the same command again: the same bytes, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.disks import Disks
from wdtrain.fields import Sample

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = """
import sys
from tests.disks import Disks
from wdtrain.packing.pack import pack
pack(Disks(count=1200), sys.argv[1], processes=2, shard_samples=60, samples_per_block=8)
"""


STUCK = """
import sys
from tests.packing.test_kill import Stuck
from wdtrain.packing.pack import pack
pack(Stuck(count=300, mark=sys.argv[1] + ".mark"), sys.argv[1], processes=2, shard_samples=50)
"""


@dataclass(frozen=True)
class Stuck(Disks):
    """Takes a minute over its hundredth sample, and leaves a mark before."""

    mark: str = ""

    def load(self, index: int) -> Sample:
        if index == 100:
            Path(self.mark).touch()
            time.sleep(60)
        return super().load(index)


def start(
    target: Path, stderr: int | None = None, script: str = COMMAND
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, str(target)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=stderr)


def living_in(session: int) -> list[int]:
    """Processes of a session, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def finished_in(target: Path) -> list[Path]:
    """Whole shards, wherever they wait for the manifest."""
    return [*target.glob("*.tar.zst"), *target.glob(".packing/*.tar.zst")]


def wait_for_all(session: int, deadline: float) -> None:
    while living_in(session):
        assert time.monotonic() < deadline, "packing processes outlive their parent"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("whole") / "set"
    assert start(target).wait() == 0
    return target


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc to find processes left behind")
@pytest.mark.parametrize("shards_before", [0, 1, 7])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path,
    whole: Path,
    folder_bytes: Callable[[Path], dict[str, bytes]],
    shards_before: int,
) -> None:
    target = tmp_path / "set"
    process = start(target)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(finished_in(target)) >= shards_before and (target / ".packing").exists():
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed in the middle"
    wait_for_all(process.pid, deadline)

    assert not (target / "manifest.json").exists()
    expected = folder_bytes(whole)
    finished = {path.name: path.stat().st_ino for path in finished_in(target)}
    for path in finished_in(target):
        assert path.read_bytes() == expected[path.name]
    marked = {path.name.removesuffix(".json") for path in target.glob(".packing/*.zst.json")}

    assert start(target).wait() == 0
    assert folder_bytes(target) == expected
    for name in marked:
        assert (target / name).stat().st_ino == finished[name], "a finished shard is packed again"


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc to find processes left behind")
def test_processes_end_with_their_parent_in_the_middle_of_a_sample(tmp_path: Path) -> None:
    process = start(tmp_path / "set", script=STUCK)
    deadline = time.monotonic() + 30
    while not (tmp_path / "set.mark").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    wait_for_all(process.pid, time.monotonic() + 10)


@pytest.mark.parametrize("shards_before", [0, 1])
def test_ctrl_c_stops_all_processes_and_can_be_gone_on_from(
    tmp_path: Path,
    whole: Path,
    folder_bytes: Callable[[Path], dict[str, bytes]],
    shards_before: int,
) -> None:
    target = tmp_path / "set"
    process = start(target, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(living_in(process.pid)) < 4 or len(finished_in(target)) < shards_before:
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0 if shards_before else 0.15)  # while the packing processes are still importing
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0
    wait_for_all(process.pid, deadline)
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read().count(b"Traceback") == 1, "only the script's own"
    assert not list(target.glob(".packing/*.part"))
    assert start(target).wait() == 0
    assert folder_bytes(target) == folder_bytes(whole)
