"""What only a GPU can show; see gpu.sh. Each part is a run as a user starts it.

Usage: python benchmarks/gpu.py FOLDER [--only PART ...]

  plan      batch 8192 under 4 GiB: what is planned, and that no step takes more
  curves    the same by plan, by a micro-batch forced too large (so that it recovers), and on the
            full card: losses over all steps, the largest relative difference
  flat      1,000 steps with checkpoints and validations: peak memory after step 100 and at the end
  shared    two processes on one GPU over gloo: the losses of one process
  step      benchmarks/step.py with compiled networks: both, and one network at a time
  tests     tests/gpu

Without a GPU all of it is run dry: batches of 64, a few steps, no budget; the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
SEED_RATES = {"mask": 849, "depth": 919}
"""images/s of the seed project on a GTX 1080 Ti, one network at a time."""


@dataclass
class Bench:
    """Runs in one folder on one packed dataset; `found` is what they gave."""

    folder: Path
    is_dry: bool
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return 64 if self.is_dry else 8192

    def recipe(self, name: str, *overrides: str, steps: int) -> list[str]:
        given = [
            f"data.url={self.folder / 'data'}",
            f"run.folder={self.folder / name}",
            f"train.steps={steps}",
            "train.epochs=null",
            "log.trackers=[]",
            "log.console=plain",
            "log.every_steps=1",
            f"evaluate.every_steps={10 * steps}",
            "evaluate.max_samples=64",
            "evaluate.splits=[val-new-new]",
            *overrides,
        ]
        return ["wdtrain/train.py", "--config", "recipes/full.yaml", *given]

    def python(self, *words: str, **environment: str) -> tuple[float, str]:
        """(seconds, output) of a Python command in the repository; its failure is ours."""
        began = time.perf_counter()
        result = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{result.stdout}\n{result.stderr}")
        return time.perf_counter() - began, result.stdout

    def losses(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "loss/mask" in line]

    def data(self) -> None:
        if (self.folder / "data" / "manifest.json").exists():
            return
        count = 2000 if self.is_dry else 40000
        source = f"playground:count={count},size=64,difficulty=0.3"
        self.python("tools/pack-shards", source, str(self.folder / "data"), "--encoding", "raw")

    # ------------------------------------------------------------------ the parts

    def plan(self) -> None:
        given = (f"train.batch_size={self.batch}", "memory=4GiB", "--plan")
        seconds, output = self.python(*self.recipe("plan", *given, steps=10))
        sizes = {task: int(n) for n, task in re.findall(r"micro-batch (\d+) for (\w+)", output)}
        self.found["plan"] = {"seconds": round(seconds, 1), "micro_batch": sizes, "said": output}

    def curves(self) -> None:
        steps = 4 if self.is_dry else 40
        batch = f"train.batch_size={self.batch}"
        forced = "step.micro_batch=64" if self.is_dry else "step.micro_batch=8192"
        kinds = {
            "full card": ("memory=0.9",),
            "4 GiB by plan": ("memory=4GiB",),
            "4 GiB, forced": ("memory=4GiB", forced),
        }
        curves: dict[str, list[dict[str, Any]]] = {}
        rows = {}
        for name, overrides in kinds.items():
            place = name.replace(" ", "-").replace(",", "")
            self.python(*self.recipe(place, batch, *overrides, steps=steps))
            curves[name] = self.losses(place)
            rows[name] = cost(curves[name])
        full = curves["full card"]
        for name, lines in curves.items():
            rows[name]["off the full card's"] = {
                task: max(
                    abs(line[f"loss/{task}"] - other[f"loss/{task}"]) / other[f"loss/{task}"]
                    for line, other in zip(lines, full, strict=True)
                )
                for task in ("mask", "depth")
            }
        self.found["curves"] = rows

    def flat(self) -> None:
        steps = 20 if self.is_dry else 1000
        often = max(5, steps // 4)
        more = (f"evaluate.every_steps={often}", f"checkpoint.every_steps={often}")
        self.python(*self.recipe("flat", "train.batch_size=256", *more, steps=steps))
        lines = self.losses("flat")
        early = next(x for x in lines if x["step"] >= steps // 10)["memory_peak_bytes"]
        last = lines[-1]["memory_peak_bytes"]
        self.found["flat"] = {"early": early, "last": last, "growth": last / early - 1}

    def shared(self) -> None:
        steps, exact = 4 if self.is_dry else 20, ("precision=fp32", "train.batch_size=64")
        self.python(*self.recipe("alone", *exact, "memory=0.4", steps=steps))
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
        self.python(*launcher, *self.recipe("both", *exact, "memory=0.4", steps=steps))
        pairs = zip(self.losses("alone"), self.losses("both"), strict=True)
        self.found["shared"] = {
            "largest difference of a loss": max(
                abs(one[f"loss/{task}"] - two[f"loss/{task}"])
                for one, two in pairs
                for task in ("mask", "depth")
            )
        }

    def step(self) -> None:
        size = ["--batch", str(self.batch), "--micro-batch", "64" if self.is_dry else "1024"]
        how = ["--quick"] if self.is_dry else ["--repeat", "3", "--compile"]
        for task in ("mask",) if self.is_dry else ("both", "mask", "depth"):
            path = self.folder / f"step-{task}.json"
            _, text = self.python(
                "benchmarks/step.py",
                "--tasks",
                task,
                *size,
                *how,
                "--json",
                str(path),
                "--overwrite",
            )
            self.found[f"step, {task}"] = text

    def tests(self) -> None:
        _, output = self.python("-m", "pytest", "-q", "tests/gpu")
        self.found["tests"] = output


PARTS = ("plan", "curves", "flat", "shared", "step", "tests")


def cost(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed and memory of a run, its first two steps left out."""
    settled = lines[2:]
    seconds = sum(line["seconds"] for line in settled)
    return {
        "triples/s": round(sum(line["samples"] for line in settled) / seconds, 1),
        "waiting": sum(line["seconds/data"] for line in settled) / seconds,
        "augmenting": sum(line["seconds/augment"] for line in settled) / seconds,
        "peak GiB": round(max(line["memory_peak_bytes"] for line in lines) / 2**30, 2),
        "recoveries": sum(line["recoveries"] for line in lines),
    }


def as_text(bench: Bench, device: str, seconds: float) -> str:
    lines = [f"# On {device}, {seconds:.0f} s", ""]
    if bench.is_dry:
        lines += ["Run dry, without a GPU: it works; its figures mean nothing.", ""]
    lines += [f"The seed project's, on a GTX 1080 Ti, one network at a time: {SEED_RATES}.", ""]
    for part, found in bench.found.items():
        text = found if isinstance(found, str) else json.dumps(found, indent=1)
        said = found.get("said") if isinstance(found, dict) else None
        lines += [f"## {part}", "", "```", said or text.strip(), "```", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    is_dry = not torch.cuda.is_available()
    bench = Bench(options.folder.resolve(), is_dry)
    bench.folder.mkdir(parents=True, exist_ok=True)
    device = "the CPU" if is_dry else torch.cuda.get_device_name()
    began = time.perf_counter()
    bench.data()
    for part in options.only:
        print(f"{time.perf_counter() - began:5.0f} s  {part}", flush=True)
        getattr(bench, part)()
        text = as_text(bench, device, time.perf_counter() - began)
        (bench.folder / "gpu.md").write_text(text)
        (bench.folder / "gpu.json").write_text(json.dumps(bench.found, indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
