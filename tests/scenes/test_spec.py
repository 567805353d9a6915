"""Laws of writing a source as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from wdtrain.scenes import parse_source
from wdtrain.scenes.compose import Composition
from wdtrain.scenes.playground import Playground
from wdtrain.scenes.scene_classes import LABELS


def test_a_playground_is_what_its_text_says() -> None:
    source = parse_source("playground:count=70,size=32,difficulty=0.25,seed=3,fresh=true")
    assert isinstance(source, Playground)
    expected = Playground(70, 32, difficulty=0.25, seed=3, fresh=True)
    assert source.description == expected.description


def test_labels_are_a_field_that_is_asked_for() -> None:
    plain = parse_source("playground:count=70,size=32")
    labelled = parse_source("playground:count=70,size=32,labels=true")
    assert plain is not None
    assert labelled is not None
    assert labelled.fields == (*plain.fields, LABELS)
    assert "labels" not in plain.description
    assert labelled.description == {**plain.description, "labels": True}


def test_a_composition_is_what_its_text_says(kit: tuple[Path, Path]) -> None:
    text = f"compose:backgrounds={kit[0]},cutouts={kit[1]},depth=none,placements=2,count=9,size=16"
    source = parse_source(text)
    assert isinstance(source, Composition)
    expected = Composition(*kit, depth="none", placements=2, count=9, size=16)
    assert source.description == expected.description


@pytest.mark.parametrize("text", ["some/folder", "/data/x", "s3://bucket/x", "C:\\data", "folder"])
def test_a_path_is_no_specification(text: str) -> None:
    assert parse_source(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("playgroud:count=5", "did you mean 'playground'"),
        ("playground:count=5,dificulty=1", "did you mean 'difficulty'"),
        ("playground:count=5,zzz=1", "known are count"),
        ("playground:count=many", "count is 'many'; a whole number is needed"),
        ("playground:count=5,difficulty=hard", "difficulty is 'hard'; a number is needed"),
        ("playground:count=5,fresh=maybe", "fresh is 'maybe'; true or false is needed"),
        ("playground:count", "not KEY=VALUE"),
        ("playground:count=5,count=6", "stands twice"),
        ("playground:size=32", "playground needs count"),
        ("compose:backgrounds=a", "compose needs cutouts"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_source(text)
