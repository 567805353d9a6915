"""Seconds of each part of a step, without waiting for the device.

On the CPU by the clock; on CUDA by events on the stream, which are read when the step's result is
read (one step scalars), when they have long passed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TIMED_PARTS = ("copy", "augment", "forward_backward", "sync", "optimizer")


class Stopwatch:
    """Adds up what was spent in each named part."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._on_cuda:
            make: Any = torch.cuda.Event
            start, end = make(enable_timing=True), make(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds of every part; on CUDA this waits for the last event."""
        for name, start, end in self._events:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1000.0
        self._events = []
        return {name: self._seconds[name] for name in TIMED_PARTS}
