"""Where the reader's time goes: seconds of work per stage, summed over threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("read", "parse", "decode", "wait")


class Stages:
    """Seconds spent in each stage. `read` includes inflating and checking; `wait` is the caller's.

    Divided by wall seconds x threads, the first three give the occupancy of the reader's threads.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)
