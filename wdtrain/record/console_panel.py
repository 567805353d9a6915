"""The rows of the live console, each a small picture of a few numbers.

Quiet grey for what does not change, colour only for what is measured: green where a network beats
its baseline, yellow where it does not or where something is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from wdtrain.record.console_base import (
    NOT_SCORED,
    RunPlan,
    Score,
    Speedometer,
    memory_text,
    seconds_left,
)
from wdtrain.record.glyphs import ASCII, Glyphs, duration, number, part_name, rate, share_columns
from wdtrain.record.process_memory import ProcessMemory
from wdtrain.targets.metrics import is_higher_better, label

_QUIET, _STRONG, _GOOD, _WATCH = "dim", "bold", "green", "yellow"
_PART_STYLES = {
    "data": "yellow",
    "copy": "magenta",
    "augment": "cyan",
    "forward_backward": "blue",
    "sync": "red",
    "optimizer": "green",
    "other": "bright_black",
}
_PART_LETTERS = {"forward_backward": "F"}
_HEAD, _NAME, _VALUE = 8, 12, 9
_FULL_SHARE = 0.9


@dataclass(frozen=True)
class Panel:
    """Draws rows of `width` columns with these glyphs, in characters that `encoding` has."""

    width: int
    glyphs: Glyphs
    encoding: str

    def header(self, plan: RunPlan) -> list[RenderableType]:
        first, *others = plan.batch_lines(self.glyphs.times)
        samples = f"{plan.samples:,} samples an epoch"
        return [
            *self._pair(self._text(plan.title, _STRONG), self._text(plan.device, _QUIET)),
            *self._pair(self._text(first, _QUIET), self._text(samples, _QUIET)),
            *(self._text(line, _QUIET) for line in others),
        ]

    def progress(
        self, plan: RunPlan, step: int, elapsed_seconds: float, doing: str
    ) -> list[RenderableType]:
        left = duration(seconds_left(plan, step, elapsed_seconds))
        epoch = step * plan.batch_size / max(plan.samples, 1)
        where = Text.assemble(
            "step ", (f"{step:,}", _STRONG), f" of {plan.steps:,}",
            (f"   {step / max(plan.steps, 1):.0%}   epoch {epoch:.2f}", _QUIET),
            (f"   {self._safe(doing)}", _WATCH),
        )  # fmt: skip
        times = f"{duration(elapsed_seconds)} so far {self.glyphs.dot} {left} left"
        return [*self._pair(where, self._text(times, _QUIET)), self._bar(step, max(plan.steps, 1))]

    def loss(self, task: str, losses: Sequence[float]) -> RenderableType:
        latest = number(losses[-1]) if losses else "-"
        spark = self.glyphs.spark(losses, self._rest)
        return self._row(task, "loss", latest, Text(spark, "cyan"))

    def score(self, step: int, score: Score) -> list[RenderableType]:
        at = Text(f"   step {step:,}", _QUIET)
        if not score.is_known:
            return [self._row("", label(score.metric), "-", Text(NOT_SCORED, _QUIET))]
        if score.baseline is None:
            return [self._row("", label(score.metric), number(score.value), at)]
        gain = score.value - score.baseline
        is_better = gain > 0 if is_higher_better(score.metric) else gain < 0
        beside = Text(f"{score.baseline_name or 'baseline'} {number(score.baseline)}", _QUIET)
        gained = Text(f"   {gain:+.4f}", _GOOD if is_better else _WATCH)
        if len(beside) + len(gained) > self._rest:
            beside = Text(f"against {number(score.baseline)}", _QUIET)
        row = Text.assemble(beside, gained, at)
        return [self._row("", label(score.metric), number(score.value), row)]

    def speed(self, speed: Speedometer) -> list[RenderableType]:
        """samples/s, and the parts of the time as one bar with its legend."""
        shares = speed.shares()
        line = Text.assemble(
            ("speed".ljust(_HEAD), _QUIET),
            (rate(speed.samples_per_second()), _STRONG), " samples/s",
            (f"   {speed.steps_per_second():.2f} steps/s", _QUIET),
        )  # fmt: skip
        if not shares:
            return [line]
        bar, legend = Text("time".ljust(_HEAD), _QUIET), []
        columns = share_columns(list(shares.values()), self.width - _HEAD)
        for (part, share), count in zip(shares.items(), columns, strict=True):
            style = _PART_STYLES.get(part, "white")
            bar.append(self._mark(part, self.glyphs.block) * count, style)
            mark = (self._mark(part, self.glyphs.square), style)
            legend.append(Text.assemble(mark, (f" {part_name(part)} {share:.0%}", _QUIET)))
        return [line, bar, *self._flow(legend)]

    def memory(self, memory: ProcessMemory) -> RenderableType:
        row = Text("memory".ljust(_HEAD), _QUIET)
        if memory.budget_bytes:
            share = min(1.0, memory.used_bytes / memory.budget_bytes)
            used, free = share_columns([share, 1 - share], self.width // 3)
            row.append(self.glyphs.block * used, _WATCH if share > _FULL_SHARE else "cyan")
            row.append(self.glyphs.shade * free + "  ", _QUIET)
        return row.append(memory_text(memory))

    def event(self, seconds: float, text: str) -> RenderableType:
        stamp = duration(seconds).rjust(_HEAD - 2) + "  "
        return self._crop(Text.assemble((stamp, _QUIET), self._safe(text)))

    def _row(self, head: str, name: str, value: str, rest: Text) -> Text:
        return self._crop(
            Text.assemble(
                (self._safe(head)[: _HEAD - 1].ljust(_HEAD), _STRONG),
                (self._safe(name).ljust(_NAME), _QUIET),
                (value.ljust(_VALUE), _STRONG),
                rest,
            )
        )

    @property
    def _rest(self) -> int:
        """Columns to the right of a row's head, name and value."""
        return self.width - _HEAD - _NAME - _VALUE

    def _bar(self, done: int, total: int) -> RenderableType:
        if self.glyphs is not ASCII:
            return Padding(
                ProgressBar(total, done, self.width, style=_QUIET, complete_style="cyan"), 0
            )
        full, empty = share_columns([done, max(0, total - done)], self.width)
        return Text(self.glyphs.block * full + self.glyphs.shade * empty)

    def _pair(self, left: Text, right: Text) -> list[RenderableType]:
        """Left and right on one line if both fit, else one below the other."""
        gap = self.width - len(left) - len(right)
        if gap < 2:
            return [self._crop(left), self._crop(right)]
        return [Text.assemble(left, " " * gap, right)]

    def _flow(self, items: Sequence[Text]) -> list[RenderableType]:
        """The items one after the other, on as many lines as they need."""
        lines = [Text(" " * _HEAD)]
        for item in items:
            if len(lines[-1]) + len(item) > self.width:
                lines.append(Text(" " * _HEAD))
            lines[-1].append_text(item).append("  ")
        return [self._crop(line) for line in lines]

    def _mark(self, part: str, glyph: str) -> str:
        """The coloured glyph; in ASCII, where colours may be missing too, the part's letter."""
        return _PART_LETTERS.get(part, part[0]) if self.glyphs is ASCII else glyph

    def _text(self, text: str, style: str) -> Text:
        return self._crop(Text(self._safe(text), style))

    def _crop(self, text: Text) -> Text:
        text.no_wrap, text.overflow = True, "crop"
        text.truncate(self.width, overflow="crop")
        return text

    def _safe(self, text: str) -> str:
        return text.encode(self.encoding, "replace").decode(self.encoding)
