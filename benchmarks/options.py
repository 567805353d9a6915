"""What the recipe's options of speed are worth here: precision, memory layout, torch.compile.

Usage: python benchmarks/options.py [--rounds 3] [--steps 20] [--batch 32] [--data DIR]

The demo's recipe, one run a row and round, as a user starts it; rows are interleaved, in an order
that is turned round each time. Milliseconds a step are medians of a run's steps, the first four
left out (there, kernels are chosen, and networks compiled); then medians of the rounds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from playground import ROOT, Place, opened, parser, steps_of, training

OPTIONS = {
    "bf16, channels last (the demo's)": (),
    "fp32": ("precision=fp32",),
    "bf16, contiguous": ("channels_last=false",),
    "bf16, compiled": ("compile=true",),
    "fp32, compiled": ("precision=fp32", "compile=true"),
}
WARM_UP = 4


def step_seconds(place: Place, name: str, steps: int, given: tuple[str, ...]) -> float:
    """Of a run with these options: the median of its steps."""
    quick = ("evaluate.max_samples=32", f"evaluate.every_steps={steps}", "log.trackers=[]")
    command = training(place, name, f"train.steps={WARM_UP + steps}", *quick, *given)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = steps_of(place.folder / name)[WARM_UP:]
    return float(statistics.median(line["seconds"] for line in lines))


def main() -> int:
    reads = parser(__doc__)
    reads.add_argument("--rounds", type=int, default=3)
    reads.add_argument("--steps", type=int, default=20, help="that count (default 20)")
    reads.add_argument("--batch", type=int, default=32, help="samples of a step (default 32)")
    options = reads.parse_args()
    found: dict[str, list[float]] = {row: [] for row in OPTIONS}
    with opened(options) as place:
        for number in range(options.rounds):
            for row in list(OPTIONS) if number % 2 else reversed(OPTIONS):
                given = (*OPTIONS[row], f"train.batch_size={options.batch}")
                name = f"{row.replace(', ', '-').split(' (')[0].replace(' ', '-')}-{number}"
                found[row].append(step_seconds(place, name, options.steps, given))
    first = statistics.median(next(iter(found.values())))
    for row, seconds in found.items():
        middle = statistics.median(seconds)
        spread = f"{1e3 * min(seconds):,.0f} to {1e3 * max(seconds):,.0f}"
        print(f"{row:<34} {1e3 * middle:>8,.0f} ms a step ({spread}), {first / middle:.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
