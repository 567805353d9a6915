"""A person's own split: a source whose folders are named train, val, test.

Found at the first depth at which every triple is in a folder of such a name. Where only some
are, nobody but the person knows what the others are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from wdtrain.fields.source import SPLITS

FOLDERS: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The split that a folder of this name is, in any case of letters."""
_MOST_ABOVE: Final = 4
_SHOWN: Final = 3


@dataclass(frozen=True)
class Division:
    """int8 [n] positions in SPLITS, -1 outside of all such folders; the triples in each folder; how
    many lie outside, and the first of them."""

    codes: np.ndarray
    folders: dict[str, int]
    outside: int
    first: list[str]

    def __str__(self) -> str:
        return ", ".join(f"{name}/ {count:,}" for name, count in sorted(self.folders.items()))


def division_of(names: np.ndarray) -> Division | None:
    """The division of triples by the folders in their names (bytes [n]); None where no folder for
    training stands beside one that is held out."""
    if not (names.view(np.uint8) == ord("/")).any():
        return None
    for depth in range(_MOST_ABOVE):
        folders = [_folder(name, depth) for name in names]
        counts = Counter(folder for folder in folders if folder.lower() in FOLDERS)
        splits = {FOLDERS[folder.lower()] for folder in counts}
        if "train" in splits and len(splits) > 1:
            codes = {"": -1, **{name: SPLITS.index(FOLDERS[name.lower()]) for name in counts}}
            found = np.array([codes.get(folder, -1) for folder in folders], np.int8)
            outside = np.flatnonzero(found < 0)
            first = [names[index][:-1].decode("utf-8", "replace") for index in outside[:_SHOWN]]
            return Division(found, dict(counts), len(outside), first)
    return None


def _folder(name: bytes, depth: int) -> str:
    """The name of the folder at this depth above a triple; "" where there is none."""
    above = bytes(name).split(b"/")[:-1]
    return above[depth].decode("utf-8", "replace") if depth < len(above) else ""
