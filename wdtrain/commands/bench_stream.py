"""`bench-stream`: how fast a dataset streams on this machine, stage by stage, beside its floor.

The floor is what the work itself costs: blocks in memory inflated, and their rows decoded in the
order they lie, into one batch used again and again, in bare loops on as many threads. What the
reader adds to that (reading, order, windows, batches, the interpreter) is the distance from 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table

from wdtrain.commands import Output, run_command, tool_parser
from wdtrain.commands.own_kinds import add_kinds, register_kinds
from wdtrain.disk.machine import usable_cores
from wdtrain.settings import parse_bytes
from wdtrain.store import native
from wdtrain.store.buffers import Recycled
from wdtrain.store.filling import Filler, MemberPlaces, RowBuffers, WindowSlice
from wdtrain.store.foreign import ForeignBlock, open_shard
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import AnyBlock, decode_row, parse_block
from wdtrain.store.shards import ShardReader
from wdtrain.stream import Batch, Stream, open_stream
from wdtrain.stream.batches import HostMemory
from wdtrain.stream.stages import WORK

_EXAMPLES: Final = """\
examples:
  bench-stream shards/mine
  bench-stream shards/mine --threads 1,4,8 --batch-size 1024
  bench-stream s3://bucket/set --samples 5000 --split val-new-new
  bench-stream shards/large --size 64            # read at a smaller size

A stage's figure is what one thread does if it does nothing else. `waited` is the share of time in
which the caller stood still: near 1 here, since it does nothing but ask. A split that fits into
--shuffle-bytes is read in the first round alone and kept: smaller ones measure reading, too.
"""
_FLOOR_BLOCKS: Final = 64


@dataclass(frozen=True)
class Rate:
    """How fast one number of threads streamed: triples a second, and of the floor's bare loops."""

    threads: int
    stream: float
    floor: float
    waited: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `bench-stream` with these arguments (default: the command line's)."""
    return run_command(lambda: _bench(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "bench-stream", "Measures how fast a packed dataset streams on this machine.", _EXAMPLES
    )
    threads = sorted({1, usable_cores()})
    add = parser.add_argument
    add("target", metavar="DATASET", help="a dataset's folder or URL")
    add("--split", default="train", help="default train")
    add("--batch-size", type=int, default=256, metavar="B", help="default 256")
    add("--threads", type=_counts, default=threads, metavar="N,...", help=f"default {threads}")
    add("--size", type=int, metavar="S", help="read at this shorter side; default: as stored")
    add("--shuffle-bytes", default="1GiB", metavar="SIZE", help="data.shuffle_bytes; default 1GiB")
    add("--samples", type=int, metavar="N", help="of each round; default: an epoch, at most 100000")
    add("--rounds", type=int, default=5, metavar="N", help="the median counts; default 5")
    add_kinds(parser)
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one or more counts such as 1,2")
    return counts


def _bench(options: argparse.Namespace) -> int:
    for name in ("batch_size", "size", "samples", "rounds"):
        if (count := getattr(options, name)) is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {count}; it must be 1 or more")
    register_kinds(options)
    manifest = Manifest.load(options.target)
    samples = options.samples or min(manifest.split(options.split).samples, 100_000)
    floor = _Floor(manifest, options)
    rates: list[Rate] = []
    stages: dict[str, float | None] = {}
    for threads in options.threads:
        stream = _stream(manifest, options, threads)
        rate, spent = _rate(stream, samples, options.rounds, floor)
        rates.append(rate)
        stages = stages or spent
    stages["transfer"] = _transfer(next(iter(stream)))
    if options.json:
        print(json.dumps(_document(manifest, rates, stages)))
    else:
        _show(manifest, options, rates, stages)
    return 0


def _stream(manifest: Manifest, options: argparse.Namespace, threads: int) -> Stream:
    return open_stream(
        manifest,
        split=options.split,
        batch_size=options.batch_size,
        seed=0,
        threads=threads,
        epochs=None,
        size=options.size,
        shuffle_bytes=parse_bytes(options.shuffle_bytes),
    )


# ---------------------------------------------------------------------------- measuring


def _rate(
    stream: Stream, samples: int, rounds: int, bare: _Floor
) -> tuple[Rate, dict[str, float | None]]:
    """Rounds of the stream and of its floor in turn, the first left out: it fills caches. And
    triples a second of each stage alone: samples over its seconds of work."""
    batches = iter(stream)
    streamed, floor, waited = [], [], []
    _read(batches, samples)
    before = stream.stages.seconds()
    bare.rate(stream.threads)
    read = 0
    for _ in range(rounds):
        seconds, done, wait = _read(batches, samples)
        streamed.append(done / seconds)
        waited.append(wait / seconds)
        floor.append(bare.rate(stream.threads))
        read += done
    after = stream.stages.seconds()
    stages = {
        name: read / (after[name] - before[name]) if after[name] > before[name] else None
        for name in WORK
    }
    medians = (statistics.median(values) for values in (streamed, floor, waited))
    return Rate(stream.threads, *medians), stages


def _read(batches: Iterator[Batch], samples: int) -> tuple[float, int, float]:
    """(seconds, samples, seconds waited) of reading at least so many samples."""
    started, done, waited = time.perf_counter(), 0, 0.0
    while done < samples:
        batch = next(batches)
        done += len(batch)
        waited += batch.wait_seconds
    return time.perf_counter() - started, done, waited


def _transfer(batch: Batch) -> float | None:
    """Triples a second from the host's memory to the accelerator's; None without one."""
    if not torch.cuda.is_available() or not len(batch):
        return None
    arrays = [tensor.pin_memory() for tensor in batch.fields.values()]
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        for array in arrays:
            array.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    return 10 * len(batch) / (time.perf_counter() - started)


# ---------------------------------------------------------------------------- the floor


class _Floor:
    """The first blocks of a split, as they lie on disk, and the memory of one batch a thread."""

    def __init__(self, manifest: Manifest, options: argparse.Namespace) -> None:
        self._manifest = manifest
        self._size = manifest.size_at(options.size)
        self._filler = Filler(manifest, self._size)
        self._batches = HostMemory(manifest.fields.values(), self._size)
        self._packed: list[tuple[ShardReader, int, bytes]] = []
        memory = Recycled()
        for shard in manifest.split(options.split).shards:
            reader = open_shard(manifest.shard_url(shard), shard, manifest, memory=memory)
            for number in range(min(reader.num_blocks, _FLOOR_BLOCKS - len(self._packed))):
                self._packed.append((reader, number, bytes(reader.read_packed(number))))

    def rate(self, threads: int) -> float:
        """Triples a second of `threads` bare loops at once."""
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            done = sum(pool.map(lambda _: self._bare_loop(), range(threads)))
        return done / (time.perf_counter() - started)

    def _bare_loop(self) -> int:
        """Unpacks and decodes all blocks; gives the number of their samples."""
        done, target = 0, self._batches.take(self._manifest.samples_per_block)
        for reader, number, packed in self._packed:
            block = parse_block(reader.unpack(number, packed), self._manifest)
            self._decode(block, target)
            done += block.num_samples
        return done

    def _decode(self, block: AnyBlock, target: RowBuffers) -> None:
        count = block.num_samples
        if native.LIBRARY is None or isinstance(block, ForeignBlock):
            for row in range(count):
                decode_row(block, row, size=self._size)
            return
        in_order = np.zeros(count, np.int64), np.arange(count)
        rows = MemberPlaces.of_blocks([block], *in_order, self._manifest)
        self._filler.fill([WindowSlice(rows, 0, count, 0)], target)


# ---------------------------------------------------------------------------- showing


def _document(
    manifest: Manifest, rates: list[Rate], stages: dict[str, float | None]
) -> dict[str, Any]:
    return {
        "dataset": manifest.digest,
        "compiled": native.LIBRARY is not None,
        "threads": [{**vars(rate), "ratio": rate.stream / rate.floor} for rate in rates],
        "stages": stages,
    }


def _show(
    manifest: Manifest,
    options: argparse.Namespace,
    rates: list[Rate],
    stages: dict[str, float | None],
) -> None:
    console = Output()
    form = f"{manifest.encoding} {manifest.compression}"
    compiled = "compiled" if native.LIBRARY is not None else "NOT compiled (see troubleshooting)"
    console.print(
        f"{options.target}: {options.split}, {manifest.split(options.split).samples:,} samples of "
        f"{manifest.height}x{manifest.width}, {form}, {manifest.num_bytes / manifest.samples:,.0f} "
        f"bytes each; batches of {options.batch_size}; inner loops {compiled}",
        highlight=False,
    )
    table = Table("threads", "triples/s", "floor", "ratio", "waited", title="streaming")
    for rate in rates:
        table.add_row(
            str(rate.threads),
            f"{rate.stream:,.0f}",
            f"{rate.floor:,.0f}",
            f"{rate.stream / rate.floor:.2f}",
            f"{rate.waited:.2f}",
        )
    console.print(table)
    table = Table("stage", "triples/s", "microseconds", title=f"one thread, of {rates[0].threads}")
    for name, found in stages.items():
        if found is None:
            table.add_row(name, "-", "no accelerator" if name == "transfer" else "not needed")
        else:
            table.add_row(name, f"{found:,.0f}", f"{1e6 / found:.2f}")
    console.print(table)
