"""Somebody else's tars are trained on as they lie: an index, a run, and a resume in mid-epoch."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.end_to_end.runs import ROOT, Runs
from tests.foreign import Members, make_tars, members_of

SIDE = 16
STEPS = "train.steps=16"


def square(number: int) -> Members:
    return members_of(number, (SIDE, SIDE))


def make_index(folder: Path, members: Callable[[int], Members] = square) -> Path:
    """By the command of the docs; an epoch is nine batches and a bit."""
    make_tars(folder / "tars", 250, 100, members=members)
    subprocess.run(
        [
            sys.executable, str(ROOT / "tools" / "inspect-shards"), "index",
            str(folder / "tars" / "data-{000..002}.tar"), "--out", str(folder / "index"),
            "--field", "overlay=image:jpg", "--field", "mask=mask:seg.png,foreground=1",
            "--field", "depth=depth:depth.npy,unit=m", "--holdout-samples", "0.1",
        ],
        check=True,
    )  # fmt: skip
    return folder / "index"


def test_a_run_on_an_index_goes_on_in_mid_epoch_with_other_ranks(tmp_path: Path) -> None:
    runs = Runs(tmp_path, str(make_index(tmp_path)))
    runs.finish("whole", STEPS)
    process = runs.start("resumed", STEPS, processes=2)
    runs.wait_until(process, runs.has_logged("resumed", 6))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert len(runs.losses("resumed")) < 16
    runs.finish("resumed", STEPS)
    whole, resumed = runs.losses("whole"), runs.losses("resumed")
    assert sorted(resumed) == list(range(1, 17))
    for step, losses in whole.items():
        for loss, other in zip(losses, resumed[step], strict=True):
            assert abs(loss - other) <= 1e-8, f"step {step}"


def test_mixed_sizes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    def mixed(number: int) -> Members:
        return members_of(number, (SIDE + number % 2 * 8, SIDE))

    runs = Runs(tmp_path, str(make_index(tmp_path, mixed)))
    code, output = runs.run("mixed", STEPS)
    assert code == 2
    assert "holds pictures of 16 x 16 to 24 x 16 pixels, and size is None" in output
    assert "set data.size to [height, width]" in output
    assert not (tmp_path / "mixed").exists()
    runs.finish("sized", "train.steps=2", "data.size=[16,16]")
