"""`benchmarks/loaders.py` at any size: its rows, its cache, and the pixels that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from wdtrain.fields.png import encode_png

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
LARGE_ROWS = {"ours-large", "wds-large", "folder-large"}
TWO_STORED_BLOCKS = 264
"""Pixels a side of a PNG that does not fit into one stored block."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "loaders.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module(f"peers.{name}")


def test_what_makes_pictures_smaller_has_rows_at_64_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = module("rows", monkeypatch)
    at_64, at_256 = ({row.name for row in rows.rows_at(size)} for size in (64, 256))
    assert at_64 == {row.name for row in rows.ROWS}
    assert at_64 - at_256 == LARGE_ROWS
    assert at_256 < at_64


def test_pictures_of_another_size_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = module("data", monkeypatch).Pictures
    stored_and_read = [(64, 64), (160, 64), (160, 160), (256, 256)]
    shared = {pictures(tmp_path, 9, *sizes).shared for sizes in stored_and_read}
    assert len(shared) == len(stored_and_read)
    assert pictures(tmp_path, 9, 64, 64).folder != pictures(tmp_path, 9, 256, 256).folder


@pytest.mark.parametrize("size", [64, 255, 256, 400])  # one stored block, the most, two, three
def test_the_floor_slices_stored_pngs_of_any_size(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)
    pngs = [encode_png(picture, stored=True) for picture in pixels]
    assert np.array_equal(module("floors", monkeypatch).sliced(pngs, size), pixels)


def test_a_row_that_is_not_of_this_size_is_refused() -> None:
    done = run("--size", "256", "--only", "ours-image-zst,ours-large")
    assert done.returncode == 2
    assert "there is no row ours-large with --size 256" in done.stderr
    assert "at least 16" in run("--size", "15").stderr


def test_each_row_delivers_the_pixels_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    def rows(size: int, *names: str) -> tuple[list[tuple[str, str]], list[object], str]:
        found = tmp_path / f"{size}.json"
        options = ["--count", "12", "--repeat", "0", "--workers", "1", "--size", str(size)]
        where = ["--cache", str(tmp_path / "cache"), "--json", str(found)]
        done = run(*options, *where, "--only", ",".join(names))
        assert done.returncode == 0, done.stderr
        document = json.loads(found.read_text())
        assert document["size"] == size
        each = [(row["name"], row["pixels"]) for row in document["rows"]]
        return each, document["ratios"], done.stdout

    names = ("ours-image-zst", "ours-raw-tar", "floor-decode")
    each, ratios, said = rows(TWO_STORED_BLOCKS, *names)
    assert each == [(name, "same") for name in names]
    assert not ratios
    assert "target" not in said
    each, ratios, said = rows(64, "ours-raw-tar")
    assert each == [("ours-raw-tar", "same")]
    assert ratios
    assert "target" in said
