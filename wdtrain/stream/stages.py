"""Where the reader's time goes: seconds of work per stage, summed over threads."""

from __future__ import annotations

import threading
import time

WORK = ("read", "inflate", "parse", "gather", "decode")
STAGES = (*WORK, "wait")


class Stages:
    """Seconds spent in each stage; checksums belong to `inflate`, `wait` is the caller's.

    Divided by wall seconds x threads, the others give the occupancy of the reader's threads.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self._asked_at, self._asked = time.perf_counter(), dict(self._seconds)

    def timed(self, stage: str) -> _Timed:
        """A `with` block whose seconds count as this stage's."""
        return _Timed(self, stage)

    def add(self, **seconds: float) -> None:
        """Seconds of work, by stage."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] += spent

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)

    def occupancy(self, threads: int) -> dict[str, float]:
        """Share of `threads` that was busy in each stage since this was asked before."""
        now, spent = time.perf_counter(), self.seconds()
        room = max(now - self._asked_at, 1e-9) * threads
        shares = {stage: (spent[stage] - self._asked[stage]) / room for stage in WORK}
        self._asked_at, self._asked = now, spent
        return shares


class _Timed:
    """Not a generator: it is entered for every 32 samples, and those cost three times as much."""

    __slots__ = ("_stage", "_stages", "_started")

    def __init__(self, stages: Stages, stage: str) -> None:
        self._stages, self._stage = stages, stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stages.add(**{self._stage: time.perf_counter() - self._started})
