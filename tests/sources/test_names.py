"""Names become keys that turn back into names; no two names have one key."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.sources.names import key_of, name_of, printable

TRICKY = st.text(st.sampled_from("ab-_/. x2fé\x00"), min_size=1, max_size=12)
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
ROOM = 88


@given(TRICKY | ANY)
def test_a_key_turns_back_into_its_name(name: str) -> None:
    key = key_of(name, 1000)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key)
    assert name_of(key) == name


@given(st.binary(min_size=1, max_size=30))
def test_names_that_are_no_text_have_keys_too(name: bytes) -> None:
    assert name_of(key_of(name, 1000)) == name.decode("utf-8", "surrogateescape")
    printable(name).encode()


@given(TRICKY, TRICKY)
def test_other_names_have_other_keys(one: str, other: str) -> None:
    assert (key_of(one, 1000) == key_of(other, 1000)) == (one == other)


def test_no_two_names_have_one_key() -> None:
    names = [
        "".join(letters)
        for count in range(1, 7)
        for letters in itertools.product("_-/2f", repeat=count)
    ]
    assert len({key_of(name, 1000) for name in names}) == len(names)


@given(st.lists(st.text("ab_-/ ", min_size=70, max_size=120), min_size=2, max_size=5, unique=True))
def test_long_names_have_keys_of_their_own_within_the_room(names: list[str]) -> None:
    keys = [key_of(name, ROOM) for name in names]
    assert len(set(keys)) == len(names)
    assert all(len(key) <= ROOM for key in keys)


@pytest.mark.parametrize("name", ["0001", "scene_7-left", "IMG_20240101", "a-b_c"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert key_of(name, ROOM) == name


def test_the_rule_is_as_documented() -> None:
    assert key_of("room 1/0007.left", ROOM) == "room-_201__0007-_2eleft"
    assert key_of("a__b", ROOM) == "a-_5f_b"
    assert key_of("é", ROOM) == "-_c3-_a9"


def test_a_key_that_ends_in_a_hash_is_told_from_others() -> None:
    key = key_of("x" * 200, ROOM)
    assert len(key) == ROOM
    with pytest.raises(ValueError, match="the sample's JSON holds its name"):
        name_of(key)
    assert name_of(key_of(key, 1000)) == key  # as a name it is one like any other
