"""Laws of reading the seed project's folders: names tell parts where they do, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from wdtrain.disk.failures import StoreError
from wdtrain.fields.errors import FieldError
from wdtrain.sources.layouts import open_layout
from wdtrain.sources.pattern_source import PatternSource


def jpeg(rng: np.random.Generator, *, grey: bool, size: int = 24) -> bytes:
    shape = (size, size, 1 if grey else 3)
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    data: bytes = simplejpeg.encode_jpeg(
        pixels, colorspace="GRAY" if grey else "RGB", colorsubsampling="444"
    )
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, prefix in (("fg", ""), ("mask", "mask_"), ("depth", "depth_")):
        (tmp_path / part).mkdir()
        for name in ("bg1_fg2_7", "bg1_fg3 8", "x.y"):
            data = jpeg(rng, grey=part != "fg")
            (tmp_path / part / f"{prefix}{name}.jpg").write_bytes(data)
    return tmp_path


def open_seed(folder: Path) -> PatternSource:
    return open_layout("seed", folder, [])


def number_of(source: PatternSource, name: str) -> int:
    return [source.name(index) for index in range(len(source))].index(name)


def test_a_picture_keeps_its_bytes_and_masks_what_is_bright(folder: Path) -> None:
    source = open_seed(folder)
    assert len(source) == 3
    for index in range(3):
        name = source.name(index)
        arrays = source.load(index).arrays
        assert arrays["overlay"] == (folder / "fg" / f"{name}.jpg").read_bytes()
        mask = (folder / "mask" / f"mask_{name}.jpg").read_bytes()
        greys = simplejpeg.decode_jpeg(mask, "GRAY")[..., 0]
        assert np.array_equal(arrays["mask"], np.where(greys >= 128, 255, 0))


def test_depth_is_relative_and_keeps_its_order(folder: Path) -> None:
    source = open_seed(folder)
    path = folder / "depth" / f"depth_{source.name(0)}.jpg"
    greys = simplejpeg.decode_jpeg(path.read_bytes(), "GRAY")[..., 0]
    depth = np.asarray(source.load(0).arrays["depth"])
    known = greys > 0
    assert np.array_equal(depth > 0, known)
    assert np.allclose(source.fields[2].decode(depth)[known], greys[known] / 255, atol=1 / 254)


def test_keys_are_the_names_and_groups_come_from_them(folder: Path) -> None:
    source = open_seed(folder)
    keys = [source.key(index) for index in range(3)]
    assert keys == ["bg1_fg2_7", "bg1_fg3-_208", "x-_2ey"]
    backgrounds, cutouts = source.parts(np.arange(3))
    assert backgrounds.tolist() == [1, 1, -1]
    assert cutouts.tolist() == [2, 3, -1]


def names_of(tmp_path: Path, *names: str) -> PatternSource:
    """A source of this layout whose files are of these names, and empty."""
    for part, prefix in (("fg", ""), ("mask", "mask_"), ("depth", "depth_")):
        (tmp_path / part).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / part / f"{prefix}{name}.jpg").touch()
    return open_seed(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        [f"fg_bg_{number}" for number in range(1, 30)],  # numbered composites
        [f"bg{number}" for number in range(9)] + ["bg3b"],  # one part alone: the other is not known
        [f"fg{number % 3}_{number}" for number in range(9)],
        [f"fg{number}_bg{number}" for number in range(9)],  # a number that only counts, twice
        [f"abg{number % 3}_xfg{number % 2}_{number}" for number in range(9)],  # within other words
    ],
)
def test_numbers_that_name_no_part_are_not_made_into_one(tmp_path: Path, names: list[str]) -> None:
    source = names_of(tmp_path, *names)
    assert [part.tolist() for part in source.parts(np.arange(len(source)))] == [
        [-1] * len(source)
    ] * 2


def test_numbers_that_come_again_are_parts(tmp_path: Path) -> None:
    source = names_of(tmp_path, *(f"bg{n // 3}_fg-{n % 3}_{n}" for n in range(9)))
    backgrounds, cutouts = source.parts(np.arange(9))
    assert backgrounds.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert cutouts.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".Jpe", ".JFIF"])
def test_files_are_read_under_the_endings_they_are_listed_by(folder: Path, ending: str) -> None:
    before = open_seed(folder)
    for path in folder.glob("*/*.jpg"):
        path.rename(path.with_suffix(ending))
    source = open_seed(folder)
    assert [source.key(n) for n in range(3)] == [before.key(n) for n in range(3)]
    assert source.load(0).arrays["overlay"] == (folder / "fg" / f"bg1_fg2_7{ending}").read_bytes()
    assert source.passed_over.count == 0
    (folder / "mask" / "mask_bg1_fg2_7.jpg").touch()
    with pytest.raises(FieldError, match=f"more than one mask: .*and mask/mask_bg1_fg2_7{ending}"):
        open_seed(folder).load(0)


def test_pipes_and_dead_links_are_rejected_and_the_rest_is_counted(folder: Path) -> None:
    (folder / "mask" / "mask_x.y.jpg").unlink()
    os.mkfifo(folder / "mask" / "mask_x.y.jpg")
    (folder / "fg" / "bg1_fg2_7.jpg").unlink()
    (folder / "fg" / "bg1_fg2_7.jpg").symlink_to("gone")
    for name in ("notes.txt", ".DS_Store", "mask/mask_x.y.tif", "depth/x.jpg", "fg/Thumbs.db"):
        (folder / name).touch()
    source = open_seed(folder)
    with pytest.raises(FieldError, match=r"unreadable mask: .*it is a pipe or a device"):
        source.load(number_of(source, "x.y"))
    with pytest.raises(FieldError, match=r"missing overlay: .* is a link, and what it"):
        source.load(0)
    assert source.passed_over.first == ["depth/x.jpg", "mask/mask_x.y.tif", "notes.txt"]
    assert source.passed_over.count == 3


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("fg/x.y.jpg", "missing overlay"),
        ("mask/mask_x.y.jpg", "missing mask"),
        ("depth/depth_x.y.jpg", "missing depth"),
    ],
)
def test_a_missing_part_is_rejected(folder: Path, path: str, what: str) -> None:
    (folder / path).unlink()
    source = open_seed(folder)
    with pytest.raises(FieldError, match=what):
        source.load(number_of(source, "x.y"))


def test_damage_is_rejected(folder: Path) -> None:
    source = open_seed(folder)
    (folder / "mask" / "mask_x.y.jpg").write_bytes(b"no jpeg")
    with pytest.raises(FieldError, match=r"mask 'mask/mask_x\.y\.jpg' cannot be decoded"):
        source.load(number_of(source, "x.y"))


def test_refuses_other_layouts(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no folder fg/"):
        open_seed(tmp_path)
    for part in ("fg", "mask", "depth"):
        (tmp_path / part).mkdir()
    with pytest.raises(StoreError, match=r"holds no file of the pattern 'fg/"):
        open_seed(tmp_path)
