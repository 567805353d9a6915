"""The report of a run: `report.md` with its pictures in `report/`.

Made from the log lines and a plain dict of results, which is kept as `report/results.json`, so that
the report can be made again later and elsewhere. Nothing in it is measured here.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import wdtrain
from wdtrain.disk.durable import write_whole
from wdtrain.record.console_base import NOT_SCORED
from wdtrain.record.curves import Series, collect, draw_curves
from wdtrain.record.glyphs import number, part_name, rate, size
from wdtrain.record.runlog import read_log
from wdtrain.targets import Target
from wdtrain.targets.metrics import is_higher_better, label

PICTURES = "report"
RESULTS_NAME = "results.json"
_VERSIONED = ("accelerate", "kornia", "numpy", "opencv-python-headless")


def write_report(folder: Path | str, results: Mapping[str, Any]) -> Path:
    """`folder/report.md` and its pictures are there; returns its path.

    results, JSON values, every one but `tasks` and `splits` may be missing:
        title, outcome (a sentence; made from the numbers if missing), lead_split,
        run: {name: value} and data: {name: value}, shown as they are (state, steps, difficulty ...)
        tasks: {task: {network, parameters, and the `task_facts` of its target}}
        splits: {split: {samples, tasks: {task: {loss, metrics, baseline}}}}
        samples: {task: {metric, best, median, worst: [[key, score], ...], drawn: of how many
            samples the median is, if not of all}}
        grids: {task: {caption: path of a PNG, relative to the folder}}
        memory_budget_bytes, resumed_at: [step], recipe: YAML text, versions: {name: version}
    """
    folder = Path(folder)
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    series = collect(read_log(folder))
    sections = [
        _head(results),
        _against_baselines(results),
        _facts(results),
        *(_task(task, results) for task in results["tasks"]),
        _curves(folder, series, results),
        _cost(series, results),
        _recipe(results),
        _table(["", "version"], [list(item) for item in _versions(results).items()], "Versions"),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    write_whole(pictures / RESULTS_NAME, json.dumps(results, indent=1).encode())
    write_whole(folder / "report.md", text.encode())
    return folder / "report.md"


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers; packages that are not installed are left out."""
    found = {
        "wdtrain": str(getattr(wdtrain, "__version__", "unknown")),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def outcome(results: Mapping[str, Any]) -> str:
    """One sentence: what each task reached on the leading split, and what its baseline does."""
    split = _lead_split(results)
    parts = []
    for name, task in results["tasks"].items():
        value, baseline = _pair(results, split, name)
        if value is None:
            parts += [f"{name}: {NOT_SCORED}"] if _is_scored(results, split, name) else []
            continue
        text = f"{name} {label(task['metric'])} {number(value)}"
        if baseline is not None:
            text += f" ({_comparison(task, value, baseline)})"
        parts.append(text)
    difficulty = results.get("data", {}).get("difficulty")
    data = f", difficulty {difficulty:g}" if difficulty is not None else ""
    return f"On {split}{data}: {'; '.join(parts)}." if parts else "Nothing was validated yet."


def task_facts(target: Target, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What the report needs to know of what a task learned; metrics: on the leading split."""
    breakdown = target.breakdown(metrics)
    return {
        "target": target.name,
        "kind": target.field.kind,
        "metric": target.metric,
        "columns": list(target.columns),
        "baseline_name": target.baseline_name,
        "breakdown": breakdown._asdict() if breakdown and breakdown.rows else None,
    }


def _head(results: Mapping[str, Any]) -> str:
    return f"# {results.get('title', 'Run')}\n\n{results.get('outcome') or outcome(results)}"


def _against_baselines(results: Mapping[str, Any]) -> str:
    rows = []
    for name, task in results["tasks"].items():
        for split in results["splits"]:
            value, baseline = _pair(results, split, name)
            if value is None and not _is_scored(results, split, name):
                continue
            found = NOT_SCORED if value is None else f"**{number(value)}**"
            cells = [name, split, label(task["metric"]), found]
            if value is not None and baseline is not None:
                name_and_value = f"{number(baseline)} ({task.get('baseline_name', 'baseline')})"
                cells += [name_and_value, _gain(task, value, baseline)]
            rows.append(cells + [""] * (6 - len(cells)))
    columns = ["task", "split", "metric", "network", "baseline", "gain"]
    return _table(columns, rows, "Against the baselines")


def _facts(results: Mapping[str, Any]) -> str:
    tables = [
        _table(["", ""], [[name, _text(value)] for name, value in results[key].items()], title)
        for key, title in (("run", "Run"), ("data", "Data"))
        if results.get(key)
    ]
    return "\n\n".join(tables)


def _task(name: str, results: Mapping[str, Any]) -> str:
    task = results["tasks"][name]
    columns, broken_down = task.get("columns", []), task.get("breakdown")
    by_split = {split: _metrics(results, split, name) for split in results["splits"]}
    lines = [f"## {name}: {task['network']}, {task['parameters']:,} parameters"]
    lines.append(_metric_table("split", by_split, columns, task["metric"]))
    if broken_down:
        rows, leading = broken_down["rows"], task["metric"]
        inner = dict.fromkeys(column for row in rows.values() for column in row)
        ordered = [column for column in columns if column in inner] or list(inner)
        leading = leading if leading in inner else ordered[0]
        lines.append(f"{broken_down['title']}, on {_lead_split(results)}:")
        lines.append(_metric_table(broken_down["head"], rows, ordered, leading))
    lines += [f"![{caption}]({path})" for caption, path in _grids(results, name).items()]
    lines.append(_samples(results, name))
    return "\n\n".join(line for line in lines if line)


def _samples(results: Mapping[str, Any], name: str) -> str:
    samples = results.get("samples", {}).get(name)
    if not samples:
        return ""
    of = {"median": f" (of {samples['drawn']:,} drawn by key)"} if "drawn" in samples else {}
    rows = [
        [
            group + of.get(group, ""),
            ", ".join(f"`{key}` {number(score)}" for key, score in samples[group]),
        ]
        for group in ("best", "median", "worst")
        if samples.get(group)
    ]
    metric = label(samples.get("metric", results["tasks"][name]["metric"]))
    return _table(["", f"samples by {metric}"], rows)


def _curves(folder: Path, series: Mapping[str, Series], results: Mapping[str, Any]) -> str:
    tasks = results["tasks"]
    drawn = draw_curves(
        series,
        folder / PICTURES,
        metrics={name: [task["metric"]] for name, task in tasks.items()},
        baseline_names={
            name: task.get("baseline_name", "baseline") for name, task in tasks.items()
        },
        resumed_at=results.get("resumed_at", ()),
    )
    links = [f"![{title}]({path.relative_to(folder)})" for title, path in drawn.items()]
    return "\n\n".join(["## Curves", *links]) if links else ""


def _cost(series: Mapping[str, Series], results: Mapping[str, Any]) -> str:
    """Throughput, where the time went, memory: from the log lines."""
    rows = []
    total = sum(series["seconds"].values) if "seconds" in series else 0.0
    if total > 0 and "samples" in series:
        rows.append(["training", f"{rate(sum(series['samples'].values) / total)} samples/s"])
        for name, one in series.items():
            if name.startswith("seconds/"):
                part = part_name(name.removeprefix("seconds/"))
                text = "waiting for data" if part == "data" else part
                rows.append([text, f"{sum(one.values) / total:.1%} of the time"])
    if "memory_bytes" in series:
        budget = results.get("memory_budget_bytes")
        peaks = series.get("memory_peak_bytes", series["memory_bytes"])
        used = size(max(peaks.values))
        rows.append(["memory, at most", f"{used} of {size(budget)}" if budget else used])
    if "recoveries" in series:
        rows.append(["out of memory", _recoveries(series)])
    return _table(["", ""], rows, "Speed and memory")


def _recipe(results: Mapping[str, Any]) -> str:
    recipe = results.get("recipe", "").strip()
    return f"## Recipe\n\n```yaml\n{recipe}\n```" if recipe else ""


def _versions(results: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = results.get("versions") or versions()
    return found


def _metric_table(
    head: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str], leading: str
) -> str:
    """A row for each mapping; columns that no row has are left out, the leading one comes first."""
    ordered = [leading, *(name for name in columns if name != leading)]
    present = [name for name in ordered if any(name in values for values in rows.values())]
    marks = {name: "↑" if is_higher_better(name) else "↓" for name in present}
    has_images = any("images" in values for values in rows.values())
    body = [
        [
            row,
            *([f"{values.get('images', 0):,.0f}"] if has_images else []),
            *(number(values[name]) if name in values else "" for name in present),
        ]
        for row, values in rows.items()
    ]
    names = [f"{label(name)} {marks[name]}" for name in present]
    return _table([head, *(["samples"] if has_images else []), *names], body)


def _pair(results: Mapping[str, Any], split: str, task: str) -> tuple[float | None, float | None]:
    """The leading metric of a task on a split, and its baseline's; None where not known."""
    scores = results["splits"].get(split, {}).get("tasks", {}).get(task, {})
    metric = results["tasks"][task]["metric"]
    return scores.get("metrics", {}).get(metric), scores.get("baseline", {}).get(metric)


def _is_scored(results: Mapping[str, Any], split: str, task: str) -> bool:
    """Whether the task was looked at there, with whatever result."""
    return task in results["splits"].get(split, {}).get("tasks", {})


def _gain(task: Mapping[str, Any], value: float, baseline: float) -> str:
    """+0.3670 where more is better, else 0.62 ×."""
    if is_higher_better(task["metric"]):
        return f"{value - baseline:+.4f}"
    return f"{value / baseline:.2f} ×" if baseline else ""


def _comparison(task: Mapping[str, Any], value: float, baseline: float) -> str:
    """+0.3670 on the colour threshold's 0.1430; or 0.62 × the mean depth picture's 0.4020."""
    joint = " on" if is_higher_better(task["metric"]) else ""
    name = f"the {task.get('baseline_name', 'baseline')}'s {number(baseline)}"
    return f"{_gain(task, value, baseline)}{joint} {name}".strip()


def _metrics(results: Mapping[str, Any], split: str, task: str) -> dict[str, float]:
    scores = results["splits"][split].get("tasks", {}).get(task, {})
    return dict(scores.get("metrics", {}))


def _grids(results: Mapping[str, Any], task: str) -> dict[str, str]:
    return dict(results.get("grids", {}).get(task, {}))


def _lead_split(results: Mapping[str, Any]) -> str:
    return str(results.get("lead_split") or next(iter(results["splits"]), "no split"))


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _recoveries(series: Mapping[str, Series]) -> str:
    """never; 1 recovery, at step 3; 2 recoveries, first at step 3; and what the allocator freed."""
    found = series["recoveries"]
    steps = [step for step, count in zip(found.steps, found.values, strict=True) if count]
    count = int(sum(found.values))
    text = "never"
    if count:
        text = f"1 recovery, at step {steps[0]:g}"
        if count > 1:
            text = f"{count} recoveries, the first at step {steps[0]:g}"
    retries = max(series["memory_retries"].values) if "memory_retries" in series else 0
    return text + (f"; the allocator freed what it kept {retries:g} times" if retries else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A Markdown table, its heading above; nothing without rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"## {title}\n"] * bool(title) + lines)
