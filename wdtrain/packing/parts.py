"""Packing in parts: which shards are whose, and what a part says that is not the last.

A part is a share of the shards, not of the samples: any number of parts, on any machines that see
the target, in any order, twice, or killed and given again, make the same dataset. Whichever finds
all shards finished commits the manifest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from wdtrain.disk.failures import StoreError
from wdtrain.packing.plan import Job

_PART: Final = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class PackingPart:
    """Part `number` of `count`, counted from 1; StoreError for one that there is not."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise StoreError(
                f"part {self.number}/{self.count} is not one of {self.count}; parts are counted "
                "from 1: the first of four is 1/4, the last 4/4"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The part that `I/N` names."""
        match = _PART.fullmatch(text.strip())
        if not match:
            raise StoreError(
                f"part {text!r} is not written as I/N; the second of four parts is 2/4"
            )
        return cls(int(match[1]), int(match[2]))

    def share(self, jobs: list[Job]) -> list[Job]:
        """Its jobs: every `count`-th, so that each part has some of every split."""
        return jobs[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"


@dataclass(frozen=True)
class PartDone:
    """A part has packed its share, and shards of other parts are missing still."""

    part: PackingPart
    finished: int
    shards: int

    def __str__(self) -> str:
        return (
            f"{self.part} is done: {self.finished:,} of {self.shards:,} shards are there; the "
            "manifest is written when the others are"
        )
