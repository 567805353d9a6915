"""What must not grow with a dataset: opening it, resuming in it, and the reader's memory.

Usage: python benchmarks/scale.py [--quick] [--full] [--folder DIR] [--repeat 5] [--json FILE]

Measured, each in a process of its own, page cache warm, medians of `--repeat`:
- a manifest of 10^9 samples (simulated): written, then opened and asked for 1,000 random positions;
- the first batch of 256 after opening and after a resume in mid-epoch, of 400,000 triples;
- anonymous memory (smaps_rollup) while one epoch of 400,000 triples is read, and 20 of 20,000 and 4
  of 100,000: as many triples, since it takes the allocator more than a short epoch to settle. Lanes
  of 20,000 triples end often, and windows with them, so their median is below what these may hold.
`--full` makes 400,000 playground triples, packs them at 64x64 and verifies them (some 10 minutes on
2 cores), and measures on those. Without it, they are 4,096 playground triples taken again and again
under keys of their own: a block of 64 fair draws seldom holds one twice, so frames are as large and
as costly as real ones. `--quick`: without the 400,000, one round. Datasets are kept in `--folder`
if it is named, and found there again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from findings import add_options, keeper

from wdtrain.disk.machine import usable_cores
from wdtrain.fields import DepthFormat, Sample, triple_of
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import verify
from wdtrain.scenes.playground import Playground
from wdtrain.store.manifest import FORMAT, MANIFEST_NAME, VERSION, Manifest, digest_of
from wdtrain.stream import Cursor, Order, open_stream

SIZE = 64
BATCH = 256
COUNTS = (20_000, 100_000, 400_000)
BILLION = 10**9
SHARD_SAMPLES = 8192
LOCATED = 1000
MEMORY_EVERY = 10  # batches between looks at the memory
Found = dict[str, float]


class Repeated:
    """`count` triples, of which only `distinct` differ but for their keys: made fast, in memory."""

    def __init__(self, count: int, distinct: int = 4096) -> None:
        self.count, self.distinct = count, min(count, distinct)
        self.fields = triple_of(DepthFormat())
        self.description = {"name": "repeated", "count": count, "distinct": self.distinct}

    def __len__(self) -> int:
        return self.count

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unknown = np.full(len(indices), -1, np.int64)
        return unknown, unknown

    def key(self, index: int) -> str:
        return f"repeated-{index:09d}"

    def load(self, index: int) -> Sample:
        like = self._made[index % self.distinct]
        return replace(like, key=self.key(index))

    @cached_property
    def _made(self) -> list[Sample]:
        source = Playground(self.distinct, SIZE, difficulty=0.3)
        return [_as_jpeg(source.load(index)) for index in range(self.distinct)]

    def __getstate__(self) -> dict[str, Any]:
        self._made  # noqa: B018  made once, before it travels to the packing processes
        return self.__dict__


def _as_jpeg(made: Sample) -> Sample:
    overlay = made.arrays["overlay"]
    assert isinstance(overlay, np.ndarray)
    return replace(made, arrays={**made.arrays, "overlay": encode_jpeg(overlay)})


# ---------------------------------------------------------------------------- in a child


def locate_in_a_billion(url: str) -> Found:
    """Opens a manifest and locates random positions of the train split."""
    before, cpu = status_kib("VmRSS"), time.process_time()
    started = time.perf_counter()
    manifest = Manifest.load(url)
    opened = time.perf_counter()
    order = Order(manifest, "train", seed=0)
    ordered = time.perf_counter()
    chance = random.Random(0)
    found = {order.locate(chance.randrange(2 * order.samples)) for _ in range(LOCATED)}
    ended = time.perf_counter()
    assert len(found) > LOCATED // 2
    return {
        "open the manifest, s": opened - started,
        "make the order, s": ordered - opened,
        f"locate {LOCATED:,} positions, s": ended - ordered,
        "open, order and locate, s": ended - started,
        "open, order and locate, s of CPU": time.process_time() - cpu,
        "memory at the peak, above that of the imports, MB": (status_kib("VmHWM") - before) / 1e3,
    }


def first_batch(url: str, saved: str) -> Found:
    """The first batch of a stream that this process opens, at its beginning or at a cursor."""
    started = time.perf_counter()
    cursor = Cursor.loads(saved) if saved else None
    batches = iter(open_stream(url, split="train", batch_size=BATCH, seed=0, cursor=cursor))
    rows = len(next(batches))
    seconds = time.perf_counter() - started
    assert rows
    return {"s": seconds}


def memory_of_reading(url: str, epochs: int) -> Found:
    """Anonymous memory before opening a stream, and what reading it holds above that."""
    before = anonymous_kib()
    held = []
    stream = open_stream(url, split="train", batch_size=BATCH, seed=0, epochs=epochs)
    for number, _ in enumerate(stream):
        if number % MEMORY_EVERY == 0:
            held.append(anonymous_kib() - before)
    return {
        "imports, MB": before / 1e3,
        "reader, median, MB": statistics.median(held[len(held) // 2 :]) / 1e3,
        "reader, peak, MB": max(held) / 1e3,
    }


def status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def anonymous_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


MEASURES: dict[str, Callable[..., Found]] = {
    "billion": locate_in_a_billion,
    "first": first_batch,
    "memory": lambda url, epochs: memory_of_reading(url, int(epochs)),
}


def measured(name: str, *arguments: object) -> Found:
    """What one measurement found, in a fresh process that had imported everything before."""
    command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout)
    return found


def medians(rounds: list[Found], what: str) -> Found:
    """The median of each number over the rounds, named by what was measured."""
    return {f"{what}, {name}": statistics.median(one[name] for one in rounds) for name in rounds[0]}


# ---------------------------------------------------------------------------- in the parent


def write_billion(target: Path) -> float:
    """Writes a manifest of 10^9 samples that lie nowhere; returns its MB."""
    full, rest = divmod(BILLION, SHARD_SAMPLES)
    sizes = [SHARD_SAMPLES] * full + [rest] * bool(rest)
    shards = [
        {
            "name": f"train-{number:06d}.tar.zst",
            "samples": size,
            "bytes": 2000 * size,
            "sha256": f"{number:064x}",
        }
        for number, size in enumerate(sizes)
    ]
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "encoding": "image",
        "compression": "zstd:9",
        "height": SIZE,
        "width": SIZE,
        "samples_per_block": 64,
        "fields": {
            "overlay": {"member": "overlay.jpg", "dtype": "uint8", "shape": [SIZE, SIZE, 3]},
            "mask": {"member": "mask.png", "dtype": "uint8", "shape": [SIZE, SIZE]},
            "depth": {
                "member": "depth.png",
                "dtype": "uint8",
                "shape": [SIZE, SIZE],
                **DepthFormat().as_dict(),
            },
            "meta": {"member": "json"},
        },
        "splits": {"train": {"samples": BILLION, "shards": shards}},
        "overlay": {"pixels": 1, "sum": [0, 0, 0], "square_sum": [0, 0, 0]},
        "settings": {},
        "source": {},
        "rejects": {"count": 0, "reasons": {}, "list": []},
    }
    target.mkdir()
    data = json.dumps({**document, "digest": digest_of(document)}).encode()
    (target / MANIFEST_NAME).write_bytes(data)
    return len(data) / 1e6


def packed(folder: Path, count: int, *, full: bool) -> tuple[str, Found]:
    """The dataset of so many triples, packed now or found; and what making it took, if made."""
    target = folder / f"{'playground' if full else 'repeated'}-{count}"
    if (target / MANIFEST_NAME).exists():
        return str(target), {}
    source = Playground(count, SIZE, difficulty=0.3) if full else Repeated(count)
    started = time.perf_counter()
    manifest = pack(source, target, compression="zstd:9", processes=usable_cores())
    made = time.perf_counter()
    if not full:
        return str(target), {}
    problems = verify(manifest, lambda done, total: None)
    assert problems == [], problems
    assert manifest.samples + manifest.rejects["count"] == count
    name = f"{count:,} playground triples"
    return str(target), {
        f"{name}, made and packed on {usable_cores()} cores, s": made - started,
        f"{name}, verified, s": time.perf_counter() - made,
        f"{name}, rejected": manifest.rejects["count"],
        f"{name}, GB on disk": manifest.num_bytes / 1e9,
    }


def measure_billion(folder: Path, repeat: int) -> Found:
    what, url = "manifest of 10^9 samples", folder / "billion"
    found = {f"{what}, MB of JSON": write_billion(url)}
    return found | medians([measured("billion", url) for _ in range(repeat)], what)


def measure_first_batch(url: str, count: int, repeat: int) -> Found:
    order = Order(Manifest.load(url), "train", seed=0)
    middle = Cursor.at(order, order.samples // 2 // BATCH * BATCH).dumps()
    found: Found = {}
    for saved, what in (("", "after opening"), (middle, "after a resume in mid-epoch")):
        rounds = [measured("first", url, saved) for _ in range(repeat)]
        found |= medians(rounds, f"first batch {what}, {count:,} triples")
    return found


def measure_memory(urls: dict[int, str], repeat: int) -> Found:
    """Of datasets by their triples, read for as long: the smaller ones for more epochs."""
    found: Found = {}
    names = []
    for count, url in urls.items():
        rounds = [measured("memory", url, max(urls) // count) for _ in range(repeat)]
        names.append(f"anonymous memory, {count:,} triples")
        found |= medians(rounds, names[-1])
    *smaller, largest = names
    for name in smaller:
        for part in ("reader, median", "reader, peak"):
            growth = found[f"{largest}, {part}, MB"] / found[f"{name}, {part}, MB"] - 1
            found[f"{name} to the largest, {part}, growth %"] = 100 * growth
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="no 400,000 triples, one round")
    parser.add_argument("--full", action="store_true", help="400,000 playground triples as well")
    parser.add_argument("--folder", type=Path, help="where datasets are kept; default: nowhere")
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which medians are shown")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.measure:
        name, *arguments = options.measure
        print(json.dumps(MEASURES[name](*arguments)))
        return
    keep = keeper(parser, options)
    counts = COUNTS[:-1] if options.quick else COUNTS
    repeat = 1 if options.quick else options.repeat
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found = measure_billion(Path(temporary), repeat)
        urls = {}
        for count in counts:
            urls[count], made = packed(folder, count, full=options.full)
            found |= made
        found |= measure_first_batch(urls[counts[-1]], counts[-1], repeat)
        found |= measure_memory(urls, (repeat + 1) // 2)
    for name, value in found.items():
        print(f"{name:<86} {value:>10,.3f}")
    keep(found)


if __name__ == "__main__":
    main()
