"""Small graphics of text: sparklines, bars, numbers as people read them.

Every graphic has a face of plain ASCII for terminals and files that are not UTF-8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

_KEPT_POINTS = 512


@dataclass(frozen=True)
class Glyphs:
    """The characters to draw with."""

    levels: str
    block: str
    shade: str
    square: str
    times: str
    dot: str

    def spark(self, values: Sequence[float], width: int) -> str:
        """One character per column; heights are logarithmic where all values are positive.

        More values than columns are averaged, so that nothing is passed over. A value that is not
        finite is drawn as "!".
        """
        columns = _averages(values, width)
        finite = [value for value in columns if math.isfinite(value)]
        if not finite:
            return "!" * len(columns)
        scale = math.log if min(finite) > 0 else float
        low, high = scale(min(finite)), scale(max(finite))
        top = len(self.levels) - 1
        span = (high - low) or 1.0
        return "".join(
            self.levels[round((scale(value) - low) / span * top)] if math.isfinite(value) else "!"
            for value in columns
        )


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "█", "░", "■", "×", "·")
ASCII = Glyphs("_.-=+*#@", "#", ".", "#", "x", "-")


class History:
    """All values of a run in at most 512 numbers: when full, neighbours are averaged in pairs."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._stride = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._stride:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending = []
        if len(self.values) == _KEPT_POINTS:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [(first + second) / 2 for first, second in pairs]
            self._stride *= 2


def _averages(values: Sequence[float], width: int) -> list[float]:
    count = len(values)
    if count <= width:
        return list(values)
    edges = [column * count // width for column in range(width + 1)]
    parts = (values[start:end] for start, end in itertools.pairwise(edges))
    return [sum(part) / len(part) for part in parts]


def share_columns(shares: Sequence[float], width: int) -> list[int]:
    """Whole columns for each share of `width`, together all of it (largest remainders first)."""
    total = sum(shares)
    if total <= 0:
        return [0] * len(shares)
    exact = [share / total * width for share in shares]
    columns = [int(value) for value in exact]
    remainders = sorted(range(len(shares)), key=lambda i: (columns[i] - exact[i], i))
    for index in remainders[: width - sum(columns)]:
        columns[index] += 1
    return columns


def duration(seconds: float) -> str:
    """0:07, 12:31, 3:04:05, 2d 3:04:05; "-" where it is not known."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, second = divmod(rest, 60)
    clock = f"{hours}:{minutes:02d}:{second:02d}" if hours or days else f"{minutes}:{second:02d}"
    return f"{days}d {clock}" if days else clock


def size(num_bytes: float) -> str:
    """812 MiB, 11.2 GiB."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def number(value: float) -> str:
    """Four significant places for a loss or metric: 0.0123, 12.34, 1.2e-06."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    decimals = 4 if abs(value) < 1 else max(0, 4 - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


def rate(value: float) -> str:
    """34.2, 1,034."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def part_name(part: str) -> str:
    """A part of a step as it is printed: forward_backward is forward+backward."""
    return part.replace("_", "+")
