"""Groups by name or table: whole groups, told in the samples, refused where they are of no use."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.sources.people import photo, write
from wdtrain.disk.failures import StoreError
from wdtrain.fields.announce import Prefetching
from wdtrain.packing.contents import FromFiles
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.grouping import GroupedSource
from wdtrain.sources.pattern_source import PatternSource


@pytest.fixture
def source(tmp_path: Path) -> PatternSource:
    for number in range(8):
        write(tmp_path / "images" / f"scene{number // 3}_{number}.png", photo(number))
    return PatternSource(tmp_path, [parse_field("image=image:images/{key}.png")])


def test_the_first_brackets_name_the_group(source: PatternSource) -> None:
    grouped = GroupedSource(source, r"(scene\d+)_")
    ids = grouped.groups(np.arange(8))
    assert len(set(ids.tolist())) == 3
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert (ids >= 0).all()
    assert grouped.load(4).meta == {"name": "scene1_4", "group": "scene1"}
    assert grouped.load(4).key == source.key(4)


def test_in_all_else_it_is_the_source_that_it_was(source: PatternSource) -> None:
    grouped = pickle.loads(pickle.dumps(GroupedSource(source, r"(scene\d+)_")))
    assert len(grouped) == len(source)
    assert grouped.fields == source.fields
    assert isinstance(grouped, FromFiles)
    assert isinstance(grouped, Prefetching)
    assert grouped.content(3) == source.content(3)
    assert grouped.division is None
    assert not hasattr(grouped, "nothing")


def test_other_groups_are_another_source(source: PatternSource) -> None:
    one, other = (GroupedSource(source, text) for text in (r"(scene\d+)_", r"scene\d+_(\d)"))
    assert one.description != other.description
    assert one.description["group"]["samples"] == 8


@pytest.mark.parametrize("name", ["scene0_{}", "images/scene0_{}.png", "scene0_{}.png"])
def test_a_table_names_samples_as_people_do(
    source: PatternSource, tmp_path: Path, name: str
) -> None:
    rows = "".join(f"{name.format(number)},p{number % 2}\n" for number in range(3))
    table = tmp_path / "who.csv"
    table.write_text(f"file,patient\n{rows}")
    grouped = GroupedSource(source, f"{table}:patient")
    ids = grouped.groups(np.arange(8))
    assert (ids >= 0).tolist() == [True] * 3 + [False] * 5
    assert ids[0] == ids[2] != ids[1]
    assert grouped.load(1).meta["group"] == "p1"
    assert "group" not in grouped.load(5).meta


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scene", "write for example --group '(scene)'"),
        ("(scene", "no regular expression"),
        ("(room)", "finds no group in any name (scene0_0, scene0_1, scene0_2, ...)"),
        ("who.csv:doctor", "has no column 'doctor'; it has file, patient"),
        ("nobody.csv:doctor", "nobody.csv cannot be read"),
        ("twice.csv:patient", "stands in two groups"),
    ],
)
def test_what_groups_nothing_is_refused(
    source: PatternSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("who.csv").write_text("file,patient\nscene0_0,1\n")
    Path("twice.csv").write_text("file,patient\nscene0_0,1\nscene0_0,2\n")
    with pytest.raises(StoreError) as refused:
        GroupedSource(source, text)
    assert words in str(refused.value)


def test_a_bare_file_name_counts_only_where_it_is_of_one_group(
    source: PatternSource, tmp_path: Path
) -> None:
    table = tmp_path / "who.csv"
    rows = ["a/scene0_0.png,p0", "b/scene0_0.png,p1", "a/scene0_1.png,p0", "scene0_2.png,p2"]
    table.write_text("\n".join(["file,patient", *rows]))
    ids = GroupedSource(source, f"{table}:patient").groups(np.arange(4))
    assert (ids >= 0).tolist() == [False, True, True, False]
