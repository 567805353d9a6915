"""What a person sees of a run while it goes: one interface, two faces.

`live` redraws one calm panel on a terminal, `plain` writes one honest line every few seconds;
`make_console` picks. Rank 0 has a console; the other ranks have none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO, get_args

from wdtrain.record.console_base import PARTS, Console, Progress, RunPlan, Score, TaskPlan
from wdtrain.record.console_live import LiveConsole
from wdtrain.record.console_plain import PlainConsole
from wdtrain.record.outlet import outlet

__all__ = ["PARTS", "Console", "Progress", "RunPlan", "Score", "TaskPlan", "make_console"]

Kind = Literal["auto", "live", "plain"]


def make_console(
    kind: Kind = "auto",
    stream: TextIO | None = None,
    *,
    interval_seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Console:
    """The console of this kind on this stream (default: standard output).

    auto: live where the stream is a terminal that can move its cursor, else plain. A stream that is
    closed or that nobody reads makes it silent (`outlet.py`).
    """
    output = outlet(sys.stdout if stream is None else stream)
    if kind not in get_args(Kind):
        raise ValueError(f"console is {kind!r}; it must be auto, live or plain")
    can_move = output.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    if kind == "live" or (kind == "auto" and can_move):
        return LiveConsole(output, clock=clock)
    return PlainConsole(output, interval_seconds=interval_seconds, clock=clock)
