"""How far the estimate of a step's memory is from what the CPU allocator records.

Usage: python benchmarks/estimate.py [--size 64] [--norm-group 32] [--samples 32 64 128]
For each network and precision: the peak of a local pass (copy, augmentation, forward, loss,
backward), estimated on the meta device and measured on the CPU by PyTorch's profiler; then the
largest micro-batch of both tasks for a few devices. Deterministic: one run says it all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.learn.cases import built, make_rows, make_view
from tests.memory.allocator import cpu_peak_bytes
from wdtrain.learn.step import LocalPass
from wdtrain.learn.task import Task, TaskSet
from wdtrain.memory.estimate import Footprint, explain_footprint, footprint, largest_micro_batches
from wdtrain.networks import build
from wdtrain.ranks.devices import KNOWN_DEVICES, parse_device

CASES = (("mask", "seed-mask", "bce+dice"), ("depth", "seed-unet", "smooth-l1"))


def make_task(case: tuple[str, str, str], precision: str, norm_group: int) -> Task:
    target, network, loss = case
    optimizer = {"name": "adamw", "lr": 1e-3}
    how = {"loss": loss, "optimizer": optimizer, "precision": precision, "norm_group": norm_group}
    return built(target, target, build(network), **how)


def measured(task: Task, samples: int, size: int, precision: str) -> int:
    task.micro_batch = samples
    rows = make_rows(samples, group=task.norm_group, size=size)
    tasks, view = TaskSet([task]), make_view(precision)

    def work() -> None:
        tasks.open()
        local = LocalPass(rows=rows, device=torch.device("cpu"), view=view)
        local.run(task, tasks.gradients_of(task))

    return cpu_peak_bytes(work)


def compare(known: Footprint, task: Task, arguments: argparse.Namespace, precision: str) -> None:
    for samples in arguments.samples:
        truth = measured(task, samples, arguments.size, precision)
        guess = known.pass_bytes(samples)
        print(
            f"{task.name:6} {precision:5} {samples:5} {guess / 2**20:10.1f} {truth / 2**20:10.1f} "
            f"{guess / truth - 1:+8.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--norm-group", type=int, default=32)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    arguments = parser.parse_args()
    print("task   prec  samples  estimate   measured    error   (MiB, peak of one pass)")
    size = {"height": arguments.size, "width": arguments.size}
    for precision in arguments.precision:
        footprints = {}
        for case in CASES:
            task = make_task(case, precision, arguments.norm_group)
            known = footprint(task, view=make_view(precision), most=8192, **size)
            footprints[task.name] = known
            compare(known, task, arguments, precision)
        for name in KNOWN_DEVICES:
            where, device_bytes = parse_device(name)
            budget_bytes = int(0.9 * device_bytes)
            fitting = largest_micro_batches(footprints, budget_bytes, most=8192)
            lines = explain_footprint(footprints, fitting, where=where, budget_bytes=budget_bytes)
            print("\n".join(lines) if name == "T4 16GB" else f"{where}: {fitting}")


if __name__ == "__main__":
    main()
