"""The laws of ranges kept on disk: right or not there, within the budget, whoever is killed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.remote import range_cache as module
from wdtrain.remote.range_cache import RangeCache

pytestmark = pytest.mark.timeout(120)

HEADER = module._CHECKSUM_BYTES


def content(number: int, size: int = 1000) -> bytes:
    return bytes([number % 251]) * size


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def lying(folder: Path) -> int:
    """Bytes that really lie in a folder that others write to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def test_what_was_kept_is_found_also_by_the_next_process(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=100_000)
    assert cache.get("a", 1000) is None
    cache.put("a", content(1))
    assert cache.get("a", 1000) == content(1)
    assert cache.get("a", 999) is None
    assert RangeCache(str(tmp_path), max_bytes=100_000).get("a", 1000) == content(1)
    assert RangeCache(str(tmp_path), max_bytes=10 << 30).get("a", 1000) == content(1)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=60))
def test_the_folder_never_grows_beyond_its_budget(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = RangeCache(str(folder), max_bytes=10_000)
    for number, size in puts:
        cache.put(f"{number}:{size}", content(number, size))
        assert lying(folder) <= 10_000
        assert lying(folder) == cache.num_bytes
        assert cache.get(f"{number}:{size}", size) in (content(number, size), None)
    if puts:
        number, size = puts[-1]
        assert cache.get(f"{number}:{size}", size) == content(number, size)


def test_sets_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SET_BYTES", 20_000)
    cache = RangeCache(str(tmp_path), max_bytes=170_000)
    assert cache._num_sets == 8
    for number in range(400):
        cache.put(str(number), content(number))
        assert number % 20 or cache.num_bytes <= 170_000
    kept = [number for number in range(400) if cache.get(str(number), 1000) == content(number)]
    assert len(kept) > 140


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=10 * (1000 + HEADER))
    for number in range(10):
        cache.put(str(number), content(number))
        time.sleep(0.005)
    assert cache.get("0", 1000) == content(0)
    time.sleep(0.005)
    cache.put("new", content(77))
    assert cache.get("0", 1000) == content(0)
    assert cache.get("1", 1000) is None
    assert cache.get("9", 1000) == content(9)
    assert cache.get("new", 1000) == content(77)


@settings(max_examples=40)
@given(st.integers(0, 1000 + HEADER - 1), st.integers(0, 7))
def test_a_flipped_bit_is_never_served(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = RangeCache(str(folder), max_bytes=100_000)
    cache.put("a", content(1))
    (file,) = files(folder)
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 1 << bit
    file.write_bytes(bytes(damaged))
    assert cache.get("a", 1000) is None
    assert not file.exists()
    cache.put("a", content(1))
    assert cache.get("a", 1000) == content(1)


@settings(max_examples=40)
@given(st.integers(0, 1000 + HEADER - 1))
def test_a_cut_off_file_is_never_served(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = RangeCache(str(folder), max_bytes=100_000)
    cache.put("a", content(1))
    os.truncate(files(folder)[0], length)
    assert cache.get("a", 1000) is None


def test_a_range_under_another_ones_name_is_never_served(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=100_000)
    cache.put("a", content(1))
    cache.put("b", content(1))
    first, second = files(tmp_path)
    first.replace(second)
    assert None in (cache.get("a", 1000), cache.get("b", 1000))
    assert not files(tmp_path)


def test_a_range_that_is_discarded_is_gone(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=100_000)
    cache.put("a", content(1))
    cache.discard("a", 1000)
    cache.discard("a", 1000)
    assert cache.get("a", 1000) is None


def test_files_begun_by_the_killed_count_and_go_when_they_are_old(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=5 * (1000 + HEADER))
    for number in range(4):
        cache.put(str(number), content(number))
    for file in files(tmp_path):
        file.rename(f"{file}.{'0' * 32}.part")
    assert cache.num_bytes == 4 * (1000 + HEADER)
    cache.put("one", content(5))
    cache.put("two", content(6))
    # Those of the living are not touched: rather is nothing kept.
    assert cache.get("one", 1000) is None or cache.get("two", 1000) is None
    assert len([file for file in files(tmp_path) if file.name.endswith(".part")]) == 4
    long_ago = time.time() - 2 * module._STALE_SECONDS
    for file in files(tmp_path):
        os.utime(file, (long_ago, long_ago))
    for number in range(6, 10):
        cache.put(str(number), content(number))
        assert lying(tmp_path) <= 5 * (1000 + HEADER)
    assert cache.get("9", 1000) == content(9)
    assert not [file for file in files(tmp_path) if file.name.endswith(".part")]


def test_what_is_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    for budget in (0, 500):
        cache = RangeCache(str(tmp_path / str(budget)), max_bytes=budget)
        cache.put("a", content(1))
        assert cache.get("a", 1000) is None
        assert not files(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=3000)
    (tmp_path / "notes.txt").write_text("mine")
    cache.put("a", content(1))
    (files(tmp_path)[-1].parent / "notes.txt").write_text("mine too")
    for number in range(9):
        cache.put(str(number), content(number))
    assert len([file for file in files(tmp_path) if file.name == "notes.txt"]) == 2


def test_a_full_disk_is_warned_of_once_and_gone_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = RangeCache(str(tmp_path), max_bytes=100_000)
    cache.put("a", content(1))

    def full(self: RangeCache, path: Path, *parts: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(parts[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RangeCache, "_write", full)
    with pytest.warns(RuntimeWarning, match=r"it is full.*is read without it"):
        cache.put("b", content(2))
    for number in range(5):
        cache.put(str(number), content(number))
    assert cache.get("a", 1000) == content(1)
    assert len(files(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_is_warned_of_once_and_gone_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = RangeCache(str(tmp_path / "file"), max_bytes=100_000)
    with pytest.warns(RuntimeWarning, match="name another folder in data.cache"):
        assert cache.get("a", 1000) is None
    cache.put("a", content(1))
    cache.put("b", content(1))
    assert cache.get("a", 1000) is None


def test_a_folder_emptied_meanwhile_does_no_harm(tmp_path: Path) -> None:
    cache = RangeCache(str(tmp_path / "cache"), max_bytes=100_000)
    cache.put("a", content(1))
    shutil.rmtree(tmp_path / "cache")
    assert cache.get("a", 1000) is None
    cache.put("a", content(1))
    assert cache.get("a", 1000) == content(1)


WRITER = """
import sys
from wdtrain.remote.range_cache import RangeCache
folder, start = sys.argv[1], int(sys.argv[2])
cache = RangeCache(folder, max_bytes=200_000)
print("ready", flush=True)
for number in range(start, start + 100_000):
    key, size = str(number % 400), 500 + 37 * (number % 100)
    data = bytes([number % 251]) * size
    key = f"{key}:{size}:{number % 251}"
    found = cache.get(key, size)
    assert found in (data, None), "other bytes"
    if found is None:
        cache.put(key, data)
"""


def start_writer(folder: Path, start: int) -> subprocess.Popen[Any]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def test_processes_that_share_a_folder_and_are_killed_stay_within_the_budget(
    tmp_path: Path,
) -> None:
    largest = 500 + 37 * 99 + HEADER
    writers = [start_writer(tmp_path, 1000 * number) for number in range(3)]
    try:
        for _ in range(30):
            assert lying(tmp_path) <= 200_000 + 2 * len(writers) * largest
            time.sleep(0.01)
        for number in range(2):
            victim = writers.pop(0)
            victim.send_signal(signal.SIGKILL)
            assert victim.wait(10) == -signal.SIGKILL
            writers.append(start_writer(tmp_path, 7777 * number))
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)
    # Nobody writes any more: what the killed had begun counts, and the rest is whole.
    begun = sum(file.stat().st_size for file in files(tmp_path) if file.suffix == ".part")
    assert lying(tmp_path) - begun <= 200_000
    cache = RangeCache(str(tmp_path), max_bytes=200_000)
    cache.put("one more", content(3))
    assert lying(tmp_path) <= 200_000 + begun
