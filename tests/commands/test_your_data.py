"""docs/your-data.md: what it says is run, and a first refusal's command packs what was refused."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.sources.people import (
    COUNT,
    classes,
    figure,
    metres,
    photo,
    shard,
    with_palette,
    write,
    write_tar,
)
from tests.sources.test_suggest import CASES
from wdtrain.packing.verify import verify, walk_blocks
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


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of the page, as a person would give it in a folder of theirs."""
    words = shlex.split(command)
    words[0] = str(ROOT / words[0])
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


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
def test_the_commands_of_the_page_pack_what_they_say(folders: Path, title: str) -> None:
    if "saved" in SECTIONS[title][0]:
        save_rows(folders)
    for command in SECTIONS[title]:
        if not command.startswith("tools/"):  # training is tested elsewhere
            continue
        done = run(command, folders)
        assert done.returncode == 0, done.stderr
    target = folders / shlex.split(SECTIONS[title][0])[2]
    manifest = Manifest.load(str(target))
    assert manifest.samples == COUNT
    assert manifest.rejects["count"] == 0
    assert verify(manifest, lambda done, total: None) == []


def test_groups_fall_on_one_side(folders: Path) -> None:
    command = SECTIONS["Two masks and a depth, under names of their own"][0]
    assert run(command.replace("shards/street", "grouped"), folders).returncode == 0
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
def test_only_the_first_refusals_command_is_pasted(tmp_path: Path, case: str) -> None:
    make, _ = CASES[case]
    for number in range(COUNT):
        make(tmp_path / "mine", number)
    first = run("tools/pack-shards mine set --processes 1", tmp_path)
    assert first.returncode == 2
    assert first.stderr.startswith("error: ")
    assert "Traceback" not in first.stderr
    assert not (tmp_path / "set" / "manifest.json").exists()
    *_, told, command = first.stderr.splitlines()
    assert told.startswith("This command packs it")
    words = shlex.split(command)
    assert words[0].endswith("pack-shards")
    pasted = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} {command.strip()}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert pasted.returncode == 0, pasted.stderr
    manifest = Manifest.load(str(tmp_path / "set"))
    assert manifest.samples == COUNT
    assert verify(manifest, lambda done, total: None) == []


def test_tars_are_pasted_as_well(tmp_path: Path) -> None:
    write_tar(tmp_path / "mine" / "a-0.tar", shard(range(6)))
    first = run("tools/pack-shards mine/a-0.tar set", tmp_path)
    assert first.returncode == 2
    command = first.stderr.splitlines()[-1].strip()
    assert "--field image=image:jpg --field mask=mask:seg.png" in command
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} {command}"], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
