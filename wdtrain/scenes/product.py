"""Backgrounds x cut-outs x {as is, mirrored} x placements: which scene is which index.

Owns the arithmetic between an index and a scene's parts, and `Shelf`, the bounded cache of parts.
Both are pure functions of the index: nothing is listed, so 10**9 scenes cost no memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from wdtrain.scenes.keyed import Shuffle

_Made = TypeVar("_Made")
_CHUNK = 256


@dataclass(frozen=True)
class Scene:
    """The parts of one scene: numbers of background, cut-out and placement, and mirrored or not."""

    background: int
    cutout: int
    flip: bool
    placement: int


class Shelf(Generic[_Made]):
    """Keeps the parts used last, at most `most` of them; a copy sent to a process is empty."""

    def __init__(self, make: Callable[[int], _Made], most: int) -> None:
        self._make, self._most = make, most
        self._kept: OrderedDict[int, _Made] = OrderedDict()

    def __getitem__(self, number: int) -> _Made:
        part = self._kept.get(number)
        if part is None:
            part = self._kept[number] = self._make(number)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(number)
        return part

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_most": self._most, "_kept": OrderedDict()}


@dataclass(frozen=True, kw_only=True)
class Product:
    """The exact product, or (`count`) a keyed sample of it without repetition.

    Without `count` the index runs through the product in order, placements fastest.
    """

    backgrounds: int
    cutouts: int
    placements: int
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("backgrounds", "cutouts", "placements", "count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; a scene needs at least 1 of them")
        if self.count is not None and self.count > self.size:
            raise ValueError(
                f"count is {self.count}, but {self.backgrounds} backgrounds x {self.cutouts} "
                f"cut-outs x 2 x {self.placements} placements make {self.size} scenes; "
                "ask for fewer, or for more placements"
            )

    def describe(self) -> dict[str, int]:
        """How many of each part there are."""
        return {
            "backgrounds": self.backgrounds,
            "cutouts": self.cutouts,
            "placements": self.placements,
        }

    @property
    def size(self) -> int:
        """How many scenes the whole product has."""
        return self.backgrounds * self.cutouts * 2 * self.placements

    def __len__(self) -> int:
        return self.size if self.count is None else self.count

    @cached_property
    def _shuffle(self) -> Shuffle:
        return Shuffle(self.size, "product", self.seed)

    @cached_property
    def _shuffled(self) -> Shelf[np.ndarray]:
        """Shuffled numbers, many at once: one alone costs as much as a hundred."""
        return Shelf(self._shuffle_chunk, 16)

    def _shuffle_chunk(self, chunk: int) -> np.ndarray:
        indices = np.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.size))
        return self._shuffle(indices)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(background, cut-out) numbers of int64 indices, each int64 [n]."""
        numbers = np.asarray(indices, np.int64)
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}")
        if self.count is not None:
            numbers = self._shuffle(numbers)
        pairs = numbers // (2 * self.placements)
        return pairs // self.cutouts, pairs % self.cutouts

    def scene(self, index: int) -> Scene:
        """The parts of scene `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        number = index
        if self.count is not None:
            number = int(self._shuffled[index // _CHUNK][index % _CHUNK])
        pair, rest = divmod(number, 2 * self.placements)
        background, cutout = divmod(pair, self.cutouts)
        flip, placement = divmod(rest, self.placements)
        return Scene(background, cutout, bool(flip), placement)


def shelf_places(bytes_each: int, *, budget_bytes: int = 256 * 2**20) -> int:
    """How many parts of this size a shelf may keep."""
    return max(4, budget_bytes // max(1, bytes_each))
