"""Anybody's folder by patterns: nothing is lost, nothing is taken twice, all is said."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.sources.people import COUNT, classes, figure, metres, photo, with_palette, write
from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError
from wdtrain.sources import pattern_listing
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.layouts import open_layout
from wdtrain.sources.pattern_source import PatternSource

IMAGE = "image=image:images/{key}.jpg|png"
MASK = "mask=mask:masks/{key}.png"
DEPTH = "depth=depth:depth/{key}.npy,unit=m"


def source_of(folder: Path, *fields: str) -> PatternSource:
    return PatternSource(folder, [parse_field(text) for text in fields])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        name = f"room 1.{number:02d}"
        write(tmp_path / "images" / f"{name}.jpg", photo(number))
        write(tmp_path / "masks" / f"{name}.png", figure(number) * np.uint8(255))
        write(tmp_path / "depth" / f"{name}.npy", metres(number))
    return tmp_path


def test_gives_what_the_files_hold_under_their_own_names(folder: Path) -> None:
    source = source_of(folder, IMAGE, MASK, DEPTH)
    assert len(source) == COUNT
    assert [field.name for field in source.fields] == ["image", "mask", "depth"]
    for index in range(COUNT):
        sample = source.load(index)
        name = f"room 1.{index:02d}"
        assert sample.meta == {"name": name}
        assert sample.key == source.key(index) == f"room-_201-_2e{index:02d}"
        assert sample.arrays["image"] == (folder / "images" / f"{name}.jpg").read_bytes()
        np.testing.assert_array_equal(sample.arrays["mask"], figure(index) * np.uint8(255))
        got = source.fields[2].decode(np.asarray(sample.arrays["depth"]))
        np.testing.assert_allclose(got, metres(index), rtol=1e-3)
    assert source.passed_over.count == 0


def test_travels_to_another_process_and_says_no_path(folder: Path) -> None:
    source = source_of(folder, IMAGE, MASK)
    again = pickle.loads(pickle.dumps(source))
    assert again.load(3).key == source.load(3).key
    assert str(folder) not in json.dumps(source.description)


def test_files_that_change_are_seen_and_other_declarations_are_another_source(folder: Path) -> None:
    source = source_of(folder, IMAGE, MASK)
    seen = source.signal(2), source.content(2)
    path = folder / "masks" / "room 1.02.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert source.signal(2) != seen[0]
    assert source.content(2) != seen[1]
    other = source_of(folder, IMAGE, MASK + ",foreground=255")
    assert other.description != source.description
    path.unlink()
    assert source_of(folder, IMAGE, MASK).description != source.description


def test_what_lacks_a_file_is_a_reject_that_says_how_it_could_be_kept(folder: Path) -> None:
    (folder / "masks" / "room 1.03.png").unlink()
    source = source_of(folder, IMAGE, MASK)
    assert len(source) == COUNT
    with pytest.raises(FieldError) as refused:
        source.load(3)
    assert "missing mask: there is no masks/room 1.03.png" in str(refused.value)
    assert f"--field '{MASK},optional'" in str(refused.value)
    kept = source_of(folder, IMAGE, MASK + ",optional")
    assert set(kept.load(3).arrays) == {"image"}
    assert set(kept.load(4).arrays) == {"image", "mask"}


def test_a_mask_without_a_picture_is_not_passed_over(folder: Path) -> None:
    (folder / "images" / "room 1.03.jpg").unlink()
    source = source_of(folder, IMAGE, MASK)
    assert len(source) == COUNT
    with pytest.raises(FieldError, match=r"missing image: there is no images/room 1\.03\.jpg"):
        source.load(3)
    optional = source_of(folder, IMAGE, MASK + ",optional", DEPTH + ",optional")
    assert len(optional) == COUNT - 1
    assert optional.passed_over.count == 2
    assert "mask of no sample" in optional.passed_over.first[1]


def test_two_files_for_one_field_are_a_reject_that_names_both(folder: Path) -> None:
    write(folder / "images" / "room 1.05.png", photo(5))
    source = source_of(folder, IMAGE, MASK)
    assert len(source) == COUNT
    with pytest.raises(FieldError, match=r"more than one image: .*05\.jpg and .*05\.png; keep one"):
        source.load(5)


def test_other_endings_and_cases_are_found_where_they_lie(folder: Path) -> None:
    images = folder / "images"
    (images / "room 1.01.jpg").rename(images / "room 1.01.JPG")
    (images / "room 1.02.jpg").unlink()
    write(images / "room 1.02.png", photo(2))
    source = source_of(folder, IMAGE, MASK)
    assert len(source) == COUNT
    assert source.load(1).arrays["image"] == (images / "room 1.01.JPG").read_bytes()
    np.testing.assert_array_equal(source.load(2).arrays["image"], photo(2))


def test_files_of_no_pattern_are_counted_and_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("")
    source = source_of(folder, IMAGE)
    assert source.passed_over.count == 2 * COUNT + 1
    assert any("depth/room" in name for name in source.passed_over.first)


def test_a_pattern_that_finds_nothing_is_refused_with_what_there_is(folder: Path) -> None:
    with pytest.raises(StoreError) as refused:
        source_of(folder, IMAGE, "mask=mask:mask/{key}.png")
    assert "holds no file of the pattern 'mask/{key}.png' (mask)" in str(refused.value)
    assert "there are depth/room 1.00.npy" in str(refused.value)


def test_folders_are_of_the_name_and_splits_are_kept(tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("Valid", range(2))):
        for number in numbers:
            write(tmp_path / "images" / split / f"{number}.png", photo(number))
            write(tmp_path / "depth" / split / f"{number}.npy", metres(number))
    source = source_of(
        tmp_path, "image=image:images/{split}/{key}.png", "d=depth:depth/{split}/{key}.npy,unit=m"
    )
    assert [source.name(index) for index in range(2)] == ["Valid/0", "Valid/1"]
    assert source.key(0) == "Valid__0"
    assert source.division is not None
    assert source.division.codes.tolist() == [5, 5, 0, 0, 0, 0, 0, 0]
    assert source.division.outside == 0
    write(tmp_path / "images" / "extra" / "9.png", photo(9))
    write(tmp_path / "depth" / "extra" / "9.npy", metres(9))
    source = source_of(
        tmp_path, "image=image:images/{split}/{key}.png", "d=depth:depth/{split}/{key}.npy,unit=m"
    )
    assert source.division is not None
    assert (source.division.outside, source.division.first) == (1, ["extra/9"])


def test_any_folders_between_are_of_the_name(tmp_path: Path) -> None:
    for scene in ("a", "b/c", ""):
        write(tmp_path / scene / "rgb" / "1.png", photo(1))
        write(tmp_path / scene / "seg" / "1.png", classes(1))
    source = source_of(
        tmp_path, "image=image:**/rgb/{key}.png", "labels=classes:**/seg/{key}.png,classes=8"
    )
    assert [source.key(index) for index in range(3)] == ["1", "a__1", "b__c__1"]
    np.testing.assert_array_equal(source.load(2).arrays["labels"], classes(1))


def test_one_file_may_be_of_many_samples(tmp_path: Path) -> None:
    for scene in "ab":
        write(tmp_path / scene / "depth.npy", metres(1))
        for number in range(3):
            write(tmp_path / scene / f"{number}.png", photo(number))
    shared = "depth=depth:{scene}/depth.npy,unit=m"
    with pytest.raises(FieldError, match=r"holds no \{key\}"):
        source_of(tmp_path, "image=image:{scene}/{key}.png", shared)


def test_patterns_that_do_not_go_together_are_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"distinguishes files by \{scene\}"):
        source_of(
            folder, IMAGE, "mask=mask:masks/{key}.png", "d=depth:{scene}_{key}.npy,optional,unit=m"
        )
    with pytest.raises(StoreError, match="every field is optional"):
        source_of(folder, MASK + ",optional")


def test_a_question_names_the_line_that_would_settle_it(tmp_path: Path) -> None:
    write(tmp_path / "i" / "1.png", photo(1))
    write(tmp_path / "m" / "1.png", with_palette(figure(1)))
    source = source_of(tmp_path, "image=image:i/{key}.png", "mask=mask:m/{key}.png,optional")
    with pytest.raises(FieldError) as asked:
        source.load(0)
    line = "mask=mask:m/{key}.png,optional,foreground=1"
    assert f"--field '{line}'" in str(asked.value)
    assert "PATTERN" not in str(asked.value)
    settled = source_of(tmp_path, "image=image:i/{key}.png", line).load(0)
    np.testing.assert_array_equal(np.asarray(settled.arrays["mask"]) > 127, figure(1) > 0)


def test_links_pipes_and_lost_files_are_rejects(folder: Path) -> None:
    mask = folder / "masks" / "room 1.04.png"
    mask.unlink()
    mask.symlink_to("nowhere")
    os.mkfifo(folder / "depth" / "room 1.05.npx")
    (folder / "depth" / "room 1.05.npy").unlink()
    os.rename(folder / "depth" / "room 1.05.npx", folder / "depth" / "room 1.05.npy")
    source = source_of(folder, IMAGE, MASK, DEPTH)
    with pytest.raises(FieldError, match="is a link, and what it links to is gone"):
        source.load(4)
    with pytest.raises(FieldError, match="unreadable depth"):
        source.load(5)


def test_listing_takes_some_100_bytes_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 8_000
    shapes = (b"images/%09d.jpg", b"masks/%09d.png", b"depth/%09d.npy")

    def files(folder: bytes, passed_over: object) -> Iterator[bytes]:
        for shape in shapes:
            yield from (shape % number for number in range(count))

    monkeypatch.setattr(pattern_listing, "files_below", files)
    tracemalloc.start()
    source = source_of(tmp_path, IMAGE, MASK, DEPTH)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == count
    assert kept <= 25 * count
    assert peak <= 110 * count


# ---------------------------------------------------------------------------- layouts


def test_voc_keeps_its_lists_and_passes_over_pictures_without_labels(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for number in range(6):
        write(tmp_path / "JPEGImages" / f"2007_{number}.jpg", photo(number))
        if number < 4:
            labels = with_palette(
                np.where(classes(number, 3) == 2, 255, classes(number, 3)).astype(np.uint8)
            )
            write(tmp_path / "SegmentationClass" / f"2007_{number}.png", labels)
    (lists / "train.txt").write_text("2007_0\n2007_1\n2007_2  1\n")
    (lists / "val.txt").write_text("2007_3\n")
    source = open_layout("voc", tmp_path, [])
    assert len(source) == 4
    assert source.division is not None
    assert source.division.codes.tolist() == [0, 0, 0, 5]
    assert set(np.unique(np.asarray(source.load(0).arrays["labels"]))) <= {0, 1, 255}
    assert source.passed_over.count == 4  # two pictures and two lists
    (lists / "val.txt").write_text("2007_0\n")
    with pytest.raises(StoreError, match=r"2007_0 stands in train\.txt and in val\.txt"):
        open_layout("voc", tmp_path, [])


def test_nyu_is_millimetres_under_either_name(tmp_path: Path) -> None:
    for number, word in enumerate(("colors", "rgb")):
        write(tmp_path / "kitchen" / f"{number}_{word}.png", photo(number))
        write(
            tmp_path / "kitchen" / f"{number}_depth.png", (metres(number) * 1000).astype(np.uint16)
        )
    source = open_layout("nyu", tmp_path, [])
    assert [source.key(index) for index in range(2)] == ["kitchen__0", "kitchen__1"]
    got = source.fields[1].decode(np.asarray(source.load(1).arrays["depth"]))
    np.testing.assert_allclose(got, metres(1), rtol=2e-3)


def test_the_seeds_composites_have_no_parts_unless_their_names_tell(tmp_path: Path) -> None:
    for name in ("bg1_fg1_1", "bg1_fg2_2", "bg2_fg1_3"):
        write(tmp_path / "fg" / f"{name}.jpg", photo(1))
        write(tmp_path / "mask" / f"mask_{name}.jpg", figure(1) * np.uint8(255))
        write(tmp_path / "depth" / f"depth_{name}.jpg", (metres(1) * 20).astype(np.uint8))
    source = open_layout("seed", tmp_path, [])
    assert [part.tolist() for part in source.parts(np.arange(3))] == [[1, 1, 2], [1, 2, 1]]
    sample = source.load(0)
    assert sample.meta == {"name": "bg1_fg1_1", "background": "bg-0001", "cutout": "fg-0001"}
    assert set(np.unique(np.asarray(sample.arrays["mask"]))) == {0, 255}
    assert source.fields[2].dtype == np.uint8


def test_a_layout_that_is_not_there_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no folder JPEGImages/; --layout voc is JPEGImages"):
        open_layout("voc", tmp_path, [])


def test_a_field_beside_a_layout_replaces_the_layouts(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train" / "1.jpg", photo(1))
    write(tmp_path / "depth" / "train" / "1.npy", metres(1) * 1000)
    more = [parse_field("depth=depth:depth/{split}/{key}.npy,unit=mm")]
    source = open_layout("yolo-depth", tmp_path, more)
    got = source.fields[1].decode(np.asarray(source.load(0).arrays["depth"]))
    np.testing.assert_allclose(got, metres(1), rtol=2e-3)
