"""Laws of checkpoints: whole or not there, whatever is killed, whatever is damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from wdtrain.record.checkpoint import (
    CheckpointError,
    Checkpoints,
    load_weights,
    save_weights,
    verify_checkpoint,
)


def content(step: int) -> dict[str, bytes]:
    return {"weights.bin": f"weights of {step}".encode() * 50, "sub/random_0.pkl": b"%d" % step}


def write_content(step: int):
    def write(folder: Path) -> None:
        for name, data in content(step).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    return write


def save(checkpoints: Checkpoints, step: int, metric: float | None = None):
    write_content(step)(checkpoints.begin(step))
    return checkpoints.commit(step, {"position": step * 256}, metric=metric)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def assert_whole(checkpoint, step: int) -> None:
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.extra) == (step, {"position": step * 256})
    for name, data in content(step).items():
        assert (checkpoint.path / name).read_bytes() == data


def test_the_newest_is_found_again_with_what_was_kept_beside_it(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    for step in (100, 200):
        save(checkpoints, step)
    assert_whole(Checkpoints(tmp_path / "checkpoints").latest(), 200)
    assert (tmp_path / "checkpoints" / "step-00000200" / "checkpoint.json").exists()


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_old_ones_are_pruned(tmp_path, keep, kept):
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 6):
        save(checkpoints, step)
    assert steps_in(tmp_path) == kept


@pytest.mark.parametrize(("higher", "best"), [(True, 2), (False, 1)])
def test_the_best_is_kept_beside_the_last(tmp_path, higher, best):
    metrics = {1: 0.1, 2: 0.9, 3: None, 4: 0.5, 5: float("nan"), 6: 0.4}
    checkpoints = Checkpoints(tmp_path, keep=1, higher_is_better=higher)
    for step, metric in metrics.items():
        save(checkpoints, step, metric)
    assert steps_in(tmp_path) == [best, 6]
    assert_whole(checkpoints.best(), best)
    assert checkpoints.best().metric == metrics[best]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "extra", "empty"])
def test_a_damaged_one_is_skipped_with_its_reason(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    folder = save(checkpoints, 2).path
    file = folder / "sub/random_0.pkl" if damage in ("flip", "cut", "remove") else folder
    manifest = folder / "checkpoint.json"
    if damage == "flip":
        file.write_bytes(b"3")
    elif damage == "cut":
        file.write_bytes(b"")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        manifest.unlink()
    elif damage == "extra":
        manifest.write_text(manifest.read_text().replace("512", "513"))
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    found = Checkpoints(tmp_path)
    assert_whole(found.latest(), 1)
    assert len(found.skipped) == 1
    assert "step-00000002 is damaged" in found.skipped[0]
    with pytest.raises(CheckpointError, match="resume from an older one"):
        verify_checkpoint(folder)


def test_a_run_that_goes_on_from_an_older_one_replaces_the_damaged_future(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(checkpoints, step, metric=float(step))
    (tmp_path / "step-00000003" / "weights.bin").write_bytes(b"")
    (tmp_path / "step-00000002" / "weights.bin").write_bytes(b"")
    again = Checkpoints(tmp_path, keep=3)
    assert again.latest().step == 1
    save(again, 2)
    assert steps_in(tmp_path) == [1, 2]
    assert_whole(again.latest(), 2)


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("wdtrain.record.checkpoint.FORMAT_VERSION", 2)
    path = save(Checkpoints(tmp_path), 1).path
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="written by a newer wdtrain"):
        verify_checkpoint(path)


def test_keys_and_values_of_extra_come_back_as_json_has_them(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    write_content(1)(checkpoints.begin(1))
    checkpoints.commit(1, {"by_rank": {10: 1.5, 2: (1, 2)}})
    assert Checkpoints(tmp_path).latest().extra == {"by_rank": {"10": 1.5, "2": [1, 2]}}


def test_all_ranks_write_into_the_same_folder_and_rank_0_names_it(tmp_path):
    ranks = [Checkpoints(tmp_path) for _ in range(3)]
    for step in (1, 2):
        folders = {checkpoints.begin(step) for checkpoints in ranks}
        (folder,) = folders
        for rank in range(3):
            (folder / f"random_states_{rank}.pkl").write_bytes(b"%d" % rank)
        assert ranks[1].latest() is None or ranks[1].latest().step < step
        ranks[0].commit(step, {"position": step})
        found = ranks[2].latest()
        assert (found.step, found.extra) == (step, {"position": step})
        files = json.loads((found.path / "checkpoint.json").read_bytes())["files"]
        assert sorted(files) == [f"random_states_{rank}.pkl" for rank in range(3)]


def test_a_save_that_fails_leaves_nothing_and_the_next_one_is_clean(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    (checkpoints.begin(2) / "half").write_bytes(b"x")
    checkpoints.abandon(2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    save(checkpoints, 2)
    assert not (tmp_path / "step-00000002" / "half").exists()


def test_all_its_files_are_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.begin(1)
    write_content(1)(folder)
    synced, real = set(), {"fsync": os.fsync, "rename": os.rename}

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real["fsync"](descriptor)

    def rename(source: Path, target: Path) -> None:
        inside = {path.stat().st_ino for path in [source, *source.rglob("*")]}
        assert len(inside) == 5
        assert inside <= synced
        real["rename"](source, target)
        synced.clear()

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    checkpoints.commit(1)
    assert tmp_path.stat().st_ino in synced


def from_ranks(*ranks: Checkpoints):
    """What each rank of several takes for the newest."""

    answers, threads = {}, []
    barrier, box = threading.Barrier(len(ranks)), [None] * len(ranks)

    def work(rank: int) -> None:
        def gather(value, what):
            box[rank] = value
            barrier.wait(30)
            found = list(box)
            barrier.wait(30)
            return found

        answers[rank] = ranks[rank].newest_of_all(gather)

    for rank in range(len(ranks)):
        threads.append(threading.Thread(target=work, args=(rank,)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    return [answers[rank] for rank in range(len(ranks))]


def test_ranks_go_on_from_what_all_of_them_find_whole(tmp_path):
    for rank in range(3):  # a disk each, as a stale cache of a shared one looks
        for step in (1, 2, 3, 4):
            save(Checkpoints(tmp_path / str(rank), keep=9), step)
    shutil.rmtree(tmp_path / "0" / "step-00000004")  # which rank 0 does not see yet
    (tmp_path / "1" / "step-00000003" / "weights.bin").write_bytes(b"")
    ranks = [Checkpoints(tmp_path / str(rank), keep=9) for rank in range(3)]
    assert [found.step for found in from_ranks(*ranks)] == [2, 2, 2]
    for one in ranks:
        assert one.skipped == ranks[0].skipped
        missing, damaged = one.skipped
        assert "step-00000004" in missing
        assert "for rank 0" in missing
        assert "weights.bin is not what was saved" in damaged
        assert "for rank 1" in damaged


def test_ranks_do_not_go_on_from_two_checkpoints_of_the_same_step(tmp_path):
    for rank in range(2):
        checkpoints = Checkpoints(tmp_path / str(rank))
        save(checkpoints, 1)
        (checkpoints.begin(2) / "weights.bin").write_bytes(b"%d" % rank)
        checkpoints.commit(2)
    ranks = [Checkpoints(tmp_path / str(rank)) for rank in range(2)]
    assert [found.step for found in from_ranks(*ranks)] == [1, 1]
    assert "the ranks see different ones" in ranks[0].skipped[0]


def test_one_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    for step in (1, 2):
        save(Checkpoints(tmp_path), step)
    real = Path.open

    def opened(path, mode="r", *more, **named):
        if path.match("step-00000002/weights.bin"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", opened)
    found = Checkpoints(tmp_path)
    assert_whole(found.latest(), 1)
    assert "weights.bin cannot be read (Input/output error)" in found.skipped[0]


class Killed(BaseException):
    """The process ended here."""


OPERATIONS = ("open", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


def kill_at(monkeypatch, moment: int) -> None:
    """The process ends before its file operation number `moment`."""
    count = iter(range(1_000_000))
    for name in OPERATIONS:
        real = getattr(os, name)

        def operation(*arguments, _real=real, **options):
            if next(count) == moment:
                raise Killed
            return _real(*arguments, **options)

        monkeypatch.setattr(os, name, operation)


@pytest.mark.parametrize("step", [3, 4], ids=["saved again", "new"])
def test_killed_before_any_file_operation_a_whole_newest_one_is_left(tmp_path, monkeypatch, step):
    moment, died = 0, True
    while died:
        folder = tmp_path / str(moment)
        checkpoints = Checkpoints(folder, keep=1)
        for earlier, metric in ((1, 0.9), (2, 0.5), (3, 0.5)):
            save(checkpoints, earlier, metric)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                write_content(step)(checkpoints.begin(step))
                checkpoints.commit(step, {"position": step * 256}, metric=0.1)
                died = False
            except Killed:
                pass
        seen_by_others = Checkpoints(folder).latest()
        assert_whole(seen_by_others, seen_by_others.step)
        assert seen_by_others.step in (3, step)
        again = Checkpoints(folder, keep=1)
        again.clean()
        assert_whole(again.latest(), seen_by_others.step)
        assert again.skipped == []
        assert_whole(again.best(), 1)
        assert set(steps_in(folder)) <= {1, 3, step}
        save(again, 5)
        assert steps_in(folder) == [1, 5]
        moment += 1
    assert moment > 12
    assert not died


NURSERY = """
import os, random, signal, sys, time
from pathlib import Path
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.record.runlog import RunLog, read_log

run, rounds = Path(sys.argv[1]), int(sys.argv[2])

def train(first):
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    checkpoints.clean()
    with RunLog(run) as log:
        log.cut_back(first)
        for step in range(first + 1, 10**9):
            log.append({"step": step})
            log.sync()
            folder = checkpoints.begin(step)
            for index in range(3):
                (folder / f"{index}.bin").write_bytes(b"%d" % step * 20000)
            checkpoints.commit(step, {"step": step}, metric=-float(step))

last, chance = 0, random.Random(0)
for _ in range(rounds):
    child = os.fork()
    if child == 0:
        train(last)
    time.sleep(0.02 + 0.08 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = Checkpoints(run / "checkpoints")
    newest = found.latest()
    if newest is None:
        assert last == 0, "lost all checkpoints"
        continue
    assert found.skipped == [], found.skipped
    assert newest.step >= last, (newest.step, last)
    assert newest.extra == {"step": newest.step}
    steps = [line["step"] for line in read_log(run)]
    assert steps[:newest.step] == list(range(1, newest.step + 1)), "log is behind its checkpoint"
    assert found.best().step == 1, "lost the best"
    last = newest.step
print("steps", last)
"""


def test_kill_9_at_any_moment_leaves_a_whole_newest_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(tmp_path), "25"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 5
    Checkpoints(tmp_path / "checkpoints").clean()
    assert all(path.name.startswith("step-") for path in (tmp_path / "checkpoints").iterdir())


def test_weights_are_read_back_without_pickle_whatever_their_strides(tmp_path):
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    state = {"conv.weight": weight, "tied": weight, "view": weight[1:, :, 2], "n": torch.tensor(3)}
    save_weights(tmp_path / "mask.safetensors", state)
    loaded = load_weights(tmp_path / "mask.safetensors")
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert b"pickle" not in (tmp_path / "mask.safetensors").read_bytes()[:400]


@pytest.mark.parametrize("name", ["missing", "damaged"])
def test_weights_that_cannot_be_read_are_refused(tmp_path, name):
    (tmp_path / "damaged").write_bytes(b"\x80\x04 not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_weights(tmp_path / name)


def test_a_run_must_keep_one(tmp_path):
    with pytest.raises(CheckpointError, match="keep 1 or more"):
        Checkpoints(tmp_path, keep=0)


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_training(accelerator: Accelerator):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network = accelerator.prepare_model(network, evaluation_mode=True)
    return network, accelerator.prepare_optimizer(optimizer)


def take_step(network, optimizer) -> None:
    network.train()
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_accelerate_saves_goes_on_bit_for_bit(tmp_path, accelerator):
    network, optimizer = make_training(accelerator)
    take_step(network, optimizer)
    checkpoints = Checkpoints(tmp_path)
    accelerator.save_state(str(checkpoints.begin(1)))
    checkpoints.commit(1, {"position": 2})
    take_step(network, optimizer)
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found = checkpoints.latest()
    assert {"model.safetensors", "optimizer.bin", "random_states_0.pkl"} <= {
        path.name for path in found.path.iterdir()
    }
    accelerator.load_state(str(found.path))
    take_step(network, optimizer)
    assert all(torch.equal(network.state_dict()[name], expected[name]) for name in expected)
