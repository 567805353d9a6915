"""Which samples are the best, the middle and the worst, in memory that does not grow with them.

The best and the worst are exact. The middle is that of at most `DRAWN` samples, those whose keys
have the smallest hashes: all of them up to that number, so exact; above it a fair draw, whose
middle is within 2.5 % of the ranks of the true one (three standard errors). Which samples are
kept follows from keys and scores alone, so any cut over batches and ranks gives the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from wdtrain.targets.metrics import rank_samples

DRAWN = 4096
SampleScore = tuple[str, float]
"""A sample's key and its score."""


class Ranking:
    """The `count` best, middle and worst of all that was added here, or on any rank."""

    def __init__(self, *, higher_is_better: bool, count: int = 4, drawn: int = DRAWN) -> None:
        self.count = 0
        self._higher, self._shown, self._most = higher_is_better, count, drawn
        self._best: list[SampleScore] = []
        self._worst: list[SampleScore] = []
        self._drawn: list[tuple[bytes, SampleScore]] = []

    def add(self, samples: Iterable[SampleScore]) -> None:
        samples = list(samples)
        self.count += len(samples)
        self._keep(samples, samples, [(_hash(key), (key, score)) for key, score in samples])

    def gather(self, gather: Callable[[Any], list[Any]]) -> None:
        """Every rank has the ranking of all; gather gives the values of all ranks."""
        everyone = gather((self.count, self._best, self._worst, self._drawn))
        self.count, self._best, self._worst, self._drawn = 0, [], [], []
        for count, best, worst, drawn in everyone:
            self.count += count
            self._keep(best, worst, drawn)

    def result(self) -> dict[str, list[SampleScore]]:
        """best, median and worst, as `rank_samples` gives them."""
        middle = self._rank([sample for _, sample in self._drawn])["median"]
        return {"best": self._best, "median": middle, "worst": self._worst}

    @property
    def is_exact(self) -> bool:
        """Whether the middle is that of all samples."""
        return self.count <= self._most

    def _keep(
        self,
        best: list[SampleScore],
        worst: list[SampleScore],
        drawn: list[tuple[bytes, SampleScore]],
    ) -> None:
        self._best = self._rank([*self._best, *best])["best"]
        self._worst = self._rank([*self._worst, *worst])["worst"]
        self._drawn = sorted([*self._drawn, *drawn])[: self._most]

    def _rank(self, samples: list[SampleScore]) -> dict[str, list[SampleScore]]:
        return rank_samples(samples, higher_is_better=self._higher, count=self._shown)


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
