"""1,000 steps of a run as a user starts it, with checkpoints, validations and the report: memory.

Usage: python benchmarks/flat.py [--steps 1000] [--data DIR] [--folder DIR]

Read from the run's own metrics.jsonl: memory in use (resident on a CPU, held by the allocator on a
GPU) after step 100 and at the end, medians over 20 steps, and the peak of each. Pictures are read
at half their side, so that it ends in minutes on two cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

from playground import ROOT, Place, opened, parser, steps_of, training

MEDIAN_OF = 20


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


def main() -> int:
    reads = parser(__doc__)
    reads.add_argument("--steps", type=int, default=1000)
    options = reads.parse_args()
    with opened(options) as place:
        lines = train(place, options.steps)
    early = [x for x in lines if x["step"] > options.steps // 10][:MEDIAN_OF]
    late = lines[-MEDIAN_OF:]
    for name in ("memory_bytes", "memory_peak_bytes"):
        first, last = (statistics.median(x[name] for x in part) for part in (early, late))
        print(
            f"{name:<18} after step {early[0]['step'] - 1}: {first / 1e6:,.1f} MB, at the end: "
            f"{last / 1e6:,.1f} MB, {last / first - 1:+.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
