"""Laws of the make-triples command: whole folders, resumed, refused with one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wdtrain.commands.make_triples import lift_path, write_triples
from wdtrain.fields import FieldError, Sample
from wdtrain.fields.jpeg import decode_jpeg
from wdtrain.fields.png import decode_png
from wdtrain.fields.sample import decode_meta
from wdtrain.scenes.playground import Playground

TOOL = Path(__file__).parents[2] / "tools" / "make-triples"


def make_triples(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Interrupted(Playground):
    """A playground that is interrupted when triple 3 is made."""

    def load(self, index: int) -> Sample:
        if index == 3:
            raise KeyboardInterrupt
        return super().load(index)


class Picky(Playground):
    """A playground that rejects triple 3."""

    def load(self, index: int) -> Sample:
        if index == 3:
            raise FieldError("it is the third")
        return super().load(index)


def test_writes_what_the_source_holds_from_any_folder(tmp_path: Path) -> None:
    options = ("--count", 5, "--size", 32, "--difficulty", 0.3, "--seed", 2)
    done = make_triples("playground", *options, "--out", "scenes", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 triples in scenes, 0 rejected\n"
    source, out = Playground(5, 32, difficulty=0.3, seed=2), tmp_path / "scenes"
    assert len(contents(out)) == 5 * 4 + 1
    for index in range(5):
        triple = source.load(index)
        stem = out / triple.key
        for name in ("mask", "depth"):
            data = Path(f"{stem}.{name}.png").read_bytes()
            pixels = decode_png(data, name=name, dtype=np.dtype(np.uint8))
            assert np.array_equal(pixels, triple.arrays[name])
        assert decode_meta(Path(f"{stem}.json").read_bytes()) == triple.meta
        overlay = decode_jpeg(Path(f"{stem}.overlay.jpg").read_bytes())
        assert np.abs(overlay.astype(int) - np.asarray(triple.arrays["overlay"])).mean() < 6
    index_file = json.loads((out / "triples.json").read_text())
    assert index_file["depth"] == source.depth_format.as_dict()
    assert index_file["source"] == source.description
    assert index_file["count"] == 5


def test_an_interrupted_run_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    write_triples(Playground(6, 32), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write_triples(Interrupted(6, 32), tmp_path / "two")
    assert not (tmp_path / "two" / "triples.json").exists()
    (tmp_path / "two" / ".wdtrain-0123456789abcdef.partial").write_bytes(b"half")
    first = tmp_path / "two" / "playground-000000000.json"
    os.utime(first, (1, 1))
    write_triples(Playground(6, 32), tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")
    assert first.stat().st_mtime == 1


def test_a_whole_folder_is_left_as_it_is(tmp_path: Path) -> None:
    write_triples(Playground(3, 32), tmp_path / "out")
    (tmp_path / "out" / "playground-000000001.json").unlink()
    before = contents(tmp_path / "out")
    write_triples(Playground(3, 32), tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_rejects_are_listed_with_their_reason(tmp_path: Path) -> None:
    rejects = write_triples(Picky(5, 32), tmp_path / "out")
    assert rejects == [{"key": "playground-000000003", "reason": "it is the third"}]
    index = json.loads((tmp_path / "out" / "triples.json").read_text())
    assert (index["count"], index["rejects"]) == (4, rejects)
    assert not list((tmp_path / "out").glob("playground-000000003*"))


def test_composes_a_kit_and_keeps_its_lift(kit: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--depth", "lift", "--placements", 2, "--count", 6, "--size", 32, "--seed", 1)
    pictures = ("--backgrounds", kit[0], "--cutouts", kit[1])
    done = make_triples("compose", *pictures, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "5 backgrounds x 4 cut-outs x 2 x 2 placements = 80 triples" in done.stdout
    assert len(contents(out)) == 6 * 4 + 1
    again = make_triples(
        "compose", *pictures, *options, "--lift", lift_path(out), "--out", tmp_path / "again"
    )
    assert again.returncode == 0, again.stderr
    ours, theirs = contents(out), contents(tmp_path / "again")
    ours.pop("triples.json"), theirs.pop("triples.json")
    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("playground", "--count", 0), "at least 1 scene"),
        (("playground", "--count", 3, "--difficulty", 7), "difficulty is 7.0"),
        (("playground", "--count", 3, "--placements", 0), "placements is 0"),
        (("compose", "--backgrounds", "none", "--cutouts", "none"), "does not exist"),
        (("import-seed", "."), "has no folder fg/"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    done = make_triples(*arguments, "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(ValueError, match="is not empty"):
        write_triples(Playground(3, 32), tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        write_triples(Playground(3, 32), tmp_path / "letters")
    write_triples(Playground(3, 32), tmp_path / "out")
    with pytest.raises(ValueError, match="another specification"):
        write_triples(Playground(4, 32), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write_triples(Interrupted(6, 32), tmp_path / "begun")
    with pytest.raises(ValueError, match="interrupted run of another specification"):
        write_triples(Playground(7, 32), tmp_path / "begun")


def test_every_command_helps_with_an_example() -> None:
    for command in ("playground", "compose", "import-seed"):
        done = make_triples(command, "--help")
        assert done.returncode == 0
        assert f"make-triples {command}" in done.stdout


def test_what_somebody_put_into_a_begun_folder_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_triples(Interrupted(6, 32), out)
    mine = [out / "playground-000000004.mask.png", out / "movie.part", out / "notes.txt"]
    for path in mine:
        path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"000000004\.mask\.png exists and is not what is made"):
        write_triples(Playground(6, 32), out)
    assert all(path.read_bytes() == b"mine" for path in mine)
    mine[0].unlink()
    write_triples(Playground(6, 32), out)
    assert (out / "triples.json").is_file()
    assert mine[1].read_bytes() == b"mine"


def test_lifts_that_were_corrected_by_hand_are_kept(kit: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("compose", "--backgrounds", kit[0], "--cutouts", kit[1], "--placements", 1)
    asked = (*asked, "--count", 3, "--size", 32, "--out", out)
    assert make_triples(*asked).returncode == 0
    fitted = lift_path(out).read_bytes()
    again = make_triples(*asked)
    assert (again.returncode, lift_path(out).read_bytes()) == (0, fitted)
    assert "correct it by hand" in again.stdout
    corrected = fitted.replace(b'"wall"', b'"wall" ')
    lift_path(out).write_bytes(corrected)
    again = make_triples(*asked)
    assert again.returncode == 0
    assert "was there already with other numbers" in again.stdout
    assert lift_path(out).read_bytes() == corrected


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"depth": 3}', "\x00"])
def test_a_folder_with_another_triples_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "triples.json").write_text(text)
    with pytest.raises(ValueError, match="holds triples of another specification"):
        write_triples(Playground(3, 32), tmp_path)
    assert (tmp_path / "triples.json").read_text() == text
