"""Packing as tasks of a Ray cluster: the bytes of one machine, also when a worker is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.disks import Disks
from wdtrain.disk.failures import StoreError
from wdtrain.fields import Sample
from wdtrain.packing.pack import pack
from wdtrain.sources.folder import FolderSource

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ROOT = Path(__file__).resolve().parent.parent.parent
Read = Callable[[Path], dict[str, bytes]]
SMALL: dict[str, Any] = {"shard_samples": 50, "samples_per_block": 8, "max_rejects": 0.1}


@dataclass(frozen=True)
class Deadly(Disks):
    """Kills the process that first loads a certain sample, as the system does when memory ends."""

    deadly: int = 0
    mark: str = ""

    @property
    def description(self) -> dict[str, Any]:
        return Disks(count=self.count).description

    def load(self, index: int) -> Sample:
        if index == self.deadly and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A small Ray, as a program that uses it has started one: its address."""
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    started = ray.init(num_cpus=2, logging_level="ERROR", **quiet)
    yield started.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process packs of 200 disks, one of them broken."""
    target = tmp_path_factory.mktemp("whole") / "set"
    pack(Disks(count=200, broken=(7,)), target, **SMALL, processes=1)
    return target


@pytest.mark.usefixtures("cluster")
def test_ray_packs_the_bytes_of_one_process(
    tmp_path: Path, whole: Path, folder_bytes: Read
) -> None:
    seen: list[tuple[int, int]] = []
    pack(
        Disks(count=200, broken=(7,)),
        tmp_path / "set",
        **SMALL,
        engine="ray",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert folder_bytes(tmp_path / "set") == folder_bytes(whole)
    assert seen[-1] == (200, 200)
    assert ray.is_initialized(), "a Ray that was there before is left running"


@pytest.mark.usefixtures("cluster")
def test_a_lost_worker_changes_no_byte(tmp_path: Path, folder_bytes: Read) -> None:
    pack(Disks(count=200), tmp_path / "one", **SMALL, processes=1)
    mark = tmp_path / "mark"
    source = Deadly(count=200, deadly=123, mark=str(mark))
    pack(source, tmp_path / "set", **SMALL, engine="ray")
    assert mark.exists(), "a worker was killed in the middle of its task"
    assert folder_bytes(tmp_path / "set") == folder_bytes(tmp_path / "one")


@pytest.mark.usefixtures("cluster")
def test_too_many_rejects_stop_the_tasks_and_leave_nothing(tmp_path: Path) -> None:
    source = Disks(count=200, broken=tuple(range(0, 200, 4)))
    done = [0]
    options: dict[str, Any] = SMALL | {"max_rejects": 0.1, "processes": 1, "engine": "ray"}
    with pytest.raises(StoreError, match=r"(?s)of 200 samples cannot be packed.*on purpose"):
        pack(source, tmp_path / "set", **options, progress=lambda now, total: done.append(now))
    assert done[-1] < 200
    assert not (tmp_path / "set").exists()


@pytest.mark.usefixtures("cluster")
def test_parts_may_be_packed_by_ray(tmp_path: Path, whole: Path, folder_bytes: Read) -> None:
    source = Disks(count=200, broken=(7,))
    pack(source, tmp_path / "set", **SMALL, part=(1, 2), engine="ray", processes=1)
    pack(source, tmp_path / "set", **SMALL, part=(2, 2), engine="processes", processes=1)
    assert folder_bytes(tmp_path / "set") == folder_bytes(whole)


def test_without_the_extra_ray_is_one_clear_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from wdtrain.commands.pack_shards import main\n"
        "sys.exit(main(['playground:count=20,size=32', sys.argv[1], '--engine', 'ray']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: engine ray: ")
    assert "pip install 'wdtrain[ray]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_ctrl_c_stops_the_tasks_on_the_cluster_that_ray_address_names(
    tmp_path: Path, cluster: str
) -> None:
    code = (
        "import sys\n"
        "from wdtrain.commands import pack_shards\n"
        "arguments = ['playground:count=20000,size=64', sys.argv[1], '--engine', 'ray']\n"
        "status = pack_shards.main([*arguments, '--processes', '1', '--shard-samples', '20000'])\n"
        "import ray; assert not ray.is_initialized()\n"
        "sys.exit(status)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "set")],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "set").glob(".packing/train*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1:] == ["interrupted"]
    assert "Traceback" not in said
    left = [path.name for path in (tmp_path / "set").glob(".packing/*")]
    assert sorted(left) == ["lock", "plan"], "stopped in the middle, and nobody is at work"


@pytest.mark.parametrize("was_there", [False, True])
def test_only_a_ray_that_was_started_here_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: was_there)
    monkeypatch.setattr(ray, "init", lambda **named: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(StoreError, match="does not exist"):
        pack(partial(FolderSource, tmp_path / "nothing"), tmp_path / "set", engine="ray")
    assert calls == ([] if was_there else ["init", "shutdown"])
