"""What the seed project's names tell: `bg12_fg7_3` is of background 12 and cut-out 7.

Only where a name has both numbers, and where these come again in other names: the running number of
`fg_bg_17` is of no background, and nothing is made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_PARTS: Final = (("bg", "background"), ("fg", "cutout"))


def numbers_in(name: str) -> tuple[int, int]:
    """The numbers behind `bg` and `fg` in a name that has both, each a word of its own; else -1."""
    found = [re.search(rf"(?<![A-Za-z]){part}[-_]?(\d+)", name) for part, _ in _PARTS]
    if found[0] is None or found[1] is None:
        return -1, -1
    return int(found[0][1]), int(found[1][1])


class SeedParts:
    """The parts of one source's names; see `pattern_source.Parts`."""

    def __init__(self, names: Sequence[str]) -> None:
        pairs = [pair for pair in map(numbers_in, names) if pair != (-1, -1)]
        self._groups = any(len({pair[place] for pair in pairs}) < len(pairs) for place in (0, 1))

    def ids(self, name: str) -> tuple[int, int]:
        return numbers_in(name) if self._groups else (-1, -1)

    def of(self, name: str) -> dict[str, str]:
        pairs = zip(self.ids(name), _PARTS, strict=True)
        return {field: f"{part}-{number:04d}" for number, (part, field) in pairs if number >= 0}
