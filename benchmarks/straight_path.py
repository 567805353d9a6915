"""How fast triples are made, packed and streamed, beside the webdataset library on the same data.

Usage: python benchmarks/straight_path.py [--count 5000] [--repeat 5] [--json FILE]
Medians of several rounds in one process, page cache warm, batches of 256 as uint8 tensors.
webdataset reads the `.tar` mode with its own decoder (`torchrgb8`) and no worker process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import webdataset as wds
from findings import add_options, keeper

from wdtrain.packing.pack import pack
from wdtrain.scenes.playground import Playground
from wdtrain.store.manifest import Manifest
from wdtrain.store.opener import shard_urls
from wdtrain.stream import open_stream

SIZE = 64


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_1000() -> None:
    source = Playground(1000, SIZE, difficulty=0.3)
    for index in range(1000):
        source.load(index)


def read_ours(manifest: Manifest, threads: int) -> int:
    stream = open_stream(manifest, split="train", batch_size=256, seed=0, threads=threads)
    return sum(len(batch) for batch in stream)


def read_webdataset(manifest: Manifest) -> int:
    names = ("overlay.jpg", "mask.png", "depth.png")
    dataset = wds.WebDataset(shard_urls(manifest, "train"), shardshuffle=False).shuffle(1000)
    batches = dataset.decode("torchrgb8").to_tuple(*names).batched(256, collation_fn=stacked)
    return sum(len(overlay) for overlay, _, _ in batches)


def stacked(rows: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=5)
    add_options(parser)
    options = parser.parse_args()
    keep = keeper(parser, options)
    cores = len(os.sched_getaffinity(0))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        times = [seconds_of(make_1000) for _ in range(options.repeat)]
        found["make 1,000 playground triples, 1 thread, seconds"] = statistics.median(times)
        manifests = {}
        for encoding, compression in (("image", "zstd:9"), ("raw", "zstd:9"), ("image", "none")):
            for processes in (1, cores):
                source = Playground(options.count, SIZE, difficulty=0.3)
                target = Path(folder) / f"{encoding}-{compression[:4]}-{processes}"
                how = {"encoding": encoding, "compression": compression, "processes": processes}
                spent = seconds_of(lambda: pack(source, target, **how))  # noqa: B023  called at once
                name = f"pack {encoding} {compression}, {processes} processes, triples/s"
                found[name] = options.count / spent
            manifest = manifests[encoding, compression] = Manifest.load(str(target))
            per_triple = manifest.num_bytes / manifest.samples
            found[f"{encoding} {compression}, bytes a triple"] = per_triple
        readers: dict[str, Callable[[], int]] = {
            f"stream {encoding} {compression}, {threads} threads, triples/s": (
                lambda m=manifest, t=threads: read_ours(m, t)
            )
            for (encoding, compression), manifest in manifests.items()
            for threads in (1, cores)
        }
        tar = manifests["image", "none"]
        readers["webdataset image none, in process, triples/s"] = lambda: read_webdataset(tar)
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeat + 1):  # side by side: every reader once a round
            for name, read in readers.items():
                started = time.perf_counter()
                count = read()
                rates[name].append(count / (time.perf_counter() - started))
        found |= {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, value in found.items():
        print(f"{name:<58} {value:>10,.2f}")
    keep(found)


if __name__ == "__main__":
    main()
