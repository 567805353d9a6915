"""1,000 steps of a run as a user starts it, with checkpoints, validations and the report: memory.

Usage: python benchmarks/flat.py [--steps 1000] [--data DIR] [--folder DIR]

Read from the run's own metrics.jsonl: memory in use (resident on a CPU, held by the allocator on a
GPU) after step 100 and at the end, medians over 20 steps, and the peak of each. Pictures are read
at half their side, so that it ends in minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEDIAN_OF = 20


def train(data: Path, folder: Path, steps: int) -> list[dict[str, Any]]:
    often = max(1, steps // 4)
    given = [
        f"data.url={data}",
        f"run.folder={folder}",
        f"train.steps={steps}",
        "data.size=32",
        f"evaluate.every_steps={often}",
        "evaluate.max_samples=256",
        f"checkpoint.every_steps={often}",
        "log.console=plain",
    ]
    command = [sys.executable, "wdtrain/train.py", "--config", "recipes/playground.yaml", *given]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss/mask" in line]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="a packed playground; packed where not given")
    parser.add_argument("--folder", type=Path, help="for the run; a temporary one where not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = (options.folder or Path(temporary)).resolve()
        data = options.data or base / "data"
        if not (data / "manifest.json").exists():
            pack = [sys.executable, "tools/pack-shards", "playground:count=4000,size=64", str(data)]
            subprocess.run(pack, cwd=ROOT, check=True)
        lines = train(data.resolve(), base / "flat", options.steps)
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
