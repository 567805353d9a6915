"""docs/your-data.md: what it says is run, and a first refusal's command packs what was refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import zstandard

from tests.remote.servers import FaultyServer
from tests.sources.people import (
    COUNT,
    classes,
    figure,
    metres,
    photo,
    shard,
    trimap,
    with_palette,
    write,
    write_tar,
)
from tests.sources.test_suggest import CASES
from wdtrain import fields
from wdtrain.commands import bench_stream, inspect_shards, pack_shards
from wdtrain.packing.verify import verify, walk_blocks
from wdtrain.sources import packed_tars
from wdtrain.store.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "your-data.md").read_text()
FULL = np.uint8(255)


def sections() -> Iterator[tuple[str, list[str]]]:
    """The commands of each section of the page that has any."""
    for part in re.split(r"(?m)^## ", PAGE)[1:]:
        commands = re.findall(r"(?m)^    (tools/.*|python .*)$", part)
        if commands:
            yield part.splitlines()[0], commands


SECTIONS = dict(sections())


TOOLS = {"pack-shards": pack_shards.main, "inspect-shards": inspect_shards.main}


def run(command: str) -> int:
    """The exit code of a command of the page, given in the working directory."""
    words = shlex.split(command)
    return TOOLS[words[0].rpartition("/")[2]]([*words[1:], *_one_process(words[0])])


def _one_process(tool: str) -> list[str]:
    return ["--processes", "1"] if tool.endswith("pack-shards") else []


def write_all(top: Path) -> None:
    """The folders that the page speaks of."""
    for number in range(COUNT):
        n = f"{number:02d}"
        split = "val" if number % 4 == 0 else "train"
        write(top / f"rooms/photos/{n} a.jpg", photo(number))
        write(top / f"rooms/labels/{n} a.png", classes(number))
        write(top / f"yolo/images/{split}/{n}.jpg", photo(number))
        write(top / f"yolo/depth/{split}/{n}.npy", metres(number))
        write(top / f"nyu/{n}_colors.png", photo(number))
        write(top / f"nyu/{n}_depth.png", (metres(number) * 1000).astype(np.uint16))
        write(top / f"people/images/{n}.jpg", photo(number))
        write(top / f"people/masks/{n}.png", figure(number))
        write(top / f"VOC2012/JPEGImages/{n}.jpg", photo(number, 256, 300 + 20 * (number % 2)))
        labels = np.kron(figure(number), np.ones((16, 16), np.uint8))[
            :256, : 300 + 20 * (number % 2)
        ]
        write(top / f"VOC2012/SegmentationClass/{n}.png", with_palette(labels))
        drive = f"drive{number % 4}_{n}"
        write(top / f"street/cam/{drive}.png", photo(number))
        write(top / f"street/person/{drive}.png", figure(number) * FULL)
        write(top / f"street/road/{drive}.png", with_palette(figure(number)))
        write(top / f"street/lidar/{drive}.png", (metres(number) * 256).astype(np.uint16))
        write(top / f"seed/fg/fg_bg_{number}.jpg", photo(number))
        write(top / f"seed/mask/mask_fg_bg_{number}.jpg", figure(number) * FULL)
        write(top / f"seed/depth/depth_fg_bg_{number}.jpg", (metres(number) * 20).astype(np.uint8))
    for number in range(2):
        write_tar(top / f"tars/data-{number:04d}.tar", shard(range(6 * number, 6 * number + 6)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("people")
    write_all(top)
    return top


def save_rows(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.sources.test_hf_source import table

    tables = {"train": table(range(8)), "validation": table(range(8, 12))}
    datasets.DatasetDict(tables).save_to_disk(str(folder / "saved"))


@pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes
@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_of_the_page_pack_what_they_say(
    folders: Path, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    monkeypatch.chdir(folders)
    if "saved" in SECTIONS[title][0]:
        save_rows(folders)
    for command in SECTIONS[title]:
        if command.startswith("tools/"):  # training is tested elsewhere
            assert run(command) == 0
    words = shlex.split(SECTIONS[title][0])
    target = words[words.index("--out") + 1] if "--out" in words else words[2]
    manifest = Manifest.load(str(folders / target))
    assert manifest.samples == COUNT
    assert manifest.rejects["count"] == 0
    assert verify(manifest, lambda done, total: None) == []


def test_groups_fall_on_one_side(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    command = SECTIONS["Two masks and a depth, under names of their own"][0]
    assert run(command.replace("shards/street", "grouped")) == 0
    manifest = Manifest.load(str(folders / "grouped"))
    assert list(manifest.fields) == ["rgb", "person", "road", "far"]
    groups = {
        split: {
            block.meta(row)["group"]
            for _, _, block in walk_blocks(manifest, manifest.split(split))
            for row in range(len(block.keys))
        }
        for split in manifest.splits
    }
    assert len(groups) > 1
    assert len(set().union(*groups.values())) == sum(map(len, groups.values())) == 4


@pytest.mark.parametrize("case", CASES)
def test_only_the_first_refusals_command_is_pasted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        CASES[case][0](tmp_path / "mine", number)
    assert pack_shards.main(["mine", "set", "--processes", "1", "--seed", "7"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ")
    assert not (tmp_path / "set" / "manifest.json").exists()
    *_, told, command = refused.splitlines()
    assert told.startswith("This command packs it")
    words = shlex.split(command)
    assert words[:5] == ["pack-shards", "mine", "set", "--processes", "1"]
    assert pack_shards.main(words[1:]) == 0
    manifest = Manifest.load(str(tmp_path / "set"))
    assert manifest.samples == COUNT
    assert verify(manifest, lambda done, total: None) == []


@pytest.mark.parametrize("more", [[], ["--size", "24"]])
def test_pictures_of_several_shapes_are_fitted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        size = (32, 48) if number % 3 else (32, 32 + number)
        write(tmp_path / f"mine/images/{number}.jpg", photo(number, *size))
        write(tmp_path / f"mine/masks/{number}.png", figure(number, *size) * FULL)
    assert pack_shards.main(["mine", "set", *more]) == 2
    told, command = capsys.readouterr().err.splitlines()[-2:]
    assert told == "This command packs it, all cropped to one shape:"
    assert command.endswith("--fit crop" if more else "--size 32x48 --fit crop")
    assert pack_shards.main([*shlex.split(command)[1:], "--processes", "1"]) == 0
    manifest = Manifest.load(str(tmp_path / "set"))
    assert (manifest.samples, manifest.rejects["count"]) == (COUNT, 0)
    declared = ["--field", "image=image:images/{key}.jpg", "--field", "mask=mask:masks/{key}.png"]
    assert pack_shards.main(["mine", "other", *declared, *more]) == 2
    assert shlex.split(capsys.readouterr().err.splitlines()[-1])[-2:] == ["--fit", "crop"]


def test_it_is_pasted_into_a_shell(tmp_path: Path) -> None:
    for number in range(COUNT):
        CASES["three folders of other names"][0](tmp_path / "my data", number)
    tool = ROOT / "tools" / "pack-shards"
    first = subprocess.run(
        [sys.executable, tool, "my data", "set"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 2
    command = first.stderr.splitlines()[-1].strip()
    assert command.startswith(str(tool))
    line = f"{shlex.quote(sys.executable)} {command}"
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False).returncode == 0
    assert Manifest.load(str(tmp_path / "set")).samples == COUNT


def test_what_was_declared_is_kept_and_what_it_leaves_open_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        CASES["three folders"][0](tmp_path / "mine", number)
    given = ["mine", "set", "--field", "rgb=image:image/{key}.jpg", "--processes", "1"]
    assert pack_shards.main([*given, "--field=far=depth:depth/{key}.png"]) == 2
    refused = capsys.readouterr().err
    assert "nothing says in which unit" in refused
    words = shlex.split(refused.splitlines()[-1])[1:]
    assert words[-4:] == [
        *("--field", "rgb=image:image/{key}.jpg"),
        *("--field", "far=depth:depth/{key}.png,unit=mm"),
    ]
    assert pack_shards.main(words) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mine", "set", "--field", "image=photos/{key}.jpg"), "write --field 'image=image:photos"),
        (("mine", "set", "--field", "image=image:photo/{key}.jpg"), "holds no file of the pattern"),
        (
            ("mine", "set", "--field", "image=image:{split}/{key}.jpg"),
            "{split} is a folder named train",
        ),
        (("mine", "set", "--layout", "coco"), "there are triples, seed, yolo-depth, voc, nyu, hf"),
        (("mine", "set", "--layout", "triples", "--field", "i=image:{key}.jpg"), "leave one of"),
        (("mine", "set", "--layout", "hf"), "declare them, as --field image=image:image"),
        (("mine", "set", "--group", "(scene)"), "holds no triples"),
        (("mine", "set", "--kind", "normals"), "write --kind NAME=package.module:Class"),
        (("mine", "set", "--kind", "normals=nowhere:Normals"), "cannot be imported"),
        (("playground:count=9,size=16", "set", "--field", "i=image:{key}.jpg"), "made on the fly"),
        (("mine.tar", "set"), "which of its members are packed"),
        (("https://localhost/folder", "set"), "neither a tar nor a folder"),
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
    for number in range(3):
        write(tmp_path / "mine" / "photos" / f"{number}.jpg", photo(number))
    before = sorted(tmp_path.rglob("*"))
    assert pack_shards.main([*arguments, "--processes", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error.splitlines()[0]
    assert sorted(path for path in tmp_path.rglob("*") if "set" not in path.parts) == before
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_kind_of_ones_own_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fields, "KINDS", dict(fields.KINDS))
    for number in range(COUNT):
        CASES["three folders"][0](tmp_path / "mine", number)
    given = ["mine", "set", "--processes", "1", "--kind", f"inked={__name__}:Inked"]
    declared = ["--field", "image=image:image/{key}.jpg", "--field", "ink=inked:mask/{key}.png"]
    assert pack_shards.main([*given, *declared]) == 0
    assert isinstance(Manifest.load(str(tmp_path / "set")).fields["ink"], Inked)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (inspect_shards, ["show", "set"]),
        (inspect_shards, ["verify", "set"]),
        (inspect_shards, ["audit", "set"]),
        (inspect_shards, ["grid", "set"]),
        (inspect_shards, ["order", "set", "--position", "0"]),
        (inspect_shards, ["order", "set", "--shuffle"]),
        (inspect_shards, ["augment", "set", "00", "--epoch", "0"]),
        (bench_stream, ["set", "--samples", "9", "--rounds", "1", "--threads", "1"]),
    ],
    ids=str,
)
def test_a_dataset_with_a_kind_of_ones_own_is_opened_by_every_tool(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tool: ModuleType,
    arguments: list[str],
) -> None:
    test_a_kind_of_ones_own_is_packed(tmp_path, monkeypatch)
    fields.KINDS.pop("inked")
    assert tool.main(arguments) == 2
    assert "give --kind inked=PACKAGE.MODULE:CLASS" in capsys.readouterr().err
    assert tool.main([*arguments, "--kind", f"inked={__name__}:Inked"]) == 0


@dataclass(frozen=True)
class Inked(fields.MaskField):
    """A kind of somebody's own."""

    kind: ClassVar[str] = "inked"


def test_show_prints_what_was_declared_so_that_it_packs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fields, "KINDS", dict(fields.KINDS))
    for number in range(COUNT):
        CASES["three folders of other names"][0](tmp_path / "mine", number)
    declared = [
        *("--field", "rgb=image:my photos/img_{key}.png"),
        *("--field", "who=mask:masks/m{key}.png,optional,foreground=1|3,unknown=255"),
        *("--field", "ink=inked:masks/m{key}.png,foreground=any"),
        *("--field", "far=depth:depths/d-{key}-x.npy,unit=m,far=90,near=1"),
    ]
    given = ["mine", "set", "--processes", "1", "--kind", f"inked={__name__}:Inked"]
    assert pack_shards.main([*given, *declared]) == 0
    again = _shown("set", capsys)
    assert again[::2] == ["--kind", *["--field"] * 4]
    assert again[7] == "ink=inked:masks/m{key}.png,foreground=any"
    assert pack_shards.main(["mine", "again", "--processes", "1", *again]) == 0
    first, second = (Manifest.load(str(tmp_path / name)) for name in ("set", "again"))
    assert first.fields == second.fields
    assert _shown("again", capsys) == again


@pytest.mark.parametrize("layout", ["seed", "voc"])
def test_show_prints_a_layout_that_tells_more_than_patterns_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        CASES[layout][0](tmp_path / "mine", number)
    given = ["mine", "set", "--processes", "1"]
    assert pack_shards.main([*given, "--layout", layout]) == 0
    again = _shown("set", capsys)
    assert again[:2] == ["--layout", layout]
    assert pack_shards.main([*given, *again]) == 0
    assert "packed already with these settings" in capsys.readouterr().out


def _shown(dataset: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of the declaration that `show` prints."""
    capsys.readouterr()
    assert inspect_shards.main(["show", dataset]) == 0
    lines = iter(capsys.readouterr().out.splitlines())
    assert "declared by" in lines
    declaration = ""
    for line in lines:
        declaration += line.removesuffix("\\")
        if not line.endswith("\\"):
            return shlex.split(declaration)
    raise AssertionError("the declaration has no end")


_PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.compress,
}


@pytest.mark.parametrize("ending", _PACK)
@pytest.mark.parametrize(
    ("source", "declared"),
    [
        ("some tars", []),
        ("some tars/data-{{0..1}}.tar.{}", []),
        ("some tars/data-{{0..1}}.tar.{}", ["--field", "rgb=image:jpg"]),
        ("*/*.tar.{}", ["--field", "rgb=image:jpg"]),
    ],
)
def test_compressed_tars_are_refused_with_the_command_that_unpacks_and_packs_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    ending: str,
    declared: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some tars").mkdir()
    for number in range(2):
        plain = write_tar(tmp_path / "data.tar", shard(range(6 * number, 6 * number + 6)))
        packed = tmp_path / "some tars" / f"data-{number}.tar.{ending}"
        packed.write_bytes(_PACK[ending](plain.read_bytes()))
    given = [source.format(ending), "set", "--processes", "1", *declared]
    assert pack_shards.main(given) == 2
    *_, told, command = capsys.readouterr().err.splitlines()
    assert told == "This command unpacks and packs it:"
    unpack, _, pack = command.rpartition(" && ")
    if ending != "zst":  # its program is not everywhere
        subprocess.run(["bash", "-c", unpack], check=True)
    else:
        assert unpack.strip().startswith("for f in ")
        for number in range(2):
            write_tar(tmp_path / f"some tars/data-{number}.tar", shard(range(6)))
    assert pack_shards.main(shlex.split(pack)[1:]) == 0
    manifest = Manifest.load(str(tmp_path / "set"))
    assert manifest.samples == 12
    assert set(manifest.fields) == ({"rgb"} if declared else {"image", "mask"})


@pytest.mark.parametrize("allowed", [[], ["--max-rejects", "0.5"], ["--max-rejects=0.01"]])
def test_a_broken_file_changes_no_name_and_no_larger_share_of_rejects(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        write(tmp_path / f"mine/i/{number}.jpg", photo(number))
        write(tmp_path / f"mine/m/{number}.png", trimap(number))
    (tmp_path / "mine/m/3.png").write_bytes((tmp_path / "mine/m/3.png").read_bytes()[:60])
    declared = ["--field", "rgb=image:i/{key}.jpg", "--field", "who=mask:m/{key}.png"]
    assert pack_shards.main(["mine", "set", "--processes", "1", *declared, *allowed]) == 2
    words = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert words.count("--max-rejects") == 1
    assert ("0.17" in words) == ("0.5" not in words)
    assert pack_shards.main(words[1:]) == 0
    manifest = Manifest.load(str(tmp_path / "set"))
    assert (list(manifest.fields), manifest.samples) == (["rgb", "who"], COUNT - 1)


def test_a_glass_is_packed_as_the_alpha_that_it_is_declared_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        write(tmp_path / f"mine/i/{number}.jpg", photo(number))
        write(tmp_path / f"mine/m/{number}.png", figure(number) * np.uint8(100 + 10 * number))
    declared = ["--field", "i=image:i/{key}.jpg", "--field", "m=mask:m/{key}.png,alpha"]
    assert pack_shards.main(["mine", "set", *declared, "--processes", "1"]) == 0
    assert Manifest.load(str(tmp_path / "set")).samples == COUNT
    assert inspect_shards.main(["verify", "set"]) == 0


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("a.tar", []),
        ("a.tar.gz", []),
        ("a.tar.gz", ["--field", "rgb=image:jpg"]),
        ("{a,b}.tar.gz", []),
    ],
)
def test_of_a_signed_url_no_secret_is_told_and_what_is_told_is_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    declared: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "far" / "a.tar", shard(range(6)))
    for number in "ab":
        (tmp_path / "far" / f"{number}.tar.gz").write_bytes(
            gzip.compress((tmp_path / "far" / "a.tar").read_bytes())
        )
    is_plain = name == "a.tar"
    with FaultyServer(tmp_path / "far") as server:
        given = [f"{server.url}/{name}?sig=s3cr3tVALUE&k=2", "set", "--processes", "1", *declared]
        assert pack_shards.main(given) == 2
    told = capsys.readouterr().err
    assert "s3cr3t" not in told
    assert "curl" not in told
    error, what, command = told.splitlines()
    shlex.split(command)
    if is_plain:
        assert what == "This command packs it, with the URL in full again:"
        assert f"'{server.url}/{name}?sig=...&k=...'" in command
        return
    plain = name.removesuffix(".gz")
    if declared:
        assert "fetch it, unpack it (gzip -dc), and give the plain tar" in error
    by = "fetched and unpacked by gzip -dc"
    assert what == f"This command packs it, once {plain} is there, {by}:"
    for number in "ab":
        write_tar(tmp_path / f"{number}.tar", shard(range(6)))
    assert pack_shards.main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("declared", [[], ["--field", "rgb=image:jpg"]])
def test_large_compressed_tars_are_advised_on_by_their_first_samples(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    declared: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = write_tar(tmp_path / "d.tar", shard(range(12)))
    packed = Path("many.tar.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    member = len(shard([5])[0][1])
    monkeypatch.setattr(packed_tars, "_MOST_BYTES", 5 * member)
    assert pack_shards.main([str(packed), "set", "--processes", "1", *declared]) == 2
    *_, told, command = capsys.readouterr().err.splitlines()
    assert told == "This command unpacks and packs it:"
    subprocess.run(["bash", "-c", command.partition(" && ")[0]], check=True)
    assert pack_shards.main(shlex.split(command.partition(" && ")[2])[1:]) == 0


def test_a_mask_that_is_unknown_is_not_said_to_be_without_foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        write(tmp_path / "mine" / "i" / f"{number}.png", photo(number))
        if number > 2:
            alpha = figure(number) * FULL * np.uint8(number > 3)
            write(tmp_path / "mine" / "m" / f"{number}.png", alpha)
    declared = ["--field", "i=image:i/{key}.png", "--field", "m=mask:m/{key}.png,optional"]
    assert pack_shards.main(["mine", "set", *declared, "--processes", "1"]) == 0
    assert inspect_shards.main(["verify", "set"]) == 0
    assert "12 samples decoded, 1 of them without foreground" in capsys.readouterr().out
