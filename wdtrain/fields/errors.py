"""The errors for a field that cannot be used, and for a file that cannot be read."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

MOST_PIXELS: Final = 1 << 28
"""A picture may have so many; it is judged by its head, before anything is decoded."""
_SHOWN_ERROR: Final = 120


class FieldError(ValueError):
    """A declaration, a file or a sample that cannot be used: what was found, why it cannot work,
    and what to do."""


_OF_KIND: Final = re.compile(r"([A-Za-z0-9_-]+):(.*)", re.DOTALL)


class AmbiguousError(FieldError):
    """A file that could mean several things, until one of `choices` is declared.

    found: what was found. choices: by the options that would settle it ("unit=mm", of another kind
    "classes:classes=3"), what the file then means; `name` and `kind` are those of the field.
    """

    def __init__(self, found: str, choices: Mapping[str, str], *, name: str, kind: str) -> None:
        self.found, self.choices, self.name, self.kind = found, dict(choices), name, kind
        declarations = "; ".join(
            "--field '{}={}:PATTERN,{}' ({})".format(name, *kind_and_options(each, kind), meaning)
            for each, meaning in choices.items()
        )
        super().__init__(f"{found}; declare which it is: {declarations}")

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.found, self.choices, self.name, self.kind)


def kind_and_options(choice: str, kind: str) -> tuple[str, str]:
    """The kind of a choice, `kind` where it names none ("classes:classes=3"), and its options."""
    found = _OF_KIND.fullmatch(choice)
    return (found[1], found[2]) if found else (kind, choice)


def _again(found: str, choices: dict[str, str], name: str, kind: str) -> AmbiguousError:
    return AmbiguousError(found, choices, name=name, kind=kind)


def about_file(text: str, *, field: str, file: str) -> str:
    """What is wrong with a file of a field, both named: "mask 'masks/7.png' cannot be decoded", of
    a text that begins with the file."""
    return f"{field} {file!r}{text.removeprefix(file)}" if text.startswith(f"{file} ") else text


def kind_of_reject(reason: str) -> str:
    """A reason without the file that it names, up to its first detail: what rejects are counted
    by."""
    general = _FILE_OF_FIELD.sub(r"\1 ", reason, count=1)
    return re.split(r"[:;(]", general)[0].strip()[:_LONGEST_KIND]


_FILE_OF_FIELD: Final = re.compile(r"""^([\w-]+) ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") """)
_LONGEST_KIND: Final = 80
_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shown(value: object) -> str:
    """A value of somebody's, for a message: a line of it, however large or deep it is."""
    try:
        return _REPR.repr(value)[:_SHOWN_ERROR]
    except ValueError:  # a number of more digits than Python writes
        return f"a {type(value).__name__}"


@contextmanager
def decoding(name: str, *, advice: str = "") -> Iterator[None]:
    """Whatever a decoder throws inside is a FieldError that names the picture, with what to do."""
    try:
        yield
    except FieldError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:_SHOWN_ERROR] or type(error).__name__
        raise FieldError(f"{name} cannot be decoded ({line}){advice}") from error


def check_pixels(height: int, width: int, *, name: str) -> None:
    """FieldError for a picture without pixels, or of more than are read here."""
    if height < 1 or width < 1:
        raise FieldError(f"{name} is {width} x {height} pixels; it holds no picture")
    if height * width > MOST_PIXELS:
        raise FieldError(
            f"{name} is {width:,} x {height:,} pixels; pictures of up to {MOST_PIXELS:,} are read; "
            "make it smaller"
        )
