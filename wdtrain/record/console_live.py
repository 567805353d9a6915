"""The console of a terminal: one panel, redrawn four times a second, that stays when the run ends.

From the top: what runs and how a batch is made up; how far it is; each task's loss and its latest
validation beside the baseline; speed, where the time goes, memory; the last events.
It uses the normal screen, so that the last picture and everything above it remain. On a terminal
that is not UTF-8 it is drawn in ASCII.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO, cast

from rich.console import Console as Terminal
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from wdtrain.record.console_base import Console, Progress, RunPlan, Score, Speedometer
from wdtrain.record.console_panel import Panel
from wdtrain.record.glyphs import ASCII, UNICODE, History, duration
from wdtrain.record.outlet import Outlet, outlet

_REFRESH_PER_SECOND = 4
_WINDOW_SECONDS = 20.0
_SILENCE_SECONDS = 20.0
_MOST_COLUMNS = 104
_MOST_EVENTS = 6


class LiveConsole(Console):
    """Draws the state of the run on a terminal; safe to call from the training thread."""

    def __init__(
        self,
        stream: TextIO | Outlet,
        *,
        clock: Callable[[], float] = time.monotonic,
        terminal: Terminal | None = None,
    ) -> None:
        self._stream = outlet(stream)
        self._terminal = terminal or Terminal(file=cast(TextIO, self._stream), highlight=False)
        self._clock = clock
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._plan: RunPlan | None = None
        self._started = self._last_at = clock()
        self._last: Progress | None = None
        self._losses: dict[str, History] = {}
        self._scores: dict[str, tuple[int, Score]] = {}
        self._speeds = [Speedometer(clock)]
        self._events: list[tuple[float, str]] = []
        self._phase = ""

    def start(self, plan: RunPlan) -> None:
        with self._lock:
            self._plan = plan
            self._started = self._last_at = self._clock()
            self._speeds = [Speedometer(self._clock)]
            self._losses = {task.name: History() for task in plan.tasks}
        if self._live is None:
            self._live = Live(
                self,
                console=self._terminal,
                refresh_per_second=_REFRESH_PER_SECOND,
                vertical_overflow="crop",
            )
            self._live.start()

    def step(self, progress: Progress) -> None:
        with self._lock:
            self._last, self._last_at = progress, self._clock()
            for task, loss in progress.losses.items():
                self._losses.setdefault(task, History()).add(loss)
            # two speedometers, half a window apart: the older one is read, then replaced
            for speed in self._speeds:
                speed.add(progress)
            if self._speeds[-1].trained_seconds > _WINDOW_SECONDS / 2:
                self._speeds = [self._speeds[-1], Speedometer(self._clock)]

    def validation(self, step: int, scores: Sequence[Score]) -> None:
        with self._lock:
            for score in scores:
                self._scores[score.task] = (step, score)

    def event(self, text: str) -> None:
        with self._lock:
            self._events = [*self._events, (self._clock() - self._started, text)][-_MOST_EVENTS:]
        if self._live is None:
            self._terminal.print(Text(text))

    def phase(self, text: str) -> None:
        with self._lock:
            self._phase, self._last_at = text, self._clock()
            for speed in self._speeds:
                if text:
                    speed.pause()
                else:
                    speed.go()

    def close(self) -> None:
        """The panel is drawn a last time and the terminal is as before, cursor and all."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        self._stream.drain()

    def __rich_console__(self, terminal: Terminal, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            if self._plan is not None:
                width = min(options.max_width, _MOST_COLUMNS) - 4
                panel = Panel(width, ASCII if options.ascii_only else UNICODE, options.encoding)
                rows = self._rows(self._plan, panel, options.size.height)
                yield Padding(Group(*rows), (1, 2, 0, 2), expand=False)

    def _rows(self, plan: RunPlan, panel: Panel, height: int) -> list[RenderableType]:
        now = self._clock()
        step = self._last.step if self._last else plan.first_step
        rows = [*panel.header(plan), Text()]
        rows += panel.progress(plan, step, now - self._started, self._doing(now))
        for task in plan.tasks:
            rows += [Text(), panel.loss(task.name, self._losses[task.name].values)]
            rows += panel.score(*self._scores[task.name]) if task.name in self._scores else []
        rows += [Text(), *panel.speed(self._speeds[0])]
        if self._last is not None and self._last.memory is not None:
            rows.append(panel.memory(self._last.memory))
        room = height - len(rows) - 3
        if self._events and room > 0:
            rows += [Text(), *(panel.event(*event) for event in self._events[-room:])]
        return rows

    def _doing(self, now: float) -> str:
        """What goes on besides training; a step that does not come is shown, not hidden."""
        silence = now - self._last_at
        if self._phase or silence < _SILENCE_SECONDS:
            return self._phase
        return f"no step for {duration(silence)}"
