"""Bad input to training: a clear error that names it, an exit code, nothing half-done."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.runs import Runs
from tests.noise import NoiseSource
from wdtrain.fields import Sample
from wdtrain.packing.pack import pack
from wdtrain.scenes import parse_source

REFUSALS = [
    (["train.batchsize=3"], "train.batchsize is not a field", "did you mean train.batch_size?"),
    (["train.batch_size=25"], "data.chunk (4) does not divide", "the nearest is 24"),
    (["tasks.mask.network=seed-musk"], "'seed-musk' does not exist", "did you mean 'seed-mask'?"),
    (["tasks.mask.loss=smooth-l1"], "'smooth-l1' was put on", "bce"),
    (["tasks.depth.network=gone:Class"], "'gone:Class' cannot be imported", "tasks.depth"),
    (["evaluate.splits=[val-foo]"], "evaluate.splits names val-foo", "the dataset holds train"),
    (["data.url=nowhere"], "nowhere holds no manifest.json", "pack-shards"),
    (["data.train_split=foo"], "has no split 'foo'", "it has train"),
    (["tasks.mask.weights=gone.safetensors"], "gone.safetensors", "cannot be read"),
    (["memory=3"], "memory: 3.0 is neither a share", "like 8GiB"),
    (["evaluate.batch_size=10"], "evaluate.batch_size is 10", "the nearest is 8"),
    (["tasks.depth.loss=bce+dice"], "does not exist for depth", "known: l1, smooth-l1"),
]


@pytest.mark.parametrize(("overrides", "found", "advice"), REFUSALS, ids=lambda v: str(v)[:30])
def test_bad_input_is_refused_by_name(
    runs: Runs, overrides: list[str], found: str, advice: str
) -> None:
    code, output = runs.run("refused", *overrides)
    assert code == 2, output
    assert found in output
    assert advice in output
    assert "Traceback" not in output
    assert not (runs.folder / "refused").exists()


def test_more_ranks_than_lanes_are_refused(runs: Runs) -> None:
    code, output = runs.run("refused", "data.lanes=1", processes=2)
    assert code != 0
    assert "2 ranks share 1 lanes" in output
    assert not (runs.folder / "refused").exists()


def test_a_checkpoint_of_another_recipe_is_refused_by_key(runs: Runs, reference: Runs) -> None:
    runs.copy(reference, "whole")
    kept = sorted(path.name for path in (runs.folder / "whole" / "checkpoints").iterdir())
    code, output = runs.run("whole", "train.steps=30", "tasks.mask.optimizer.lr=0.5")
    assert code == 2
    assert "is of another recipe: tasks.mask.optimizer.lr was 0.02 and is 0.5" in output
    assert sorted(path.name for path in (runs.folder / "whole" / "checkpoints").iterdir()) == kept
    assert runs.status("whole")["state"] == "finished"  # it still is


def test_a_cursor_of_another_order_is_refused(runs: Runs, reference: Runs, tmp_path: Path) -> None:
    runs.copy(reference, "whole")
    source = parse_source("playground:count=400,size=16,seed=4,backgrounds=12,cutouts=12")
    assert source is not None
    pack(source, tmp_path / "other", processes=1)
    code, output = runs.run("whole", f"data.url={tmp_path / 'other'}")
    assert code == 2
    assert "cursor was saved for order" in output


def test_a_launcher_that_starts_too_few_is_refused(runs: Runs) -> None:
    command = runs.command("lonely")
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = subprocess.run(
        [command[0], *launcher, *command[1:]],
        cwd=runs.folder, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert result.returncode != 0
    assert "asked for 2 processes and started one" in result.stderr


def test_a_device_that_is_too_small_for_the_networks_themselves_is_said_in_a_line(
    runs: Runs,
) -> None:
    code = """
import torch
from tiny_network import TinyDepth

class Huge(TinyDepth):
    def to(self, *where, **how):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
"""
    (runs.folder / "huge.py").write_text(code)
    status, output = runs.run("huge", "tasks.depth.network=huge:Huge")
    assert status == 2
    assert "error: CUDA out of memory. Tried to allocate 9.00 GiB" in output
    assert "Traceback" not in output
    assert not (runs.folder / "huge" / "checkpoints").exists()


def test_resume_never_refuses_a_run_that_is_there(runs: Runs, reference: Runs) -> None:
    runs.copy(reference, "whole")
    code, output = runs.run("whole", "run.resume=never")
    assert code == 2
    assert "run.resume is never" in output


def test_data_without_depth_is_refused_for_a_depth_network(runs: Runs, tmp_path: Path) -> None:
    class Flat(NoiseSource):
        def load(self, index: int) -> Sample:
            sample = super().load(index)
            arrays = {**sample.arrays, "depth": 0 * sample.arrays["depth"]}
            return Sample(sample.key, arrays, sample.meta)

    pack(Flat(200, size=16), tmp_path / "flat", processes=1)
    code, output = runs.run("flat_run", f"data.url={tmp_path / 'flat'}")
    assert code == 2
    assert "is unknown everywhere" in output
    assert runs.status("flat_run")["state"] == "failed"


def test_a_damaged_shard_stops_the_run_or_is_left_out_and_counted(
    runs: Runs, tmp_path: Path
) -> None:
    shutil.copytree(runs.data, tmp_path / "bad")
    shard = tmp_path / "bad" / "train-000000.tar.zst"
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(bytes(data))
    given = [f"data.url={tmp_path / 'bad'}", "train.steps=20"]
    code, output = runs.run("fatal", *given)
    assert code == 2
    assert "shard train-000000.tar.zst, block 0 is damaged" in output
    assert runs.status("fatal")["state"] == "failed"
    assert "left out so far: 1, first shard train-000000.tar.zst, block 0" in runs.finish(
        "skip", *given, "data.on_damage=skip"
    )


def test_a_missing_validation_shard_is_found_before_training(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.data, tmp_path / "holed")
    (tmp_path / "holed" / "val-new-seen-000000.tar.zst").unlink()
    code, output = runs.run("holed_run", f"data.url={tmp_path / 'holed'}")
    assert code == 2
    assert "shard val-new-seen-000000.tar.zst is missing" in output
    assert not (runs.folder / "holed_run").exists()


def test_what_another_rank_failed_by_is_said(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.data, tmp_path / "bad")
    shard = tmp_path / "bad" / "train-000000.tar.zst"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    code, _ = runs.run("broken", f"data.url={tmp_path / 'bad'}", processes=2)
    assert code != 0
    assert "shard train-000000.tar.zst, block" in runs.status("broken")["why"]
