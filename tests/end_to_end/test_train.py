"""A run as its user sees it: it ends, it resumes bit for bit, and it is the same on any ranks."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.end_to_end.runs import Runs
from tests.noise import NoiseSource
from wdtrain.fields import Sample
from wdtrain.packing.pack import pack
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.record.runlog import write_status

GROUPS = ("best", "median", "worst")


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def weights(runs: Runs, name: str) -> dict[str, object]:
    return {
        f"{task}.{key}": value
        for task in ("mask", "depth")
        for key, value in load_file(
            runs.folder / name / "checkpoints" / "step-00000020" / f"{task}.safetensors"
        ).items()
    }


def check_equal_weights(first: dict[str, object], other: dict[str, object], within: float) -> None:
    assert first.keys() == other.keys()
    for key, value in first.items():
        difference = (value - other[key]).abs().max()  # type: ignore[operator, attr-defined]
        assert float(difference) <= within, key


def test_a_run_leaves_its_record(reference: Runs) -> None:
    folder = reference.folder / "whole"
    assert reference.status("whole") == {"state": "finished", "why": ""}
    losses = reference.losses("whole")
    assert sorted(losses) == list(range(1, 21))
    assert losses[20][0] < losses[1][0]
    report = (folder / "report.md").read_text()
    for word in ("colour threshold", "mean depth picture", "difficulty", "val-new-seen"):
        assert word in report
    assert (folder / "config.yaml").is_file()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == "step-00000020"


@pytest.mark.parametrize("step", [1, 7, 12])
def test_a_killed_run_goes_on_bit_for_bit(runs: Runs, reference: Runs, step: int) -> None:
    process = runs.start("killed")
    runs.wait_until(process, runs.has_logged("killed", step))
    process.kill()
    process.communicate()
    runs.finish("killed")
    assert runs.losses("killed") == reference.losses("whole")
    check_equal_weights(weights(reference, "whole"), weights(runs, "killed"), 0.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(
    runs: Runs, reference: Runs, number: signal.Signals
) -> None:
    process = runs.start("stopped")
    runs.wait_until(process, runs.has_logged("stopped", 6))
    process.send_signal(number)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert runs.status("stopped")["state"] == "interrupted"
    newest = max(path.name for path in (runs.folder / "stopped" / "checkpoints").iterdir())
    assert newest == f"step-{max(runs.losses('stopped')):08d}"  # nothing committed is lost
    assert newest >= "step-00000007"  # line 6 is written when step 7 has been committed
    runs.finish("stopped")
    assert runs.losses("stopped") == reference.losses("whole")


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_the_same_weights(
    runs: Runs, reference: Runs, processes: int
) -> None:
    assert f"= {processes} ranks" in runs.finish("several", processes=processes)
    check_equal_weights(weights(reference, "whole"), weights(runs, "several"), 1e-8)
    # Each rank predicts what it reads of the samples that are shown; the report has them all.
    grids = [f"{task}-{group}.png" for task in ("mask", "depth") for group in GROUPS]
    for grid in grids:
        expected = size_of(reference.folder / "whole" / "report" / grid)
        assert size_of(runs.folder / "several" / "report" / grid) == expected


def test_a_checkpoint_that_is_saved_again_keeps_its_metric(runs: Runs, reference: Runs) -> None:
    runs.copy(reference, "whole")
    checkpoints = Checkpoints(runs.folder / "whole" / "checkpoints")
    before = checkpoints.latest()
    assert before is not None
    assert before.metric is not None
    write_status(runs.folder / "whole", "interrupted", "power")  # after all was saved
    runs.finish("whole", "log.plain_seconds=1")  # which is part of what a checkpoint holds
    after = checkpoints.latest()
    assert after is not None
    assert (after.step, after.metric) == (before.step, before.metric)
    assert after.extra["config"] != before.extra["config"]


def test_a_run_goes_on_under_another_number_of_processes(runs: Runs, reference: Runs) -> None:
    process = runs.start("elastic", processes=2)
    runs.wait_until(process, runs.has_logged("elastic", 6))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert runs.status("elastic")["state"] == "interrupted"
    runs.finish("elastic")
    check_equal_weights(weights(reference, "whole"), weights(runs, "elastic"), 1e-8)


def test_the_workers_of_a_killed_launcher_save_and_end(runs: Runs) -> None:
    process = runs.start("orphans", processes=2)
    runs.wait_until(process, runs.has_logged("orphans", 4))
    process.kill()
    path = runs.folder / "orphans" / "status.json"
    for _ in range(2000):
        if "interrupted" in path.read_text():
            break
        time.sleep(0.05)
    assert runs.status("orphans") == {"state": "interrupted", "why": "the launcher is gone"}
    newest = max(path.name for path in (runs.folder / "orphans" / "checkpoints").iterdir())
    assert newest == f"step-{max(runs.losses('orphans')):08d}"


def test_a_finished_run_says_so_and_changes_nothing(runs: Runs, reference: Runs) -> None:
    runs.copy(reference, "whole")
    before = {path: path.read_bytes() for path in (runs.folder / "whole").rglob("*.*")}
    code, output = runs.run("whole")
    assert code == 0
    assert "is finished, all 20 steps; nothing was changed" in output
    after = {path: path.read_bytes() for path in (runs.folder / "whole").rglob("*.*")}
    assert after == before


def test_a_second_start_in_the_same_folder_is_refused_by_name(runs: Runs) -> None:
    first = runs.start("shared", "train.steps=100000")
    runs.wait_until(first, runs.has_logged("shared", 2))
    code, output = runs.run("shared", "train.steps=3")
    assert code == 2
    assert f"in use by process {first.pid}" in output


def test_plan_prints_and_writes_nothing(runs: Runs) -> None:
    code, output = runs.run("planned", "--plan")
    assert code == 0, output
    assert "micro-batch 4 for mask: seed-mask, 114,624 parameters" in output
    assert "balance     1.00 over 1 rank" in output
    assert not (runs.folder / "planned").exists()


def test_a_plan_for_a_device_that_is_not_here_is_an_estimate_and_says_so(runs: Runs) -> None:
    code, output = runs.run("planned", "--plan", "--on", "RTX 4090", "train.batch_size=4096")
    assert code == 0, output
    assert "estimate for RTX 4090" in output
    assert "nothing was measured there" in output
    assert "micro-batch 4096 for depth (estimated)" in output
    code, output = runs.run("planned", "--plan", "--on", "RTX 4091")
    assert code == 2
    assert "RTX 4090" in output
    assert "Traceback" not in output
    assert not (runs.folder / "planned").exists()


def test_print_config_shows_every_key(runs: Runs) -> None:
    code, output = runs.run("printed", "--print-config")
    assert code == 0
    assert "  batch_size: 24" in output
    assert "channels_last: true" in output


def test_predicts_pictures_of_any_size(reference: Runs, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    from wdtrain.commands.predict import main

    ramp = np.linspace(0, 255, 50 * 70 * 3).reshape(50, 70, 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), ramp)
    arguments = [str(reference.folder / "whole"), str(tmp_path / "photo.jpg")]
    import sys

    sys.path.append(str(reference.folder))  # where the run's own network lies
    assert main([*arguments, "--trust", "--out", str(tmp_path / "out")]) == 0
    mask = cv2.imread(str(tmp_path / "out" / "photo.mask.png"), cv2.IMREAD_UNCHANGED)
    depth = cv2.imread(str(tmp_path / "out" / "photo.depth.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == depth.shape == (50, 70)
    assert depth.dtype == np.uint16
    assert depth.min() > 0
    assert (tmp_path / "out" / "photo.preview.png").is_file()
    assert main([str(tmp_path), str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "no")]) == 2
    assert main([arguments[0], str(tmp_path / "gone.jpg"), "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


class SomeDepth(NoiseSource):
    """Only each sixth sample has a depth."""

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        depth = sample.arrays["depth"] * (index % 6 == 0)
        return replace(sample, arrays={**sample.arrays, "depth": depth})


def test_steps_that_a_task_cannot_learn_from_are_counted(tmp_path: Path, runs: Runs) -> None:
    pack(SomeDepth(90, size=16), tmp_path / "data", processes=1)
    runs.data = str(tmp_path / "data")
    common = ["data.chunk=2", "train.batch_size=4", "evaluate.max_samples=8"]
    runs.finish("run", *common)
    trained = runs.records("run")
    idle = [record for record in trained if "loss/depth" not in record]
    assert 0 < len(idle) < len(trained) == 20
    assert [record["idle"] for record in trained] == [int(one in idle) for one in trained]
    assert not any(record["skipped"] for record in trained)
    status = json.loads((runs.folder / "run" / "status.json").read_text())
    assert status["idle_steps"] == {"depth": len(idle)}
