"""Which file is which part of a sample: `images/{split}/{key}.jpg|png`.

`{key}` is one file name without its ending, `{split}` and every other `{word}` one folder or a part
of a name; together they are the sample's name. `**/` is any folders, `*` any text that is no
matter, `{left,right}` one of several texts, and endings stand behind `|`, in any case of letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from wdtrain.fields import FieldError

KEY, SPLIT, FOLDERS = "key", "split", "**"
_EXAMPLE: Final = "'images/{key}.jpg'"
_TOKEN: Final = re.compile(
    r"\{(?P<slot>[A-Za-z]\w*)\}|\{(?P<choice>[^{}]*,[^{}]*)\}|(?P<folders>\*\*/)|(?P<star>\*)"
    r"|(?P<text>[^{}*]+)"
)
_ENDING: Final = re.compile(r"(.*\.)([^./{}*]+)", re.DOTALL)


class Found(NamedTuple):
    """What a path told: the value of each slot, and the texts of what is no part of the name."""

    values: dict[str, bytes]
    variant: tuple[bytes, ...]


class _Part(NamedTuple):
    """literal: a text. slot: a part of the name. Else one of `choices`, or any text if None."""

    literal: bytes = b""
    slot: str = ""
    choices: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class Pattern:
    """A pattern of paths below a folder. FieldError for one that cannot be.

    slots: the names of its slots, in their order; folders (`**`) among them.
    """

    text: str

    def __post_init__(self) -> None:
        self._check()

    @cached_property
    def slots(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.slot for part in self._parts if part.slot))

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        text, choices = self.text.removeprefix("./"), None
        first, *others = text.split("|")
        if (ending := _ENDING.fullmatch(first)) is not None:
            text = ending[1]
            choices = tuple(each.encode() for each in (ending[2], *others))
        elif others:
            raise FieldError(
                f"the pattern {self.text!r}: endings stand behind a dot, as {{key}}.jpg|png"
            )
        parts, at = [], 0
        for found in _TOKEN.finditer(text):
            if found.start() != at:
                break
            at = found.end()
            parts.append(_part(found))
        if at != len(text):
            raise FieldError(
                f"the pattern {self.text!r} has a bracket too many or an empty one; write for "
                f"example {_EXAMPLE}"
            )
        return (*parts, *([_Part(choices=choices)] if choices else []))

    def _check(self) -> None:
        names = [part.slot for part in self._parts]
        if KEY not in names:
            suggestion = re.sub(r"(?<!\*)\*(?!\*)", "{key}", self.text, count=1)
            usable = suggestion if "{key}" in suggestion else _EXAMPLE
            raise FieldError(
                f"the pattern {self.text!r} holds no {{key}}, so nothing says which files are of "
                f"one sample; write for example {usable}"
            )
        if names.count(FOLDERS) > 1:
            raise FieldError(f"the pattern {self.text!r} holds **/ twice; once is what can be told")
        folders = self.text.split("/")
        if self.text.startswith("/") or ".." in folders or "" in folders:
            raise FieldError(
                f"the pattern {self.text!r} is no path below the folder; write it from there, as "
                f"{_EXAMPLE}"
            )

    @cached_property
    def _regex(self) -> re.Pattern[bytes]:
        parts, seen = [], set()
        for number, part in enumerate(self._parts):
            if part.literal:
                parts.append(re.escape(part.literal))
            elif part.slot in seen:
                parts.append(b"(?P=%b)" % _group(part.slot))
            elif part.slot:
                seen.add(part.slot)
                inner = rb"(?:[^/]+/)*" if part.slot == FOLDERS else rb"[^/]+"
                parts.append(b"(?P<%b>%b)" % (_group(part.slot), inner))
            elif part.choices is None:
                parts.append(rb"([^/]*)")
            else:
                ignoring = b"?i:" if number == len(self._parts) - 1 else b"?:"
                parts.append(b"((%b%b))" % (ignoring, b"|".join(map(re.escape, part.choices))))
        return re.compile(b"".join(parts), re.DOTALL)

    def match(self, path: bytes) -> Found | None:
        """What a path below the folder tells; None where it is of another pattern."""
        found = self._regex.fullmatch(path)
        if found is None:
            return None
        texts = found.groups()
        places, free = self._places
        values = {slot: texts[at] for slot, at in places}
        if FOLDERS in values:
            values[FOLDERS] = values[FOLDERS].rstrip(b"/")
        return Found(values, tuple([texts[at] for at in free]))

    @cached_property
    def _places(self) -> tuple[list[tuple[str, int]], list[int]]:
        """Which group of the regular expression is each slot, and which are no part of a name."""
        named = self._regex.groupindex
        places = [(slot, named[_group(slot).decode()] - 1) for slot in self.slots]
        taken = {at for _, at in places}
        return places, [at for at in range(self._regex.groups) if at not in taken]

    @property
    def num_open(self) -> int:
        """How many texts of a path are neither of the pattern nor of the name."""
        return sum(not part.literal and not part.slot for part in self._parts)

    @cached_property
    def usual(self) -> tuple[bytes, ...] | None:
        """The variant of most files: the first of all choices; None where there is a `*`."""
        free = [part.choices for part in self._parts if not part.literal and not part.slot]
        return tuple(each[0] for each in free if each) if all(free) else None

    def path(self, values: Mapping[str, bytes], variant: Sequence[bytes]) -> bytes:
        """The path of a sample's file below the folder."""
        rest = iter(variant)
        parts = []
        for part in self._parts:
            if part.literal:
                parts.append(part.literal)
            elif part.slot == FOLDERS:
                parts.append(values[FOLDERS] + b"/" if values[FOLDERS] else b"")
            else:
                parts.append(values[part.slot] if part.slot else next(rest))
        return b"".join(parts)


def _part(found: re.Match[str]) -> _Part:
    if found["slot"]:
        return _Part(slot=found["slot"])
    if found["choice"]:
        return _Part(choices=tuple(each.encode() for each in found["choice"].split(",")))
    if found["folders"]:
        return _Part(slot=FOLDERS)
    return _Part() if found["star"] else _Part(literal=found["text"].encode())


def _group(slot: str) -> bytes:
    """A slot's name in the regular expression."""
    return b"_folders" if slot == FOLDERS else slot.encode()


def join_name(slots: Sequence[str], values: Mapping[str, bytes]) -> bytes:
    """The sample's name: its values, in the order of the slots, joined by slashes."""
    return b"/".join(value for slot in slots if (value := values[slot]))


def values_of(slots: Sequence[str], name: bytes) -> dict[str, bytes]:
    """The values that a name was joined of: all but folders are one part each."""
    parts = name.split(b"/")
    if FOLDERS not in slots:
        return dict(zip(slots, parts, strict=True))
    at = slots.index(FOLDERS)
    more = len(parts) - len(slots) + 1
    folders = b"/".join(parts[at : at + more])
    return dict(zip(slots, [*parts[:at], folders, *parts[at + more :]], strict=True))
