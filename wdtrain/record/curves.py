"""Curves of a run as PNG, one figure a quantity, drawn from its log lines.

What is drawn follows from the names in the log: `loss/TASK`, `validation/SPLIT/TASK/METRIC` with
`validation/SPLIT/TASK/baseline/METRIC`, `learning_rate/TASK`, `samples_per_second`, `seconds/PART`,
`memory_bytes`. Drawn without a display and without matplotlib's global state.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from wdtrain.record.console_base import PARTS
from wdtrain.record.glyphs import number, part_name
from wdtrain.targets.metrics import HIGHER, label

_COLOURS = ("#2f6fb3", "#d9792b", "#3a9a68", "#b5465a", "#7a5fb0", "#8a7a3c")
_GREY = "#8a8a8a"
_SIZE_INCHES, _DPI = (8.0, 3.4), 110
_MOST_POINTS = 3000
_SMOOTH_SHARE = 40
_LOG_RATIO = 12.0


@dataclass
class Series:
    """One quantity over the steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def collect(records: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """The numbers of the log lines by name; a null (a number that was not finite) is passed over.

    Where a step stands twice, the later line counts.
    """
    by_step: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                by_step[name][record["step"]] = float(value)
    return {
        name: Series(sorted(values), [values[step] for step in sorted(values)])
        for name, values in by_step.items()
    }


def draw_curves(
    series: Mapping[str, Series],
    folder: Path,
    *,
    metrics: Mapping[str, Sequence[str]],
    baseline_names: Mapping[str, str],
    resumed_at: Sequence[int] = (),
) -> dict[str, Path]:
    """Writes a PNG a quantity into `folder`; returns {title: path} in the order to be shown.

    metrics: which validation metrics of each task are drawn. resumed_at: steps that are marked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    for task, names in metrics.items():
        plots = {f"{task}: loss": _loss(series, task)}
        for metric in names:
            lines = _validation(series, task, metric, baseline_names.get(task, "baseline"))
            plots[f"{task}: {label(metric)}"] = lines
        rates = {"": series.get(f"learning_rate/{task}")}
        plots[f"{task}: learning rate"] = _lines(rates, is_noisy=False)
        for title, lines in plots.items():
            _draw(drawn, folder, title, lines, resumed_at)
    _draw(drawn, folder, "samples per second", _lines({"": series.get("samples_per_second")}),
          resumed_at, from_zero=True)  # fmt: skip
    _draw(drawn, folder, "milliseconds a step", _parts(series), resumed_at, from_zero=True)
    _draw(drawn, folder, "memory (GiB)", _memory(series), resumed_at, from_zero=True)
    return drawn


@dataclass(frozen=True)
class _Line:
    name: str
    series: Series
    colour: str
    is_baseline: bool = False
    is_noisy: bool = False


def _lines(named: Mapping[str, Series | None], *, is_noisy: bool = True) -> list[_Line]:
    found = [(name, one) for name, one in named.items() if one is not None and one.steps]
    return [
        _Line(name, one, _COLOURS[index % len(_COLOURS)], is_noisy=is_noisy)
        for index, (name, one) in enumerate(found)
    ]


def _loss(series: Mapping[str, Series], task: str) -> list[_Line]:
    lines = _lines({"training": series.get(f"loss/{task}")})
    held_out = _by_split(series, task, "loss")
    return lines + [
        _Line(split, one, _COLOURS[(index + 1) % len(_COLOURS)])
        for index, (split, one) in enumerate(held_out.items())
    ]


def _validation(
    series: Mapping[str, Series], task: str, metric: str, baseline_name: str
) -> list[_Line]:
    lines = _lines(_by_split(series, task, metric), is_noisy=False)
    colours = {line.name: line.colour for line in lines}
    baselines = _by_split(series, task, f"baseline/{metric}")
    return lines + [
        _Line(f"{split}: {baseline_name}", one, colours.get(split, _GREY), is_baseline=True)
        for split, one in baselines.items()
    ]


def _by_split(series: Mapping[str, Series], task: str, name: str) -> dict[str, Series]:
    """{split: series} of `validation/SPLIT/task/name`."""
    found = {}
    for key, one in series.items():
        first, _, rest = key.partition("/")
        split, _, path = rest.partition("/")
        if first == "validation" and path == f"{task}/{name}":
            found[split] = one
    return found


def _parts(series: Mapping[str, Series]) -> list[_Line]:
    named = {
        name.removeprefix("seconds/"): one for name, one in series.items() if "seconds/" in name
    }
    order = [*(part for part in PARTS if part in named), *(p for p in named if p not in PARTS)]
    return _lines(
        {
            part_name(part): Series(named[part].steps, [1e3 * v for v in named[part].values])
            for part in order
        }
    )


def _memory(series: Mapping[str, Series]) -> list[_Line]:
    one = series.get("memory_bytes")
    return _lines({"": one and Series(one.steps, [value / 2**30 for value in one.values])})


def _draw(
    drawn: dict[str, Path],
    folder: Path,
    title: str,
    lines: Sequence[_Line],
    resumed_at: Sequence[int],
    *,
    from_zero: bool = False,
) -> None:
    """One figure, noted in `drawn`; none where there is nothing to draw."""
    if not lines:
        return
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line in lines:
        _draw_line(axes, line)
    for step in resumed_at:
        axes.axvline(step, color=_GREY, linewidth=0.8, linestyle=":")
    _dress(axes, title, lines, from_zero=from_zero)
    path = folder / f"{_file_name(title)}.png"
    figure.savefig(path, metadata={"Software": ""})
    drawn[title] = path


def _draw_line(axes: Axes, line: _Line) -> None:
    steps, values = _thinned(line.series)
    name = line.name or None
    if line.is_baseline:
        text = f"{line.name} {number(values[-1])}"
        axes.axhline(values[-1], color=line.colour, linewidth=1.1, linestyle="--", label=text)
    elif line.is_noisy and len(values) > _SMOOTH_SHARE:
        axes.plot(steps, values, color=line.colour, linewidth=0.7, alpha=0.3)
        axes.plot(steps, _smooth(values), color=line.colour, linewidth=1.8, label=name)
    else:
        marker = "o" if len(values) <= _SMOOTH_SHARE else "None"
        axes.plot(
            steps, values, color=line.colour, linewidth=1.6, label=name, marker=marker, ms=3.5
        )


def _dress(axes: Axes, title: str, lines: Sequence[_Line], *, from_zero: bool) -> None:
    axes.set_title(title, loc="left", fontsize=11, color="#303030")
    axes.set_xlabel("step", color="#505050")
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    values = [value for line in lines for value in line.series.values]
    if from_zero:
        axes.set_ylim(0.0, 1.08 * max(values) or 1.0)
    elif min(values) > 0 and max(values) / min(values) > _LOG_RATIO and not _is_share(title):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if any(line.name for line in lines):
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _is_share(title: str) -> bool:
    """Whether the quantity is in 0..1 and would be bent out of shape by a logarithm."""
    return any(title.endswith(label(metric)) for metric in HIGHER)


def _thinned(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """At most 3000 points, each the mean of its neighbours."""
    steps, values = np.asarray(series.steps, float), np.asarray(series.values, float)
    stride = math.ceil(len(steps) / _MOST_POINTS)
    starts = np.arange(0, len(steps), stride)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, narrower at its ends."""
    half = max(1, len(values) // _SMOOTH_SHARE)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(half, index)
    after = np.minimum(before, len(values) - 1 - index)  # as narrow at the steep start as `before`
    return np.asarray((total[index + after + 1] - total[index - before]) / (before + after + 1))


def _file_name(title: str) -> str:
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in title)
    return "-".join(filter(None, plain.lower().split("-")))
