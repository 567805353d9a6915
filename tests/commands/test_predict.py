"""`predict`: every picture that can be used, one at a time, into files that harm nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.kit import (
    SIDE,
    below,
    make_run,
    results,
    soft_picture,
    write_picture,
)
from tests.commands.progress import without_progress
from tests.noise import NoiseSource
from tests.stream.spoiling import spoil
from wdtrain.commands import predict as module
from wdtrain.commands import predict_inputs
from wdtrain.commands.predict import load_trained, main, resized
from wdtrain.commands.predict_inputs import Picture, list_inputs, result_names
from wdtrain.packing.pack import pack
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Order

ROOT = Path(__file__).resolve().parents[2]
Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return pack(NoiseSource(40, SIDE), tmp_path_factory.mktemp("packed") / "data", processes=1)


@pytest.fixture(scope="module")
def run(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", manifest.url)


@pytest.fixture
def predict(run: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """predict(...) is (exit code, stdout, stderr) of the command on the run."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(run), *map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out, without_progress(shown.err)

    return call


# ---------------------------------------------------------------------------- what is written


def test_results_have_names_of_their_own_beside_the_pictures(
    predict: Predict, tmp_path: Path
) -> None:
    picture = write_picture(tmp_path / "my" / "x.png")
    mine = write_picture(tmp_path / "my" / "x.mask.jpg", 1)
    before = picture.read_bytes(), mine.read_bytes()
    assert predict(picture, "--out", tmp_path / "my")[0] == 0
    assert (picture.read_bytes(), mine.read_bytes()) == before
    assert below(tmp_path / "my") == results("x") | {"x.png", "x.mask.jpg"}
    mask, depth, preview = (
        cv2.imread(str(tmp_path / "my" / f"x.{what}.png"), cv2.IMREAD_UNCHANGED)
        for what in ("mask", "depth", "preview")
    )
    assert (mask.shape, mask.dtype) == ((24, 32), np.uint8)
    assert (depth.shape, depth.dtype) == ((24, 32), np.uint16)
    assert depth.min() > 0
    assert preview.shape == (192, 3 * 256 + 2 * 4, 3)


def test_what_it_wrote_before_is_replaced_only_with_overwrite(
    predict: Predict, tmp_path: Path
) -> None:
    picture, out = write_picture(tmp_path / "x.png"), tmp_path / "out"
    assert predict(picture, "--out", out)[0] == 0
    first = (out / "x.mask.png").read_bytes()
    write_picture(picture, 5)
    code, _, error = predict(picture, "--out", out)
    assert code == 2
    assert error.startswith(f"error: {out}/x.mask.png is there already, made by predict before;")
    assert (out / "x.mask.png").read_bytes() == first
    assert predict(picture, "--out", out, "--overwrite")[0] == 0
    assert (out / "x.mask.png").read_bytes() != first


def test_a_result_that_would_replace_something_is_refused_before_any_is_written(
    predict: Predict, tmp_path: Path
) -> None:
    pictures = [write_picture(tmp_path / f"{name}.png") for name in "abc"]
    mine = write_picture(tmp_path / "out" / "c.depth.png")
    before = mine.read_bytes()
    for option in ([], ["--overwrite"]):
        code, _, error = predict(*pictures, "--out", tmp_path / "out", *option)
        assert code == 2
        assert "c.depth.png exists and was not made by predict" in error
        assert below(tmp_path / "out") == {"c.depth.png"}
        assert mine.read_bytes() == before


def test_pictures_of_one_name_have_results_of_their_own(predict: Predict, tmp_path: Path) -> None:
    pictures = [
        write_picture(tmp_path / path, number)
        for number, path in enumerate(("a/x.png", "b/x.png", "b/x.jpg", "b/y.png", "b/Y.jpg"))
    ]
    code, said, _ = predict(*pictures, "--out", tmp_path / "out")
    assert (code, said) == (0, f"predicted 5 pictures into {tmp_path / 'out'}\n")
    assert below(tmp_path / "out") == results("a/x.png", "b/x.png", "x.jpg", "y.png", "Y.jpg")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x.png"], ["x"]),
        (["x.png", "y.png"], ["x", "y"]),
        (["x.tar.png", "x.png"], ["x.tar", "x"]),
        (["x.png", "x.jpg"], ["x.png", "x.jpg"]),
        (["a/x.png", "b/x.png", "c/y.png"], ["a/x.png", "b/x.png", "y"]),
        (["p/a/x.png", "q/a/x.png"], ["p/a/x.png", "q/a/x.png"]),
        (["x.png", "x.jpg", "x.png.png"], ["x.png", "x.jpg", "x.png.png"]),
        (["x?.png", "x*.png"], ["x_.png", "x_.png-2"]),
        ([".x.png", "x.jpg"], ["x.png", "x.jpg"]),
        (["Ä.png", "A\u0308.png"], ["Ä.png", "A\u0308.png-2"]),
    ],
)
def test_names_grow_only_where_they_must(
    paths: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert result_names([Picture(Path(path), Path(Path(path).name)) for path in paths]) == names


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_taken_with_all_below_and_what_is_no_picture_is_counted(
    predict: Predict, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for number, path in enumerate(("x.png", "2024/x.JPG", "2024/deep/z.tif")):
        write_picture(folder / path, number)
    write_picture(tmp_path / "elsewhere" / "linked.png")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere.png")
    for path in ("notes.txt", ".DS_Store", "2024/._x.JPG", "movie.mp4"):
        (folder / path).write_text("no picture")
    os.mkfifo(folder / "pipe.png")
    code, said, error = predict(folder, "--out", tmp_path / "out")
    assert (code, said) == (0, f"predicted 4 pictures into {tmp_path / 'out'}\n")
    assert error.startswith("passed over 6 other files: pictures end in .jpg, ")
    expected = results("x", "2024/x", "2024/deep/z", "more/linked")
    assert below(tmp_path / "out") == expected


def test_its_own_results_are_no_pictures(predict: Predict, tmp_path: Path) -> None:
    """Neither in the folder itself nor in one below or above, nor those of another tool."""
    folder = tmp_path / "photos"
    picture = write_picture(folder / "sub" / "x.png")
    assert predict(folder, "--out", folder)[0] == 0
    assert predict(picture, "--out", folder / "other")[0] == 0
    assert below(folder) == {"sub/x.png"} | results("sub/x", "other/x")
    for given in (folder, folder / "sub"):
        code, said, error = predict(given, "--out", tmp_path / f"out-{given.name}")
        assert (code, said.split(" into")[0]) == (0, "predicted 1 picture")
        assert f"passed over {6 if given == folder else 3} files that wdtrain's own" in error


def test_a_file_that_is_named_twice_is_predicted_once(predict: Predict, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in" / "x.png")
    code, said, _ = predict(picture, tmp_path / "in", picture, "--out", tmp_path / "out")
    assert (code, said.split(" into")[0]) == (0, "predicted 1 picture")


def test_a_folder_without_pictures_is_said(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, error = predict(tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "empty holds no picture (.jpg" in error


# ---------------------------------------------------------------------------- broken ones


def test_broken_pictures_are_named_and_the_others_predicted(
    predict: Predict, tmp_path: Path
) -> None:
    good = [write_picture(tmp_path / f"good{number}.jpg", number) for number in range(3)]
    (tmp_path / "nothing.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    cut = write_picture(tmp_path / "cut.jpg", 7, 200, 200)
    cut.write_bytes(cut.read_bytes()[:-2000])
    bad = [tmp_path / name for name in ("nothing.png", "gone.png", "text.jpg", "cut.jpg")]
    code, said, error = predict(
        bad[0], good[0], bad[1], good[1], *bad[2:], good[2], "--out", tmp_path / "out"
    )
    assert code == 1
    assert said == f"predicted 3 pictures into {tmp_path / 'out'}; 4 skipped, named above\n"
    lines = error.splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith("skipped: ")
        assert str(path) in line
    assert below(tmp_path / "out") == results("good0", "good1", "good2")


def test_nothing_but_broken_pictures_is_an_error_and_leaves_nothing(
    predict: Predict, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    code, _, error = predict(tmp_path / "text.jpg", "--out", tmp_path / "out")
    assert code == 2
    assert "error: none of the pictures could be predicted" in error
    assert not (tmp_path / "out").exists()


def test_a_picture_too_long_to_be_seen_is_skipped(predict: Predict, tmp_path: Path) -> None:
    strip = write_picture(tmp_path / "strip.png", 0, 1, 70_000)
    fine = write_picture(tmp_path / "fine.png")
    code, _, error = predict(strip, fine, "--out", tmp_path / "out")
    assert code == 1
    assert "strip: it is 70000 x 1, which networks would see at 1120000 x 16" in error


def test_a_picture_that_memory_runs_out_at_is_skipped(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.predict

    def short(network: object, overlay: object, target: object, **how: object) -> object:
        if overlay.shape[3] > 100:  # type: ignore[attr-defined]
            raise RuntimeError("CUDA out of memory. Tried to allocate 7.00 GiB")
        return real(network, overlay, target, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "predict", short)
    wide = write_picture(tmp_path / "wide.png", 0, 16, 160)
    fine = write_picture(tmp_path / "fine.png")
    code, _, error = predict(wide, fine, "--out", tmp_path / "out")
    assert code == 1
    assert "wide: at 160 x 16 it does not fit into memory (CUDA out of memory" in error
    assert below(tmp_path / "out") == results("fine")


def test_a_network_that_says_nan_writes_nothing_that_looks_like_an_answer(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.predict
    monkeypatch.setattr(module, "predict", lambda *what, **how: real(*what, **how) * float("nan"))
    code, _, error = predict(write_picture(tmp_path / "x.png"), "--out", tmp_path / "out")
    assert code == 2
    assert "x: the network of task 'mask' says NaN of it" in error


# ---------------------------------------------------------------------------- many


class Counted(np.ndarray):
    """An array that can be watched while it lives."""


def test_memory_does_not_grow_with_the_number_of_pictures(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, watched, held = predict_inputs.read_picture, list[weakref.ref[Counted]](), list[int]()

    def read(path: Path) -> np.ndarray:
        picture = real(path).view(Counted)
        watched.append(weakref.ref(picture))
        held.append(sum(one() is not None for one in watched))
        return picture

    monkeypatch.setattr(predict_inputs, "read_picture", read)
    for number in range(12):
        write_picture(tmp_path / "in" / f"{number}.png", number)
    assert predict(tmp_path / "in", "--out", tmp_path / "out")[0] == 0
    assert len(held) == 12
    assert max(held) <= 2


def test_ctrl_c_leaves_whole_files_only(run: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "first.png", 0, 240, 320)
    for number in range(200):
        os.link(tmp_path / "in" / "first.png", tmp_path / "in" / f"{number:03d}.png")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "predict"), str(run), str(tmp_path / "in")]
    with subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (out / "003.preview.png").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert 3 <= int(said.split()[1]) < 200
    assert said.startswith("predicted ")
    files = below(out)
    assert all(path[0] != "." or path == ".wdtrain-made.jsonl" for path in os.listdir(out))
    assert all(cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED) is not None for name in files)
    assert main([str(run), str(tmp_path / "in" / "000.png"), "--out", str(out), "--overwrite"]) == 0


# ---------------------------------------------------------------------------- a split


def test_a_split_is_predicted_up_to_its_end(predict: Predict, tmp_path: Path) -> None:
    code, said, _ = predict("--split", "train", "--count", 10**6, "--out", tmp_path / "all")
    count = int(said.split()[1])
    assert code == 0
    assert len(below(tmp_path / "all")) == 3 * count
    code, said, _ = predict("--split", "train", "--count", 3, "--out", tmp_path / "three")
    assert (code, said.split(" into")[0]) == (0, "predicted 3 pictures")
    assert below(tmp_path / "three") < below(tmp_path / "all")


@pytest.mark.parametrize("key", ["{outside}/x", "../../escaped", "..", "a/../../x", ".bashrc", "/"])
def test_no_key_leads_outside(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Whatever the readers let through: names are made safe where files are written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    keys = [key.format(outside=outside)] * 2
    monkeypatch.setattr("wdtrain.stream.batches.Batch.keys", property(lambda batch: keys))
    out = tmp_path / "deep" / "er" / "out"
    assert predict("--split", "train", "--count", 2, "--out", out)[0] == 0
    assert not list(outside.iterdir())
    assert {path for path in tmp_path.rglob("*.png") if path.is_file()} == {
        path for path in out.rglob("*.png") if path.is_file()
    }
    assert len(below(out)) == 6


def test_damage_in_a_split_is_named_and_the_others_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = pack(NoiseSource(60, SIDE), tmp_path / "data", processes=1, samples_per_block=8)
    run = make_run(tmp_path / "run", manifest.url)
    shard = manifest.split("train").shards[0]
    path = Path(manifest.shard_url(shard))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    asked = ["--split", "train", "--count", "1000", "--out", str(tmp_path / "out")]
    assert main([str(run), *asked]) == 1
    error = without_progress(capsys.readouterr().err)
    assert error.startswith(f"skipped: shard {shard.name}, block 0")
    lost = manifest.samples_per_block
    assert len(below(tmp_path / "out")) == 3 * (manifest.split("train").samples - lost)


@pytest.mark.parametrize(("count", "skipped"), [(1, 0), (2, 1), (3, 2), (4, 2)])
def test_only_damage_before_the_last_picture_counts(
    count: int, skipped: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was read ahead: of the first block, pictures at places 1 and 3 are damaged."""
    whole = pack(NoiseSource(60, SIDE), tmp_path / "whole", processes=1, samples_per_block=8)
    order = Order(whole, "train", seed=0, chunk=4, shuffle_bytes=1)
    bad = {order.locate(1), order.locate(3)}
    assert len({place[:2] for place in bad}) == 1
    run = make_run(tmp_path / "run", spoil(whole, tmp_path / "data", set(), bad).url)
    asked = ["--split", "train", "--count", str(count), "--out", str(tmp_path / "out")]
    assert main([str(run), *asked]) == (skipped > 0)
    assert capsys.readouterr().err.count("skipped: shard ") == skipped
    assert len(below(tmp_path / "out")) == 3 * count


def test_another_place_of_the_dataset_is_read_where_it_is_named(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", "https://nowhere.invalid/data?sig=...&x=...")
    asked = [str(run), "--split", "train", "--count", "2", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "without what is secret" in (said := capsys.readouterr().err)
    assert "--data" in said
    assert main([*asked, "--data", manifest.url]) == 0
    assert len(below(tmp_path / "out")) == 6
    write_picture(tmp_path / "x.png")
    wrong = [str(run), str(tmp_path / "x.png"), "--out", str(tmp_path / "o"), "--data", "data"]
    assert main(wrong) == 2
    assert "give --split NAME with it" in capsys.readouterr().err


# ---------------------------------------------------------------------------- size


def test_enlarging_is_smooth_and_shrinking_is_by_area() -> None:
    ramp = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (4, 1))
    large = resized(ramp, 4, 64)
    steps = np.diff(large[0])
    assert steps[4:-4] == pytest.approx(1 / 56, abs=1e-6)  # a staircase has steps of 0 and 1/7
    assert resized(large, 4, 8) == pytest.approx(large.reshape(4, 8, 8).mean(2), abs=1e-6)
    mixed = resized(ramp, 2, 64)  # shrinks along one axis and grows along the other
    assert np.diff(mixed[0])[4:-4] == pytest.approx(1 / 56, abs=1e-6)


def test_networks_see_small_pictures_enlarged_smoothly(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    real = module.predict

    def watched(network: object, overlay: object, target: object, **how: object) -> object:
        seen.append(overlay[0].numpy())  # type: ignore[index]
        return real(network, overlay, target, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "predict", watched)
    ramp = np.repeat(np.linspace(0, 255, 16).round().astype(np.uint8), 3).reshape(1, 16, 3)
    load_trained(run, "last", 64)(np.repeat(ramp, 16, 0))
    assert seen[0].shape == (3, 64, 64)
    steps = np.diff(seen[0][0, 0].astype(int))[2:-2]
    assert steps.min() >= 3  # 255 / 60 = 4.25; repeated pixels would have steps of 0 and 17
    assert steps.max() <= 6


def test_probabilities_are_scaled_before_any_threshold(run: Path, tmp_path: Path) -> None:
    picture = soft_picture(3, 90, 130)
    found = load_trained(run, "last", None)(picture)
    write_picture(tmp_path / "x.png", 3, 90, 130)
    assert main([str(run), str(tmp_path / "x.png"), "--out", str(tmp_path)]) == 0
    mask = cv2.imread(str(tmp_path / "x.mask.png"), cv2.IMREAD_UNCHANGED)
    assert len(np.unique(mask)) > 2
    assert np.array_equal(mask, np.rint(found["mask"][0] * 255))


@pytest.mark.parametrize(
    ("size", "near"), [(100, 96), (8, 16), (0, 16), (-5, 16), (200, 192), (10**8, 4096)]
)
def test_a_size_that_networks_cannot_take_is_refused(
    predict: Predict, tmp_path: Path, size: int, near: int
) -> None:
    picture = write_picture(tmp_path / "x.png")
    code, _, error = predict(picture, "--size", size, "--out", tmp_path / "out")
    assert code == 2
    assert f"--size is {size}; networks take sides that are multiples of 16, up to" in error
    assert error.endswith(f"; give {near}\n")


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN", "--out", "out"], "no picture to predict"),
        (["RUN", "x.png", "--split", "train", "--out", "out"], "both given"),
        (["RUN", "--split", "train", "--count", "0", "--out", "out"], "--count is 0"),
        (["RUN", "--split", "train", "--count", "-3", "--out", "out"], "--count is -3"),
        (["RUN", "--split", "test", "--out", "out"], "split 'test' is not in"),
        (["RUN", "x.png", "--out", "x.png"], "x.png is a file"),
        (["RUN", "x.png", "--out", "x.png/below"], "x.png is a file"),
        (["RUN", "gone.png", "--out", "out"], "gone.png does not exist"),
        (["x.png", "x.png", "--out", "out"], "is not a run"),
        (["nowhere", "x.png", "--out", "out"], "is not a run"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "x.png")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.splitlines()[-1].startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["RUN", ""], ["", "x.png"], ["RUN", "x.png", "--out", ""]])
def test_an_unset_variable_is_not_taken_for_this_folder(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "x.png")
    given = [str(run) if word == "RUN" else word for word in ["--out", "out", *arguments]]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert "the path is empty" in capsys.readouterr().err
    assert below(tmp_path) == {"x.png"}


def test_a_checkpoint_that_does_not_say_how_it_was_trained_is_refused(
    predict: Predict, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = Checkpoints(run / "checkpoints").latest()
    assert newest is not None
    for extra in ({}, {**newest.extra, "side": "big"}, {**newest.extra, "view": []}):
        monkeypatch.setattr(
            Checkpoints, "latest", lambda _, extra=extra: replace(newest, extra=extra)
        )
        code, _, error = predict(write_picture(tmp_path / "x.png"), "--out", tmp_path / "out")
        assert code == 2
        assert "does not say how pictures were prepared" in error


def test_two_tasks_of_one_target_have_results_of_their_own(
    manifest: Manifest, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", manifest.url)
    weights = next(run.rglob("mask.safetensors"))
    recipe = (run / "config.yaml").read_text()
    other = "other: {network: seed-mask, loss: bce, target: mask}, depth"
    (run / "config.yaml").write_text(recipe.replace("depth", other, 1))
    shutil.copy(weights, weights.with_name("other.safetensors"))
    write_picture(tmp_path / "x.png")
    assert main([str(run), str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]) == 0
    kinds = ("mask", "other", "depth", "preview")
    assert below(tmp_path / "out") == {f"x.{kind}.png" for kind in kinds}


def test_a_folder_is_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c/a.png"):
        write_picture(tmp_path / name)
    listed = [picture.inside.as_posix() for picture in list_inputs([tmp_path]).pictures]
    assert listed == ["a.png", "b.png", "c/a.png"]
