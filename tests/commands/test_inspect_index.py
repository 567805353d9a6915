"""`inspect-shards index` as a person uses it."""

from __future__ import annotations

import gzip
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.foreign import Members, make_tars, members_of, name_of, png, read_plainly
from tests.sources.people import trimap
from wdtrain.commands import pack_shards
from wdtrain.commands.inspect_shards import main
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest
from wdtrain.stream import open_stream

DECLARED = (
    "--field", "image=image:jpg|jpeg",
    "--field", "mask=mask:seg.png,foreground=1",
    "--field", "depth=depth:depth.npy,unit=m",
)  # fmt: skip


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_tars_in_braces_become_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = make_tars(tmp_path)
    pattern = tmp_path / "data-{000..002}.tar"
    none = ("--holdout-samples", "0")
    assert run("index", pattern, "--out", tmp_path / "index", *none, *DECLARED) == 0
    told = capsys.readouterr().out
    assert "indexed 70 samples of 3 tars" in told
    assert f"train with data.url={tmp_path / 'index'}" in told
    assert "nothing is held out: --holdout-samples 0.1 makes the split val" in told
    manifest = Manifest.load(str(tmp_path / "index"))
    keys = [
        key for _, _, block in walk_blocks(manifest, manifest.split("train")) for key in block.keys
    ]
    assert keys == list(read_plainly(urls))
    for action in ("show", "verify"):
        assert run(action, tmp_path / "index") == 0
    assert "70 samples decoded" in capsys.readouterr().out


def test_a_tenth_is_held_out_as_in_packing_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tars(tmp_path)
    pattern = tmp_path / "data-{000..002}.tar"
    assert run("index", pattern, "--out", tmp_path / "index", *DECLARED) == 0
    told = "held out of training: 7 of 70 samples (10%), the split val; --holdout-samples 0 holds"
    assert told in capsys.readouterr().out
    packing = [str(pattern), str(tmp_path / "packed"), *DECLARED, "--processes", "1"]
    assert pack_shards.main(packing) == 0
    held = [
        {key for _, _, block in walk_blocks(each, each.split("val")) for key in block.keys}
        for each in (Manifest.load(str(tmp_path / name)) for name in ("index", "packed"))
    ]
    assert held[0] == held[1]
    assert len(held[0]) == 7


def test_a_group_is_held_out_by_a_tenth_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tars(tmp_path, name=lambda number: f"scene{number // 2:02d}/{number:04d}")
    pattern = tmp_path / "data-{000..002}.tar"
    assert run("index", pattern, "--out", tmp_path / "a", "--group", r"(scene\d+)/", *DECLARED) == 0
    assert Manifest.load(str(tmp_path / "a")).split("val").samples in (6, 8)
    assert "of 70 samples in whole groups (" in capsys.readouterr().out
    share = ("--holdout-samples", "0.5")
    assert run("index", pattern, "--out", tmp_path / "b", *share, *DECLARED) == 0
    assert Manifest.load(str(tmp_path / "b")).split("val").samples == 35


def test_groups_that_no_name_has_are_refused_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tars(tmp_path, 5)
    tar, folder = tmp_path / "data-000.tar", tmp_path / "index"
    assert run("index", tar, "--out", folder, "--group", r"(patient\d+)", *DECLARED) == 2
    assert "finds no group in any name (the first is scene0/00000)" in capsys.readouterr().err
    assert not folder.exists()


def test_a_manifest_does_not_tell_where_a_table_of_groups_lies(tmp_path: Path) -> None:
    make_tars(tmp_path, 20)
    table = tmp_path / "patients.csv"
    rows = [f"{name_of(number)},{number // 4}" for number in range(20)]
    table.write_text("\n".join(["name,patient", *rows]))
    tar, folder = tmp_path / "data-000.tar", tmp_path / "index"
    assert run("index", tar, "--out", folder, "--group", f"{table}:patient", *DECLARED) == 0
    assert Manifest.load(str(folder)).settings["group"] == "patients.csv:patient"


@pytest.mark.parametrize("count", [5, 20])
def test_trimaps_are_asked_about_before_all_tars_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    def members(number: int) -> Members:
        of_number = members_of(number)
        return [("tri.png", png(trimap(number))), *(each for each in of_number if "JPG" in each)]

    (tar,) = make_tars(tmp_path, count, members=members)
    declared = ["--field", "image=image:jpg", "--field", "mask=mask:tri.png"]
    assert run("index", tar, "--out", tmp_path / "index", *declared) == 2
    assert "--field 'mask=mask:tri.png,unknown=128' (255 is" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
    declared[-1] += ",alpha"
    assert run("index", tar, "--out", tmp_path / "index", *declared) == 0


def test_a_name_becomes_the_key_that_packing_makes_of_it(tmp_path: Path) -> None:
    from wdtrain.sources.names import name_of as name_of_key

    make_tars(tmp_path, 5, name=lambda number: f"room {number}/a-b")
    none = ("--holdout-samples", "0", *DECLARED)
    assert run("index", tmp_path / "data-000.tar", "--out", tmp_path / "index", *none) == 0
    manifest = Manifest.load(str(tmp_path / "index"))
    ((_, _, block),) = walk_blocks(manifest, manifest.split("train"))
    assert [name_of_key(key) for key in block.keys] == [f"room {number}/a-b" for number in range(5)]
    assert name_of(0) not in block.keys


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--field", "image=image:{key}.jpg"], "is no ending; write for example"),
        (["--field", "image=jpg"], "names no kind"),
        (["--field", "image=picture:jpg"], "'picture' is not known here"),
        ([*DECLARED, "--holdout-samples", "1"], "must be in [0, 1)"),
        ([*DECLARED, "--max-rejects", "2"], "a share from 0 to 1"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (url,) = make_tars(tmp_path, 5)
    assert run("index", url, "--out", tmp_path / "index", *arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.startswith("error: ")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize(
    "given", ["packed 0.tar.gz", "packed {0..1}.tar.gz", "*.gz", "bare*", "bare{0..1}.tar"]
)
def test_compressed_tars_are_unpacked_and_indexed_by_one_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    is_relative: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, url in enumerate(make_tars(tmp_path / "plain", 10, 5)):
        names = [f"packed {number}.tar.gz", f"bare{number}.tar"]
        (tmp_path / names["bare" in given]).write_bytes(gzip.compress(Path(url).read_bytes()))
    how = ("--holdout-samples", "0.5", *DECLARED)
    text = given if is_relative else tmp_path / given
    assert run("index", text, "--out", tmp_path / "index", *how) == 2
    unpack_and_index(capsys.readouterr().err)
    manifest = Manifest.load(str(tmp_path / "index"))
    assert manifest.samples == (5 if " 0.tar" in given else 10)
    assert manifest.settings["holdout"] == 0.5


def unpack_and_index(errors: str) -> None:
    """What a refusal says is done."""
    command = errors.strip().rpartition("indexes all: ")[2]
    unpack, _, again = command.rpartition(" && ")
    subprocess.run(["bash", "-ec", unpack], check=True)
    tool, *arguments = shlex.split(again)
    assert tool == "tools/inspect-shards"
    assert main(arguments) == 0


@pytest.mark.parametrize("packed", ["mixed/b1.tar", "mixed/b1.tar.gz", "mixed/b1.tgz"])
def test_of_tars_of_which_one_is_compressed_that_one_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, other = make_tars(tmp_path / "plain", 10, 5)
    Path("mixed").mkdir()
    Path(plain).rename("mixed/b0.tar")
    Path(packed).write_bytes(gzip.compress(Path(other).read_bytes()))
    assert run("index", "mixed/b*", "--out", "mixed/index", *DECLARED) == 2
    unpack_and_index(capsys.readouterr().err)
    assert Manifest.load("mixed/index").samples == 10
    assert sorted(path.name for path in Path("mixed").glob("b0*")) == ["b0.tar"]


@pytest.mark.parametrize(
    ("count", "group", "why"),
    [
        (1, [], "one sample cannot be divided"),
        (6, ["--group", "(scene)/"], "one group cannot be divided"),
    ],
)
def test_what_cannot_be_divided_is_not_said_to_need_a_share(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    group: list[str],
    why: str,
) -> None:
    (tar,) = make_tars(tmp_path, count, name=lambda number: f"scene/{number:04d}")
    assert run("index", tar, "--out", tmp_path / "index", *group, *DECLARED) == 0
    told = capsys.readouterr().out
    assert f"nothing is held out, though --holdout-samples is 0.1: {why}; " in told
    assert "makes the split val" not in told


def test_by_index_come_the_pixels_that_come_by_repacking(tmp_path: Path) -> None:
    """Of the same keys, also at another size."""
    urls = make_tars(tmp_path, 40, 20, members=lambda number: members_of(number, (48, 64)))
    none = ("--holdout-samples", "0")
    assert run("index", *urls, "--out", tmp_path / "index", *none, *DECLARED) == 0
    how = ("--processes", "1", *none)
    pattern = str(tmp_path / "data-{000..001}.tar")
    assert pack_shards.main([pattern, str(tmp_path / "packed"), *DECLARED, *how]) == 0
    for size in (None, 24, (20, 36)):
        found = [
            {
                key: [batch[name][row].numpy().tobytes() for name in ("image", "mask", "depth")]
                for batch in open_stream(
                    str(tmp_path / name), split="train", batch_size=8, seed=1, chunk=4, size=size
                )
                for row, key in enumerate(batch.keys)
            }
            for name in ("index", "packed")
        ]
        assert len(found[0]) == 40
        assert found[0] == found[1]


def test_every_action_takes_an_index_of_mixed_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def members(number: int) -> Members:
        return members_of(number, (24 + number % 3 * 8, 32 + number % 2 * 16))

    urls = make_tars(tmp_path, 40, members=members)
    out = tmp_path / "index"
    assert run("index", *urls, "--out", out, "--holdout-samples", "0.2", *DECLARED) == 0
    assert "24 x 32 to 40 x 48 (data.size is needed: height and width)" in capsys.readouterr().out
    assert run("show", out) == 0
    assert run("verify", out) == 0
    assert run("audit", out) == 0
    assert run("grid", out, "--out", tmp_path / "grid.png", "--count", "6") == 0
    assert run("order", out, "--position", "0", "--count", "3") == 0
    told = capsys.readouterr().out
    assert "40 samples of 24 x 32 to 40 x 48" in told
    assert "40 samples decoded" in told
    assert "data-000.tar" in told
