"""Laws of what tools write: never over what they did not make, whole or not at all, below --out."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.record import outputs as module
from wdtrain.record.outputs import (
    RECORD_NAME,
    OutputError,
    Outputs,
    read_record,
    safe_name,
    write_new,
)


def made_by(tool: str, folder: Path, *, overwrite: bool = False) -> Outputs:
    return Outputs(folder, tool, overwrite=overwrite)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writes_into_folders_that_it_makes_and_notes_what(tmp_path: Path) -> None:
    outputs = made_by("predict", tmp_path / "new" / "out")
    outputs.check(["a/x.png", "y.png"])
    assert not (tmp_path / "new").exists()
    outputs.write("a/x.png", b"one")
    outputs.write("y.png", b"two")
    assert (tmp_path / "new" / "out" / "a" / "x.png").read_bytes() == b"one"
    assert names_in(tmp_path / "new" / "out") == {"a", "y.png", RECORD_NAME}
    made = list(read_record(tmp_path / "new" / "out"))
    assert [(one.name, one.tool) for one in made] == [("a/x.png", "predict"), ("y.png", "predict")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_others_made_stays_as_it_is(tmp_path: Path, overwrite: bool) -> None:
    """A file of the user, of another tool, a link, a folder: none is ever replaced."""
    made_by("grid", tmp_path).write("grid.png", b"of the grid")
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("mine.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    outputs = made_by("predict", tmp_path, overwrite=overwrite)
    for name in ("grid.png", "mine.png", "folder.png", "link.png", "dangling.png"):
        for act in (lambda name: outputs.check([name]), lambda name: outputs.write(name, b"ours")):
            with pytest.raises(OutputError, match=f"{name} exists and was not made by predict"):
                act(name)
    assert (tmp_path / "grid.png").read_bytes() == b"of the grid"
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere.png").exists()
    assert len(list(read_record(tmp_path))) == 1


def test_its_own_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    made_by("predict", tmp_path).write("x.png", b"one")
    with pytest.raises(OutputError, match="give --overwrite"):
        made_by("predict", tmp_path).write("x.png", b"two")
    assert (tmp_path / "x.png").read_bytes() == b"one"
    for data in (b"two", b"one", b"three"):
        made_by("predict", tmp_path, overwrite=True).write("x.png", data)
        assert (tmp_path / "x.png").read_bytes() == data
    assert len(list(read_record(tmp_path))) == 3  # the same bytes are noted once


def test_its_own_that_was_changed_since_stays(tmp_path: Path) -> None:
    made_by("predict", tmp_path).write("x.png", b"one")
    (tmp_path / "x.png").write_bytes(b"retouched by hand")
    outputs = made_by("predict", tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="has been changed since predict made it"):
        outputs.check(["y.png", "x.png"])
    with pytest.raises(OutputError, match="has been changed since"):
        outputs.write("x.png", b"two")
    assert (tmp_path / "x.png").read_bytes() == b"retouched by hand"


def test_a_refusal_counts_the_others(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"0\.png exists.*\(and 3 more like it\)"):
        made_by("predict", tmp_path).check(f"{number}.png" for number in range(6))


def test_a_file_that_comes_between_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def late(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"mine, just now")
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputError, match=r"was not made by|changed since"):
        made_by("predict", tmp_path).write("x.png", b"ours")
    assert (tmp_path / "x.png").read_bytes() == b"mine, just now"
    assert names_in(tmp_path) == {"x.png", RECORD_NAME}


def test_file_systems_without_links_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    made_by("predict", tmp_path).write("x.png", b"ours")
    assert (tmp_path / "x.png").read_bytes() == b"ours"
    (tmp_path / "y.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "y.png", b"ours")
    assert names_in(tmp_path) == {"x.png", "y.png", RECORD_NAME}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_the_file_before_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    made_by("predict", tmp_path).write("old.png", b"before")
    outputs = made_by("predict", tmp_path, overwrite=overwrite)
    monkeypatch.setattr(
        module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    name = "old.png" if overwrite else "new.png"
    with pytest.raises(OSError, match="No space left") as caught:
        outputs.write(name, b"after")
    assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / "old.png").read_bytes() == b"before"
    assert names_in(tmp_path) == {"old.png", RECORD_NAME}


def test_a_kill_leaves_whole_files_and_no_strangers(tmp_path: Path) -> None:
    """Killed while it writes, again and again: each time what stands there may be replaced."""
    code = (
        "import sys\nfrom wdtrain.record.outputs import Outputs\n"
        "out = Outputs(sys.argv[1], 'tool', overwrite=True)\nprint(flush=True)\n"
        "for number in range(10**6): out.write('x.png', (b'%06d' % (number % 7)) * 1000)\n"
    )
    for _ in range(5):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not (tmp_path / "x.png").exists():
                assert process.poll() is None
            process.kill()
        data = (tmp_path / "x.png").read_bytes()
        assert data == data[:6] * 1000
        made_by("tool", tmp_path, overwrite=True).check(["x.png"])


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    one, two = (made_by("predict", tmp_path) for _ in range(2))
    one.write("a.png", b"a")
    two.write("b.png", b"b")
    assert {made.name for made in read_record(tmp_path)} == {"a.png", "b.png"}
    made_by("predict", tmp_path, overwrite=True).check(["a.png", "b.png"])


def test_half_a_line_of_the_record_makes_a_stranger_of_its_file_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        made_by("predict", tmp_path).write(name, b"data")
    record = tmp_path / RECORD_NAME
    record.write_text(record.read_text()[:-20] + "\n[]\n3\n" + json.dumps({"name": "a.png"}) + "\n")
    outputs = made_by("predict", tmp_path, overwrite=True)
    outputs.check(["a.png"])
    with pytest.raises(OutputError, match=r"b\.png exists"):
        outputs.check(["b.png"])


@pytest.mark.parametrize("name", ["/x.png", "../x.png", "a/../../x.png", "", "a/.."])
def test_no_result_lies_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="outside"):
        made_by("predict", tmp_path / "out").write(name, b"data")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"file is a file, so nothing can be written below"):
            made_by("predict", folder).check(["x.png"])


def test_a_folder_that_may_not_be_written_to_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(OutputError, match="may not be written to"):
        made_by("predict", tmp_path / "out").check([])


def test_one_file_has_the_ending_of_what_it_holds(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "is a folder; name a file"),
        (Path(), "is a folder"),
        (tmp_path / "sheet.jpg", r"does not end in \.png.*name it sheet\.png"),
        (tmp_path / "sheet", r"does not end in \.png"),
    ):
        with pytest.raises(OutputError, match=words):
            Outputs.for_file(path, "grid", overwrite=False, ending=".png")
    Outputs.for_file(tmp_path / "sheet.PNG", "grid", overwrite=False, ending=".png")


@given(st.text(st.sampled_from("./\\a:\0ü \n\udc80"), max_size=12) | st.text(max_size=300))
def test_any_text_is_a_name_below_the_folder(text: str) -> None:
    name = safe_name(text)
    parts = name.split("/")
    assert all(part and not part.startswith(".") and part.isprintable() for part in parts)
    assert all(len(part.encode()) <= 200 for part in parts)
    assert os.path.normpath(f"/top/{name}").startswith("/top/")


def test_names_stay_what_they_are_where_they_are_safe() -> None:
    for name in ("playground-000000017", "2024/Strand ü.jpg", "a.b-c_d", "x (1)"):
        assert safe_name(name) == name
    assert safe_name("/etc/passwd") == "etc/passwd"
    assert safe_name("../../x") == "x"
    assert safe_name(".bashrc") == "bashrc"
    assert safe_name("") == safe_name("../..") == "unnamed"
    long = [safe_name("k" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2


def test_a_new_file_may_hold_what_is_to_be_written_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_new(path, b"data", synced=False)
    write_new(path, b"data", synced=False)
    with pytest.raises(FileExistsError):
        write_new(path, b"other", synced=False)
    assert path.read_bytes() == b"data"
    assert names_in(tmp_path) == {"x.json"}
