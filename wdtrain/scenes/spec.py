"""Sources written as text: `playground:count=400000,size=64` or `compose:backgrounds=A,cutouts=B`.

What can be written is what the source's constructor takes: its keyword names and their types.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wdtrain.scenes.compose import Composition
from wdtrain.scenes.playground import Playground

SceneSource = Playground | Composition
_SOURCES: dict[str, type[Any]] = {
    "playground": Playground,
    "compose": Composition,
}


def parse_source(text: str) -> SceneSource | None:
    """The source that `text` specifies; None if it is not written as NAME:KEY=VALUE,...

    ValueError names an unknown source or key (with the nearest known one), a value of the wrong
    type, or a missing key. A path such as `C:/data` or `s3://bucket` is no specification.
    """
    name, colon, rest = text.partition(":")
    if not colon or rest.startswith(("/", "\\")) or not name.replace("-", "").isalpha():
        return None
    if name not in _SOURCES:
        if Path(text).exists():
            return None
        known = _nearest(name, list(_SOURCES))
        raise ValueError(f"{text!r} names no source: there is no {name!r}; {known}")
    make = _SOURCES[name]
    takes = inspect.signature(make).parameters
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(
                f"{item!r} in {text!r} is not KEY=VALUE; write for example {_example(name)}"
            )
        if key not in takes:
            raise ValueError(f"{name} takes no {key!r}; {_nearest(key, list(takes))}")
        if key in values:
            raise ValueError(f"{key} stands twice in {text!r}; keep one")
        values[key] = _converted(key, value, str(takes[key].annotation))
    missing = [
        k for k, p in takes.items() if p.default is inspect.Parameter.empty and k not in values
    ]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}; write for example {_example(name)}")
    source: SceneSource = make(**values)
    return source


def _converted(key: str, value: str, kind: str) -> int | float | bool | str:
    """`value` as the type that the constructor's annotation names."""
    kinds: tuple[tuple[str, Callable[[str], int | float | bool | str], str], ...] = (
        ("bool", _flag, "true or false"),
        ("int", int, "a whole number"),
        ("float", float, "a number"),
        ("str", str, "text"),
    )
    for name, convert, words in kinds:
        if name in kind:
            try:
                return convert(value)
            except ValueError:
                raise ValueError(f"{key} is {value!r}; {words} is needed") from None
    raise AssertionError(f"{key} has the annotation {kind}")


def _flag(value: str) -> bool:
    flags = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in flags:
        raise ValueError(value)
    return flags[value.lower()]


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _example(name: str) -> str:
    return {
        "playground": "playground:count=1000,size=64,difficulty=0.3,seed=0",
        "compose": "compose:backgrounds=DIR,cutouts=DIR,depth=lift,placements=20,size=64,seed=0",
    }[name]
