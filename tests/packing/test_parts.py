"""Packing in parts, on as many machines as there are: the bytes of one machine, whoever is last."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.disks import Disks, write_folder
from wdtrain.commands import pack_shards
from wdtrain.disk.failures import StoreError
from wdtrain.disk.machine import this_machine
from wdtrain.packing import staging
from wdtrain.packing.jobs import ShardRunner
from wdtrain.packing.pack import pack
from wdtrain.packing.parts import PackingPart, PartDone
from wdtrain.packing.splits import Holdout
from wdtrain.store.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent.parent
Read = Callable[[Path], dict[str, bytes]]
TROUBLE = Disks(count=120, backgrounds=6, cutouts=5, broken=(7, 50), twins={110: 3, 60: 61, 20: 21})
SMALL: dict[str, Any] = {
    "processes": 1,
    "shard_samples": 20,
    "samples_per_block": 8,
    "max_rejects": 0.1,
    "holdout": Holdout(pairs=0),
}
TINY = Disks(count=16, backgrounds=3, cutouts=3, twins={12: 3})
NO_HOLDOUT = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)
FEW: dict[str, Any] = SMALL | {"shard_samples": 8, "max_rejects": 0.2, "holdout": NO_HOLDOUT}
COMMAND = """
import sys
from tests.disks import Disks
from wdtrain.packing.pack import pack
part = int(sys.argv[2]), 3
source = Disks(count=900, broken=(5,), twins={800: 3})
pack(source, sys.argv[1], processes=1, shard_samples=60, max_rejects=0.1, part=part)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one machine packs of TROUBLE."""
    target = tmp_path_factory.mktemp("whole") / "set"
    pack(TROUBLE, target, **SMALL)
    return target


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_parts_in_any_order_give_the_bytes_of_one_machine(
    tmp_path: Path, whole: Path, folder_bytes: Read, order: tuple[int, ...]
) -> None:
    target = tmp_path / "set"
    for number in order[:-1]:
        done = pack(TROUBLE, target, **SMALL, part=(number, 3))
        assert isinstance(done, PartDone)
        assert done.finished < done.shards
        assert [path.name for path in target.iterdir()] == [".packing"]
    last = pack(TROUBLE, target, **SMALL, part=(order[-1], 3))
    assert isinstance(last, Manifest)
    assert last.rejects["reasons"] == {"broken": 2, "duplicate key": 3}
    assert folder_bytes(target) == folder_bytes(whole)


@pytest.mark.parametrize(
    "parts",
    [[(1, 1)], [(1, 2), (1, 2), (2, 2)], [(1, 2), (2, 3), (1, 3), (3, 3)], [(30, 30), (1, 1)]],
)
def test_parts_may_be_given_twice_and_cut_otherwise_meanwhile(
    tmp_path: Path, whole: Path, folder_bytes: Read, parts: list[tuple[int, int]]
) -> None:
    packed = [pack(TROUBLE, tmp_path / "set", **SMALL, part=part) for part in parts]
    assert [isinstance(done, Manifest) for done in packed[:-1]] == [False] * (len(parts) - 1)
    assert folder_bytes(tmp_path / "set") == folder_bytes(whole)
    assert pack(TROUBLE, tmp_path / "set", **SMALL, part=parts[0]) == packed[-1]
    assert folder_bytes(tmp_path / "set") == folder_bytes(whole)


def start(target: Path, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(target), str(number)], cwd=ROOT)


def test_parts_at_the_same_time_one_killed_and_given_again(
    tmp_path: Path, folder_bytes: Read
) -> None:
    target = tmp_path / "set"
    parts = {number: start(target, number) for number in (1, 2, 3)}
    deadline = time.monotonic() + 60
    while parts[2].poll() is None and time.monotonic() < deadline:
        if list(target.glob(f".packing/*-{parts[2].pid}-*.part")):
            break
    parts[2].kill()
    assert parts[2].wait() == -signal.SIGKILL, "it was killed in the middle"
    assert [parts[number].wait() for number in (1, 3)] == [0, 0]
    assert not (target / "manifest.json").exists()
    assert start(target, 2).wait() == 0
    source = Disks(count=900, broken=(5,), twins={800: 3})
    pack(source, tmp_path / "one", processes=1, shard_samples=60, max_rejects=0.1)
    assert folder_bytes(target) == folder_bytes(tmp_path / "one")


class Between:
    """Before the n-th rename, link or removal of a packing, does something else, once."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, work: Callable[[], Any]) -> None:
        self._left, self._work = number, work
        self.happened = False
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(Path, name, self._guard(getattr(Path, name)))

    def _guard(self, write: Any) -> Any:
        def guarded(path: Path, *rest: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self.happened:
                self.happened = True
                self._work()
            return write(path, *rest, **named)

        return guarded


def test_whatever_another_part_finishes_meanwhile_both_see_the_same_dataset(
    tmp_path: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part 1 stands still before each of its writes in turn, its commit among them, while others
    finish, commit and clear up."""
    packed = pack(TINY, tmp_path / "whole", **FEW)
    assert packed.rejects["reasons"] == {"duplicate key": 1}
    whole = folder_bytes(tmp_path / "whole")
    for number in itertools.count(1):
        target = tmp_path / f"set-{number}"
        pack(TINY, target, **FEW, part=(2, 2))
        with monkeypatch.context() as patch:
            meanwhile = Between(patch, number, lambda: pack(TINY, target, **FEW, part=(1, 1)))  # noqa: B023
            assert isinstance(pack(TINY, target, **FEW, part=(1, 2)), Manifest)
        assert folder_bytes(target) == whole
        if not meanwhile.happened:
            break
    assert number > 20


def test_temporary_files_go_only_with_the_process_that_wrote_them(
    tmp_path: Path, folder_bytes: Read
) -> None:
    folder = tmp_path / "set" / ".packing"
    pack(TINY, tmp_path / "set", **FEW, part=(1, 2))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = "train-000000.tar.zst"
    living = folder / f"{name}.{this_machine()}-{os.getppid()}-01.part"
    dead = folder / f"{name}.{this_machine()}-{ended.pid}-01.part"
    elsewhere = folder / f"{name}.{'0' * 12}-{ended.pid}-01.part"
    for path in (living, dead, elsewhere):
        path.write_bytes(b"half a shard")
    pack(TINY, tmp_path / "set", **FEW, part=(1, 2))
    assert [path.exists() for path in (living, dead, elsewhere)] == [True, False, True]
    pack(TINY, tmp_path / "set", **FEW, part=(2, 2))
    assert not folder.exists()


def test_rejects_are_counted_over_all_parts(tmp_path: Path, folder_bytes: Read) -> None:
    target = tmp_path / "set"
    source = Disks(count=120, broken=(3, 77, 100))
    strict = SMALL | {"max_rejects": 2 / 120}
    first = pack(source, target, **strict, part=(1, 3))
    assert isinstance(first, PartDone)
    second = pack(source, target, **strict, part=(2, 3))
    assert isinstance(second, PartDone)
    with pytest.raises(StoreError, match=r"(?s)at least 3 of 120 .*more than the 2.*on purpose"):
        pack(source, target, **strict, part=(3, 3))
    for number in (1, 2, 3):
        with pytest.raises(StoreError, match=r"(?s)all parts stop and there is no manifest"):
            pack(source, target, **strict, part=(number, 3))
    assert [path.name for path in target.iterdir()] == [".packing"]
    pack(source, tmp_path / "whole", **SMALL)
    assert isinstance(pack(source, target, **SMALL, part=(2, 3)), Manifest)
    assert folder_bytes(target) == folder_bytes(tmp_path / "whole")


def test_a_part_sees_that_another_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Disks(count=120, broken=tuple(range(0, 120, 2)))
    strict = SMALL | {"max_rejects": 0.01}
    with pytest.raises(StoreError, match="all parts stop"):
        pack(broken, tmp_path / "set", **strict, part=(1, 2))
    monkeypatch.setattr(ShardRunner, "run", lambda *_: pytest.fail("it packs what is of no use"))
    with pytest.raises(StoreError, match="all parts stop"):
        pack(broken, tmp_path / "set", **strict, part=(2, 2))


@pytest.mark.parametrize("other", [{"seed": 1}, {"encoding": "raw"}, {"shard_samples": 30}])
def test_parts_of_other_settings_do_not_mix(tmp_path: Path, other: dict[str, Any]) -> None:
    pack(TROUBLE, tmp_path / "set", **SMALL, part=(1, 2))
    with pytest.raises(StoreError, match="unfinished packing of another source, other settings"):
        pack(TROUBLE, tmp_path / "set", **SMALL | other, part=(2, 2))


def test_of_two_parts_that_begin_at_once_with_other_settings_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def after_another(path: Path, other: Path) -> None:
        monkeypatch.setattr(Path, "rename", rename)
        pack(TINY, tmp_path / "set", **FEW | {"seed": 1}, part=(1, 2))
        rename(path, other)

    monkeypatch.setattr(Path, "rename", after_another)
    with pytest.raises(StoreError, match="unfinished packing of another"):
        pack(TINY, tmp_path / "set", **FEW, part=(2, 2))
    done = pack(TINY, tmp_path / "set", **FEW | {"seed": 1}, part=(2, 2))
    assert isinstance(done, Manifest)


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, whole: Path, folder_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for number in (1, 2):
        pack(TROUBLE, tmp_path / "set", **SMALL, part=(number, 2))
    assert folder_bytes(tmp_path / "set") == folder_bytes(whole)


def test_a_part_and_a_whole_packing_do_not_run_into_each_other(tmp_path: Path) -> None:
    target = tmp_path / "set"
    for mine, yours in (((1, 2), None), (None, (1, 2)), (None, None)):
        with (
            staging.locked_staging(target, shared=mine is not None),
            pytest.raises(StoreError, match=r"another process is packing .* its --part"),
        ):
            pack(TROUBLE, target, **SMALL, part=yours)
    with staging.locked_staging(target, shared=True):
        assert isinstance(pack(TROUBLE, target, **SMALL, part=(1, 2)), PartDone)


@pytest.mark.parametrize("ending", ["", ".keys", ".json"])
def test_a_finished_shard_that_went_missing_is_missing(
    tmp_path: Path, whole: Path, folder_bytes: Read, ending: str
) -> None:
    target = tmp_path / "set"
    pack(TROUBLE, target, **SMALL, part=(1, 2))
    (target / ".packing" / f"train-000000.tar.zst{ending}").unlink()
    done = pack(TROUBLE, target, **SMALL, part=(2, 2))
    assert isinstance(done, PartDone)
    assert done.finished == done.shards - 1
    assert isinstance(pack(TROUBLE, target, **SMALL, part=(1, 2)), Manifest)
    assert folder_bytes(target) == folder_bytes(whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0/4", "parts are counted from 1"),
        ("5/4", "part 5/4 is not one of 4"),
        ("1/0", "part 1/0 is not one of 0"),
        ("x", "not written as I/N"),
        ("2", "not written as I/N"),
        ("-1/4", "not written as I/N"),
        ("1/4/2", "not written as I/N"),
    ],
)
def test_a_part_that_there_is_not_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=8))
    assert pack_shards.main([str(folder), str(tmp_path / "set"), f"--part={text}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: part ")
    assert words in error
    assert not (tmp_path / "set").exists()


def test_a_part_says_what_is_missing_and_the_last_what_was_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=60))
    arguments = [str(folder), str(tmp_path / "set"), "--shard-samples", "20", "--processes", "1"]
    said = []
    for number in (2, 1, 2):
        assert pack_shards.main([*arguments, "--part", f"{number}/2"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0].startswith("part 2 of 2 is done: ")
    assert said[0].endswith("shards are there; the manifest is written when the others are\n")
    assert "packed 60 samples" in said[1]
    assert "packed already with these settings" in said[2]


def test_every_shard_is_of_one_part(tmp_path: Path) -> None:
    jobs: list[Any] = list(range(10))
    for count in range(1, 14):
        shares = [PackingPart(number, count).share(jobs) for number in range(1, count + 1)]
        assert sorted(job for share in shares for job in share) == jobs
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
