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
from itertools import pairwise, permutations
from typing import Final, NamedTuple

from wdtrain.fields import FieldError

KEY, SPLIT, FOLDERS = "key", "split", "**"
_EXAMPLE: Final = "'images/{key}.jpg'"
_TOKEN: Final = re.compile(
    r"\{(?P<slot>[A-Za-z]\w*)\}|\{(?P<choice>[^{}]*,[^{}]*)\}|(?P<folders>\*\*/)|(?P<star>\*)"
    r"|(?P<text>[^{}*]+)"
)
_MANY: Final = 3
"""So many slots, and a regular expression that tries each place again takes long."""
_ENDING: Final = re.compile(r"(.*\.)([^./{}*]+)", re.DOTALL)


class Found(NamedTuple):
    """Captured of a path: the value of each slot, and the texts of what is no part of the name."""

    values: dict[str, bytes]
    variant: tuple[bytes, ...]


class _Part(NamedTuple):
    """literal: a text. slot: a part of the name. Else one of `choices`, or any text if None."""

    literal: bytes = b""
    slot: str = ""
    choices: tuple[bytes, ...] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may be any text."""
        return not self.literal and self.choices is None


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
            raise FieldError(f"the pattern {self.text!r} holds **/ twice; it can match only once")
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

    @cached_property
    def _backward(self) -> re.Pattern[bytes] | None:
        """Of a pattern with many slots, what matches its paths from their end, in time that grows
        with their length only; None where `_regex` does.

        The first slot takes as much as it can. So what stands behind each lies as far to the right
        as it can, and from the end the first place that fits is the one: none is tried again.
        """
        if not self._is_read_backward():
            return None
        parts, pieces = self._parts[::-1], []
        opens = [at for at, part in enumerate(parts) if part.is_open]
        for at, part in enumerate(parts):
            if part.literal:
                pieces.append(re.escape(part.literal[::-1]))
            elif part.choices is not None:
                texts = b"|".join(re.escape(text[::-1]) for text in part.choices)
                pieces.append(b"((%b%b))" % (b"?i:" if at == 0 else b"?:", texts))
            elif part.slot == FOLDERS:
                pieces.append(rb"((?:/[^/]+)*)")
            else:
                pieces.append(rb"([^/]+?)" if part.slot else rb"([^/]*?)")
        for first, after in pairwise(opens):
            if FOLDERS not in (parts[first].slot, parts[after].slot):
                pieces[first] = b"(?>" + pieces[first]
                pieces[after - 1] += b")"
        return re.compile(b"".join(pieces), re.DOTALL)

    def _is_read_backward(self) -> bool:
        """Whether there are many slots, and what stands between them can be in one place only."""
        slots = [part.slot for part in self._parts if part.slot]
        opens = [at for at, part in enumerate(self._parts) if part.is_open]
        if len(opens) < _MANY or len(set(slots)) < len(slots):
            return False
        for at, part in enumerate(self._parts):
            before = self._parts[at - 1].literal if at else b"/"
            if part.slot == FOLDERS and not before.endswith(b"/"):
                return False
            if part.choices and not _is_told_apart(part.choices, is_last=at > opens[-1]):
                return False
        return True

    def match(self, path: bytes) -> Found | None:
        """What is captured of a path below the folder; None where it does not match."""
        if self._backward is None:
            found = self._regex.fullmatch(path)
            texts = () if found is None else found.groups()
        else:
            found = self._backward.fullmatch(path[::-1])
            texts = () if found is None else tuple(text[::-1] for text in found.groups()[::-1])
        if found is None:
            return None
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


def _is_told_apart(choices: Sequence[bytes], *, is_last: bool) -> bool:
    """Whether no more than one of these texts can stand where one ends."""
    if any(b"/" in text for text in choices):
        return False
    small = [text.lower() for text in choices]
    if not is_last:
        return len({len(text) for text in small}) == 1
    return not any(one.endswith(other) for one, other in permutations(small, 2))


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
