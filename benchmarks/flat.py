"""1,000 steps of a run as a user starts it, with checkpoints, validations and the report: memory.

Usage: python benchmarks/flat.py [--steps 1000] [--data DIR] [--folder DIR]

Read from the run's own metrics.jsonl: memory in use (resident on a CPU, held by the allocator on a
GPU) from step 100 on: medians of the first and the last tenth, and the straight line through all,
since what is resident goes up and down by a per cent with where the heap puts things. Pictures are
read at half their side, so that it ends in minutes on two cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

from playground import ROOT, Place, opened, parser, steps_of, training


def train(place: Place, steps: int) -> list[dict[str, Any]]:
    often = max(1, steps // 4)
    command = training(
        place,
        "flat",
        f"train.steps={steps}",
        "data.size=32",
        f"evaluate.every_steps={often}",
        "evaluate.max_samples=256",
        f"checkpoint.every_steps={often}",
    )
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return steps_of(place.folder / "flat")


def growth(name: str, steps: list[int], values: list[float]) -> str:
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    slope, _ = statistics.linear_regression(steps, values)
    trend = slope * (steps[-1] - steps[0]) / statistics.fmean(values)
    return (
        f"{name:<18} steps {steps[0]} to {steps[-1]}: first tenth {first / 1e6:,.1f} MB, last "
        f"{last / 1e6:,.1f} MB ({last / first - 1:+.2%}); line through all {trend:+.2%}; within "
        f"{min(values) / 1e6:,.1f} to {max(values) / 1e6:,.1f} MB"
    )


def main() -> int:
    reads = parser(__doc__)
    reads.add_argument("--steps", type=int, default=1000)
    options = reads.parse_args()
    with opened(options) as place:
        lines = train(place, options.steps)
    lines = [line for line in lines if line["step"] > 100] or lines  # fewer only to try it out
    for name in ("memory_bytes", "memory_peak_bytes"):
        print(growth(name, [line["step"] for line in lines], [line[name] for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
