"""Laws that more than one room is held to, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def check_resumes_everywhere(
    whole: Sequence[Any], resumed_at: Callable[[int], Iterable[Any]], positions: Iterable[int]
) -> None:
    """Resumed at each position, what comes equals the rest of the uninterrupted whole."""
    for position in positions:
        got = list(resumed_at(position))
        assert got == list(whole[position:]), f"resumed at {position}: another sequence came"


def check_each_once(got: Iterable[Any], expected: Iterable[Any]) -> None:
    """The same things, each exactly as often, in any order."""
    assert sorted(got) == sorted(expected)
