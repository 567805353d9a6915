"""Many files in one name: `data-{0000..0099}.tar`, `{train,extra}-{0..7}.tar`."""

from __future__ import annotations

import itertools
import re
from typing import Final

from wdtrain.disk.failures import StoreError

_BRACE: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MOST: Final = 1 << 22
"""Files that one name may stand for."""


def expand_braces(name: str) -> list[str]:
    """The names that this one stands for, in order: a range {03..12} counts, with as many digits as
    its ends have; {a,b} lists. StoreError for braces that do neither, or for too many names."""
    parts = _BRACE.split(name)  # what stands outside and inside, in turn
    if any(brace in part for part in parts[::2] for brace in "{}"):
        raise StoreError(f"{name} has a brace without its other one; write {{0000..0099}}")
    choices = [_choices(part, name) if at % 2 else [part] for at, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST:
        raise StoreError(f"{name} stands for {count:,} files; at most {_MOST:,} can be given")
    return ["".join(each) for each in itertools.product(*choices)]


def _choices(inside: str, name: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        if "," not in inside:
            raise StoreError(
                f"{{{inside}}} in {name} is neither a range nor a list; write {{0000..0099}} or "
                "{a,b}"
            )
        return inside.split(",")
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= _MOST:
        raise StoreError(
            f"{{{inside}}} in {name} counts from {first:,} to {last:,}; it must count up, and "
            f"to at most {_MOST:,} names"
        )
    width = max(map(len, found.groups())) if "0" in (found[1][0], found[2][0]) else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
