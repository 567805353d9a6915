"""The compiled loops under the address and undefined-behaviour sanitizers, over mutated blocks."""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store import fuzz
from wdtrain.store import native

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = int(os.environ.get("WDTRAIN_FUZZ_BLOCKS", "2000"))
"""`make fuzz` sets more."""

SEED = int(os.environ.get("WDTRAIN_FUZZ_SEED", "0"))
FLAGS = ("-g", "-O1", "-ffp-contract=off", "-fno-omit-frame-pointer", "-shared", "-fPIC",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # fmt: skip


@functools.cache
def compiler() -> tuple[str, str] | None:
    """A C compiler and its address sanitizer, that a process of another compiler is started with;
    None where there is none."""
    for name in ("gcc", "cc"):
        path = shutil.which(name)
        if path is not None:
            asked = subprocess.run(
                [path, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
            )
            library = asked.stdout.strip()
            if asked.returncode == 0 and Path(library).is_absolute():
                return path, library
    return None


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = compiler()
    if found is None:
        pytest.skip("no compiler with an address sanitizer")
    target = tmp_path_factory.mktemp("sanitized") / "_rows.so"
    sources = sorted(map(str, (ROOT / "wdtrain" / "store").glob("*.c")))
    made = subprocess.run(
        [found[0], *FLAGS, *sources, "-o", str(target)], capture_output=True, text=True, check=False
    )
    if made.returncode and "fsanitize" in made.stderr:
        pytest.skip(f"no sanitizers: {made.stderr.splitlines()[0]}")
    assert made.returncode == 0, made.stderr
    return target


def under_sanitizers(
    library: Path, *command: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    found = compiler()
    assert found is not None
    options = "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1"
    environment = {
        **os.environ,
        "LD_PRELOAD": found[1],
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        "OPENCV_LOG_LEVEL": "SILENT",
    }
    return subprocess.run(
        [sys.executable, *command, "--library", str(library)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.timeout(0)  # as long as it was told: the number of blocks is the limit
def test_no_mutated_block_makes_a_sanitizer_speak_or_two_ways_differ(
    sanitized: Path, tmp_path: Path
) -> None:
    at = tmp_path / "at"
    how = ("-m", "tests.store.fuzz", "--count", str(BLOCKS), "--seed", str(SEED), "--at", str(at))
    done = under_sanitizers(sanitized, *how, folder=tmp_path)
    if done.returncode:
        number = struct.unpack("<q", at.read_bytes())[0]
        path = Path.cwd() / f"fuzz-{number}.bin"
        path.write_bytes(fuzz.case(number)[1])
        raise AssertionError(
            f"case {number} (its block lies in {path}; again: python -m tests.store.fuzz --seed "
            f"{number} --count 1):\n{done.stderr[-6000:]}"
        )
    print(done.stdout)
    assert done.stdout.startswith(f"{BLOCKS} blocks: ")
    counts = [int(part.split()[0]) for part in done.stdout.split(": ")[1].split(", ")]
    assert sum(counts) == BLOCKS
    assert len(counts) == 3  # blocks refused, samples refused, read
    assert min(counts) > BLOCKS // 20, "the mutations no longer reach all that they should"


OVERRUN = """
import ctypes, sys
import numpy as np
from pathlib import Path
from wdtrain.store import native
native.LIBRARY = native.open_library(Path(sys.argv[-1]))
block = np.zeros(1024, np.uint8)
starts = np.zeros(1, np.int64)
names, place = native._names(["json"]), native.at(starts)
native.LIBRARY.wd_index(native.at(block), 4096, names, 1, 1, place, place)
"""


def test_the_sanitizers_are_at_work(sanitized: Path, tmp_path: Path) -> None:
    done = under_sanitizers(sanitized, "-c", OVERRUN, folder=tmp_path)
    assert done.returncode
    assert "heap-buffer-overflow" in done.stderr


@given(st.integers(0, 2**40))
def test_any_mutated_block_is_read_or_refused_in_our_words_alike_in_c_and_python(
    number: int,
) -> None:
    assert fuzz.judge(number)


@pytest.mark.skipif(native.LIBRARY is None, reason="no compiled part")
def test_a_case_follows_from_its_number_alone() -> None:
    for number in (0, 7, 123_456):
        assert fuzz.case(number)[1] == fuzz.case(number)[1]
