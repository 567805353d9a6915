"""What was measured, as a table for people and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from steps.measure import Result
from steps.work import Settings

NETWORK_PARTS = ("forward", "backward", "forward_backward", "optimizer")


def report(machine: str, settings: Settings, results: dict[str, Result]) -> str:
    """The speeds, then the parts of a step, then the share of augmentation."""
    how = (
        f"{machine}; {settings.device}, {settings.threads} threads; "
        f"{' + '.join(settings.targets)}, batch {settings.batch}, "
        f"micro-batch {settings.micro_batch}, norm group {settings.norm_group}, "
        f"{settings.precision}; medians of {len(results['bare'].seconds)}"
    )
    lines = [how, "", f"{'':<22} {'samples/s':>10} {'ms a step':>10} {'of bare':>8} {'cpu':>6}"]
    lines += [speed_line(result) for result in results.values()]
    lines += ["", "ms a step, by part:", *part_lines(results), *augmentation_lines(results)]
    return "\n".join(lines)


def speed_line(result: Result) -> str:
    """cpu: the ratio of processor time, which a busy machine changes less."""
    if result.missing:
        return f"{result.name:<22} {result.missing}"
    cpu = f"{statistics.median(result.cpu_ratios):.3f}" if result.cpu_ratios else "-"
    return (
        f"{result.name:<22} {result.samples / result.step_seconds:>10,.1f} "
        f"{1e3 * result.step_seconds:>10,.1f} {result.ratio:>8.3f} {cpu:>6}  "
        f"({min(result.ratios):.3f} to {max(result.ratios):.3f})"
    )


def overhead(parts: dict[str, float]) -> float:
    """Seconds outside forward, backward and optimizer."""
    return sum(spent for part, spent in parts.items() if part not in NETWORK_PARTS)


def part_lines(results: dict[str, Result]) -> list[str]:
    lines = []
    for result in results.values():
        parts = result.median_parts()
        if parts:
            listed = ", ".join(f"{part} {1e3 * spent:.1f}" for part, spent in parts.items())
            outside = f"outside forward, backward and optimizer {1e3 * overhead(parts):.1f}"
            lines.append(f"{result.name:<22} {listed}; {outside}")
    return lines


def augmentation_lines(results: dict[str, Result]) -> list[str]:
    """Augmentation and normalisation as a share of the step."""
    lines = []
    for name in ("bare, by part", "ours"):
        parts = results[name].median_parts() if name in results else {}
        if parts:
            share = parts["augment"] / results[name].step_seconds
            lines.append(f"augmentation and normalisation, {name}: {100 * share:.1f} % of the step")
    return lines


def as_document(machine: str, settings: Settings, results: dict[str, Result]) -> dict[str, Any]:
    """Everything, every round."""
    rows = {
        name: {
            **asdict(result),
            "samples_per_second": result.samples / result.step_seconds,
            "ratio": result.ratio,
            "median_parts": result.median_parts(),
        }
        for name, result in results.items()
        if not result.missing
    }
    absent = {name: result.missing for name, result in results.items() if result.missing}
    how = {**asdict(settings), "device": str(settings.device)}
    return {"machine": machine, "settings": how, "rows": rows, "missing": absent}
