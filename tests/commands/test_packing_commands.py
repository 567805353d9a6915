"""pack-shards and inspect-shards, as a person types them: clear words, exit codes, no traceback."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.progress import without_progress
from tests.disks import Disks, write_folder
from tests.store.datasets import MANY, write_dataset
from wdtrain.commands import inspect_shards, pack_shards
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent.parent
Packed = Callable[..., Manifest]


def tool(
    name: str, *arguments: object, cwd: Path, file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a tool from another working directory, with a limit on the size of files."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    done.stderr = without_progress(done.stderr)
    return done


def test_packs_a_folder_from_any_working_directory(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", Disks())
    done = tool("pack-shards", "folder", "set", "--processes", 2, "--seed", 3, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "packed 300 samples" in done.stdout
    again = tool("pack-shards", "folder", "set", "--processes", 1, "--seed", 3, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "packed already with these settings; nothing was changed" in again.stdout
    looked = tool("inspect-shards", "show", "set", cwd=tmp_path)
    assert (looked.returncode, looked.stderr) == (0, "")
    assert "300 samples of 24 x 32" in looked.stdout


def test_looks_into_a_dataset(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = packed().url
    sheet = tmp_path / "sheet.png"
    for arguments, words in (
        (["show", url], "300 samples of 24 x 32"),
        (["verify", url], "is whole"),
        (["audit", url], "look like pictures of train"),
        (["grid", url, "--out", str(sheet), "--count", "4"], "wrote"),
    ):
        assert inspect_shards.main(arguments) == 0
        shown = capsys.readouterr()
        assert words in shown.out
        assert shown.err == ""
    assert cv2.imread(str(sheet)) is not None


def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", Disks(as_jpeg=True))
    arguments = ["folder", "set", "--compression", "none", "--shard-samples", "100"]
    full = tool("pack-shards", *arguments, "--processes", 2, cwd=tmp_path, file_bytes=300_000)
    assert full.returncode == 2
    assert full.stderr.startswith("error: shard train-00000")
    assert "File too large" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert not list((tmp_path / "set").rglob("*.part"))
    assert tool("pack-shards", *arguments, cwd=tmp_path).returncode == 0
    Manifest.load(str(tmp_path / "set")).verify()
    assert not (tmp_path / "set" / ".packing").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing", "set"), "nothing does not exist"),
        (("empty", "set"), "holds no triples"),
        (("folder", "full"), "is not empty"),
        (("folder", "file/set"), "cannot be written"),
        (("folder", "set", "--compression", "gzip"), "is not known; use none, zstd:1 to"),
        (("folder", "set", "--processes", "0"), "at least 1"),
        (("folder", "set", "--holdout-pairs", "2"), "must be in [0, 1)"),
        (("folder", "set", "--max-rejects", "-1"), "share from 0 to 1"),
        (("playground:count=1,colour=3", "set"), "colour"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "folder", Disks(count=8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("file", "full/other"):
        (tmp_path / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert pack_shards.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert sorted(tmp_path.rglob("*")) == before


def test_undeclared_depth_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "folder", Disks(count=64), declare=False)
    assert pack_shards.main([str(folder), str(tmp_path / "set"), "--processes", "1"]) == 0
    assert "has no triples.json, so its depth is packed as relative" in capsys.readouterr().err


def test_sizes_are_squares_or_height_by_width() -> None:
    options = pack_shards._parser().parse_args(["a", "b", "--size", "96x128"])
    assert options.size == (96, 128)
    with pytest.raises(SystemExit) as ended:
        pack_shards.main(["a", "b", "--size", "big"])
    assert ended.value.code == 2


@pytest.mark.parametrize("tool_main", [pack_shards.main, inspect_shards.main])
def test_help_has_examples(
    tool_main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tool_main(["--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Manifest:
    shutil.copytree(packed().url, tmp_path / "copy")
    return Manifest.load(str(tmp_path / "copy"))


def test_verify_of_a_damaged_dataset_names_it_with_exit_code_1(
    copy: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = copy.split("train").shards[0]
    path = Path(copy.shard_url(shard))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert inspect_shards.main(["verify", copy.url]) == 1
    assert f"shard {shard.name}, block 0 is damaged" in capsys.readouterr().out


def test_a_missing_shard_is_an_error_of_every_look_inside(
    copy: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(copy.shard_url(copy.split("train").shards[0])).unlink()
    for action in ("audit", "grid"):
        assert inspect_shards.main([action, copy.url]) == 2
        assert "is missing" in capsys.readouterr().err


def test_bad_questions_are_one_clear_error(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = packed().url
    for arguments, words in (
        (["show", str(tmp_path)], "holds no manifest.json"),
        (["grid", url, "--split", "test"], "no split 'test'"),
        (["grid", url, "--count", "0"], "at least 1"),
        (["grid", url, "--out", f"{url}/manifest.json/x.png"], "manifest.json is a file"),
        (["grid", url, "--out", str(tmp_path / "sheet.jpg")], "does not end in .png"),
    ):
        assert inspect_shards.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error


def test_show_tells_every_field_with_what_is_declared_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "set", MANY)
    assert inspect_shards.main(["show", str(tmp_path / "set")]) == 0
    shown = capsys.readouterr().out
    for wanted in (
        "left",
        "KEY.left.jpg",
        "things",
        "--field things=classes:things.png,classes=300 \\\n",
        "--field right=image:right.png,lossless \\\n",
        "--field near=depth:near.png,unit=codes,format=inverse,bits=8 \\\n",
        "--field far=depth:far.png,unit=codes,near=0.5,far=20 \\\n",
        "--field parts=mask:parts.png \\\n",
        "rear mean (train, red green blue): 0.0059",
    ):
        assert wanted in shown  # fmt: skip


def test_show_lists_rejects_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = pack(Disks(broken=(3,)), tmp_path / "set", processes=1, max_rejects=0.01)
    assert inspect_shards.main(["show", manifest.url]) == 0
    shown = capsys.readouterr().out
    assert "1 x broken" in shown
    assert "disk-000003: broken: on purpose" in shown


def test_damaged_files_are_counted_by_what_is_wrong_and_told_once(tmp_path: Path) -> None:
    picture = np.full((32, 40, 3), 90, np.uint8)
    for number, name in enumerate(["a", "b (1) x", "c's", *"defgh"]):
        for folder, pixels in (("images", picture), ("masks", picture[..., 0] * (number % 2))):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            data = cv2.imencode(".png", pixels)[1].tobytes()
            cut = 60 if folder == "masks" and number < 3 else None
            (tmp_path / "in" / folder / f"{name}.png").write_bytes(data[:cut])
    fields = ("image=image:images/{key}.png", "mask=mask:masks/{key}.png,foreground=any")
    declared = [word for field in fields for word in ("--field", field)]
    done = tool(
        "pack-shards",
        tmp_path / "in",
        tmp_path / "out",
        *declared,
        "--max-rejects",
        0.5,
        cwd=tmp_path,
    )
    assert (done.returncode, "WARN" in done.stderr) == (0, False), done.stderr
    rejects = Manifest.load(tmp_path / "out").rejects
    assert rejects["reasons"] == {"mask cannot be decoded": 3}
    assert rejects["list"][0]["reason"].startswith("mask 'masks/a.png' cannot be decoded: ")
