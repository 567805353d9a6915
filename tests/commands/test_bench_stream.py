"""`bench-stream` says what it measured, for every form of dataset, and refuses what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.noise import NoiseSource
from wdtrain.commands.bench_stream import main
from wdtrain.packing.pack import pack
from wdtrain.stream.stages import WORK

MAPPED = ("read", "inflate", "parse", "decode")
"""Once verified, a mapped raw block needs none of these."""


@pytest.mark.parametrize("size", [[], ["--size", "16"]])
@pytest.mark.parametrize(
    ("encoding", "compression", "unused"),
    [("image", "zstd:3", ()), ("raw", "zstd:3", ("decode",)), ("raw", "none", MAPPED)],
)
def test_every_stage_and_number_of_threads_has_its_figure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encoding: str,
    compression: str,
    unused: tuple[str, ...],
    size: list[str],
) -> None:
    pack(NoiseSource(200), tmp_path / "set", encoding=encoding, compression=compression)
    few = [
        "--threads",
        "1,3",
        "--shuffle-bytes",
        "40kB",
        "--rounds",
        "2",
        "--samples",
        "250",
        "--batch-size",
        "64",
        *size,
    ]
    assert main([str(tmp_path / "set"), *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["threads"] for entry in found["threads"]] == [1, 3]
    for entry in found["threads"]:
        assert entry["ratio"] == pytest.approx(entry["stream"] / entry["floor"])
        assert 0 <= entry["waited"] <= 1
    assert set(found["stages"]) == {*WORK, "transfer"}
    resized = {"decode"} if size else set()  # bringing pixels to another size counts as decoding
    assert {name for name in WORK if found["stages"][name] is None} == set(unused) - resized
    assert main([str(tmp_path / "set"), *few]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("triples/s", "floor", "inflate", "gather", "compiled"))


def test_refuses_what_cannot_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(NoiseSource(60), tmp_path / "set", compression="zstd:1")
    for arguments, why in (
        ([str(tmp_path / "none")], "holds no manifest"),
        ([str(tmp_path / "set"), "--split", "test"], "no split 'test'"),
        ([str(tmp_path / "set"), "--rounds", "0"], "--rounds is 0; it must be 1 or more"),
        ([str(tmp_path / "set"), "--samples", "0"], "--samples is 0"),
        ([str(tmp_path / "set"), "--size", "0"], "--size is 0"),
        ([str(tmp_path / "set"), "--size", "-4"], "--size is -4"),
        ([str(tmp_path / "set"), "--batch-size", "50"], "not a multiple of the chunk"),
    ):
        assert main(arguments) == 2
        assert why in capsys.readouterr().err
