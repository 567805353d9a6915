"""Patterns: what they match they make, and what is wrong with one is said with a right one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import FieldError
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.patterns import Pattern, join_name, values_of

NAME = st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name)
SHAPES = [
    "images/{key}.jpg|png",
    "images/{split}/{key}.jpg",
    "{scene}/rgb/{key}.png",
    "**/{key}_{colors,rgb}.png|jpg",
    "{scene}/{scene}_{key}.npy",
    "a/**/b/{key}.jpg",
    "{key}/image",
]


@given(st.sampled_from(SHAPES), st.lists(NAME, min_size=3, max_size=3), st.data())
def test_a_path_that_a_pattern_makes_it_also_reads(
    text: str, values: list[bytes], data: st.DataObject
) -> None:
    pattern = Pattern(text)
    folders = data.draw(st.sampled_from([b"", b"a", b"a/b"]))
    told = {
        slot: folders if slot == "**" else value
        for slot, value in zip(pattern.slots, values, strict=False)
    }
    assert pattern.usual is not None
    path = pattern.path(told, pattern.usual)
    found = pattern.match(path)
    assert found is not None
    assert pattern.path(found.values, found.variant) == path
    name = join_name(pattern.slots, found.values)
    assert values_of(pattern.slots, name) == found.values


MANY = [
    "{a}-{b}-{c}-{d}-{key}.jpg",
    "{a}{b}_{key}*.jpg|png",
    "{a}-{b}/{c}-x/{d}--{key}",
    "**/{a}-{b}-{key}.jpg",
    "{a}-{b}/**/{c}-{d}-{key}.jpg",
    "{a}-{b}-{x,y}{c}-{key}_{left,right}.jpg|png",
    "x-{a}-x-{b}-*-{key}-x",
    "*-*-{key}.jpg|jpeg",
    "{a}-{x,xx}-{b}-{key}.jpg",
]


@given(st.sampled_from(MANY), st.data())
def test_many_slots_tell_what_one_after_the_other_tells(text: str, data: st.DataObject) -> None:
    pattern = Pattern(text)
    pieces = [
        "-",
        "-",
        "_",
        "/",
        "x",
        "y",
        "xx",
        ".",
        ".jpg",
        ".JPG",
        "_left",
        "_right",
        "x-",
        "-x",
    ]
    drawn = data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=14))
    path = "".join([*drawn, data.draw(st.sampled_from(["", ".jpg", "-x", "_left.png"]))]).encode()
    plain = pattern._regex.fullmatch(path)
    found = pattern.match(path)
    assert (found is None) == (plain is None)
    if found is not None and plain is not None:
        groups = {"**": "_folders"}
        told = {slot: plain[groups.get(slot, slot)] for slot in pattern.slots}
        assert found.values == {**told, **({"**": told["**"].rstrip(b"/")} if "**" in told else {})}
        assert pattern.path(found.values, found.variant) == path


@pytest.mark.parametrize("text", [*MANY[:-1], "{a}-{b}-{c}-{d}-{e}-{f}-{g}-{key}.png"])
def test_a_name_that_fits_no_pattern_costs_no_time(text: str) -> None:
    pattern = Pattern(text)
    assert pattern.match(b"x") is None
    begun = time.process_time()
    assert pattern.match(b"a-" * 200 + b".gif") is None
    assert pattern.match(b"x-" * 200 + b"_middle.gif") is None
    assert time.process_time() - begun < 2  # a search that branches takes minutes and more


def test_endings_may_be_in_upper_case_and_several() -> None:
    pattern = Pattern("images/{key}.jpg|png")
    assert pattern.match(b"images/a.b.JPG") == ({"key": b"a.b"}, (b"JPG",))
    assert pattern.match(b"images/a.PnG") == ({"key": b"a"}, (b"PnG",))
    assert pattern.match(b"images/a.gif") is None
    assert pattern.match(b"images/x/a.jpg") is None
    assert pattern.usual == (b"jpg",)


def test_what_is_no_matter_is_no_part_of_the_name() -> None:
    pattern = Pattern("*/{key}_*.png")
    found = pattern.match(b"left/7_x.png")
    assert found == ({"key": b"7"}, (b"left", b"x", b"png"))
    assert pattern.usual is None
    assert pattern.path({"key": b"7"}, (b"left", b"x", b"png")) == b"left/7_x.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/*.jpg", "write for example images/{key}.jpg"),
        ("images", "write for example 'images/{key}.jpg'"),
        ("/data/{key}.jpg", "no path below the folder"),
        ("../{key}.jpg", "no path below the folder"),
        ("**/a/**/{key}.jpg", "twice"),
        ("images/{key.jpg", "a bracket too many"),
        ("images/{}/{key}.jpg", "a bracket too many"),
        ("{key}|x", "endings stand behind a dot"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_with_one_that_can(text: str, words: str) -> None:
    with pytest.raises(FieldError) as refused:
        Pattern(text)
    assert words in str(refused.value)


def test_a_field_is_read_from_its_line() -> None:
    option = parse_field("depth=depth:'x'/{key}.npy,unit=m,near=0.1".replace("'", ""))
    assert (option.name, option.kind, option.pattern) == ("depth", "depth", "x/{key}.npy")
    assert option.options == {"unit": "m", "near": "0.1"}
    assert parse_field(str(option)) == option
    choices = parse_field("image=image:{key}_{colors,rgb}.png|jpg,lossless")
    assert choices.pattern == "{key}_{colors,rgb}.png|jpg"
    assert choices.options == {"lossless": ""}
    assert parse_field(str(choices)) == choices
    assert parse_field("mask=mask:m/{key}.png,foreground=#ff0000|#00ff00").field.foreground == (
        "#ff0000",
        "#00ff00",
    )


def test_answers_are_added_to_a_line() -> None:
    option = parse_field("mask=mask:{key}.png,optional").with_options("foreground=1,unknown=255")
    assert str(option) == "mask=mask:{key}.png,optional,foreground=1,unknown=255"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/{key}.jpg", "for example --field 'depth=depth:depth/{key}.npy,unit=m'"),
        ("image=images/{key}.jpg", "write --field 'image=image:images/{key}.jpg'"),
        ("depth=d/{key}.npy", "write --field 'depth=depth:d/{key}.npy'"),
        ("image=image:", "--field 'image=image:image/{key}.png'"),
        ("image=picture:{key}.jpg", "there are image, mask, classes, depth"),
        ("image=image:{key}.jpg,quality=3", "'quality' is no option of image"),
        ("depth=depth:{key}.npy,unit=feet", "it is one of m, cm, mm"),
        ("mask=mask:{key}.png,foreground=1,foreground=2", "foreground is declared twice"),
        ("json=image:{key}.jpg", "not json"),
    ],
)
def test_a_line_that_cannot_be_is_refused_with_one_that_can(text: str, words: str) -> None:
    with pytest.raises(FieldError) as refused:
        parse_field(text)
    assert words in str(refused.value)
