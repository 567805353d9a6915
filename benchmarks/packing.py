"""How fast a folder of triples is packed, beside `webdataset.ShardWriter` on the same files.

Usage: python benchmarks/packing.py [--count 20000] [--repeat 5] [--json FILE] [--quick] [--cold]

The source: playground triples as `make-triples` writes them (JPEG, PNG, PNG, JSON each), 64x64
packed as they are, and 160x160 packed at 64x64. Everybody takes them in a shuffled order, writes
JPEG, stored PNG, stored PNG and canonical JSON into shards of 1,024, and compresses with zstd 9.

  ours        `wdtrain.packing.pack.pack`: checks names, partners, decodability, sizes and masks;
              sums of the overlays, duplicate keys, SHA-256, fsync, seekable frames, manifest
  sw checked  ShardWriter: the same decoding, resizing and encoding through `wdtrain.fields`, the
              same checks of sizes and masks; one zstd stream a shard; no sums, digests or fsync
  sw copy     ShardWriter: the files' bytes as they are, nothing looked at (64x64 only: there is
              nothing to copy where pictures are made smaller)

Each run is a process of its own, timed from before the folder is listed to the last byte written,
the start of packing processes included and that of Python with its libraries not. With 2 processes
ShardWriter packs one half in each. Rounds are interleaved; medians. Before a run every file is read
once, so that none pays for the disk; with --cold every file is dropped from memory instead. Ours
and `sw checked` must hold the same members, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zstandard
from findings import add_options, keeper

from wdtrain.commands.make_triples import write_triples
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg, jpeg_shape
from wdtrain.fields.mask import FOREGROUND
from wdtrain.fields.png import decode_png, encode_png
from wdtrain.fields.resize import area, median
from wdtrain.fields.sample import decode_meta, encode_meta
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import walk_blocks
from wdtrain.scenes.playground import Playground
from wdtrain.sources.folder import FolderSource
from wdtrain.store.manifest import Manifest

SIZE, LEVEL, SHARD_SAMPLES = 64, 9, 1024
SUFFIXES = ("overlay.jpg", "mask.png", "depth.png", "json")
CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Run:
    """One contender on one source."""

    contender: str
    pixels: int
    processes: int

    def __str__(self) -> str:
        return f"{self.pixels} -> {SIZE}  {self.contender:10s}  {self.processes} process(es)"


@dataclass(frozen=True)
class Result:
    """What a run took: seconds by the clock, of all its processes, and bytes written."""

    wall_seconds: float
    cpu_seconds: float
    num_bytes: int


def ours(folder: Path, out: Path, run: Run) -> None:
    pack(
        FolderSource(folder),
        out,
        size=None if run.pixels == SIZE else SIZE,
        compression=f"zstd:{LEVEL}",
        shard_samples=SHARD_SAMPLES,
        processes=run.processes,
    )


def shard_writer(folder: Path, out: Path, run: Run) -> None:
    """ShardWriter, in this process or with a half of the keys in each of several."""
    keys = sorted(path.name[: -len(".overlay.jpg")] for path in folder.glob("*.overlay.jpg"))
    random.Random(0).shuffle(keys)
    out.mkdir()
    halves = [keys[number :: run.processes] for number in range(run.processes)]
    if run.processes == 1:
        write_shards(folder, out, run, 0, keys)
        return
    workers = [
        CONTEXT.Process(target=write_shards, args=(folder, out, run, number, half))
        for number, half in enumerate(halves)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def write_shards(folder: Path, out: Path, run: Run, number: int, keys: list[str]) -> None:
    import webdataset as wds  # brings torch along: not into the runs of ours

    cv2.setNumThreads(1)
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    opened: list[Any] = []

    def open_shard(name: str) -> Any:
        opened.append(compressor.stream_writer(open(name, "wb")))  # noqa: SIM115  closed in `post`
        return opened[-1]

    members = checked if run.contender == "sw checked" else copied
    with wds.ShardWriter(
        f"{out}/part{number}-%06d.tar.zst",
        maxcount=SHARD_SAMPLES,
        verbose=0,
        opener=open_shard,
        post=lambda name: opened.pop().close(),
        encoder=False,
        mtime=0,
    ) as writer:
        for key in keys:
            writer.write({"__key__": key, **members(folder, key)})


def copied(folder: Path, key: str) -> dict[str, bytes]:
    return {suffix: (folder / f"{key}.{suffix}").read_bytes() for suffix in SUFFIXES}


def checked(folder: Path, key: str) -> dict[str, bytes]:
    """The members of a triple as they are to be stored; raises for one that cannot be."""
    jpeg, mask_png, depth_png, meta = copied(folder, key).values()
    mask = decode_png(mask_png, name="mask", dtype=np.dtype(np.uint8))
    depth = decode_png(depth_png, name="depth", dtype=np.dtype(np.uint8))
    full = jpeg_shape(jpeg)
    if mask.shape != full or depth.shape != full:
        raise ValueError(f"{key}: sizes differ")
    if full == (SIZE, SIZE):
        decode_jpeg(jpeg)
    else:
        rgb = decode_jpeg(jpeg, at_least=(SIZE, SIZE))
        size = (SIZE, SIZE)
        rgb, mask, depth = area(rgb, size), area(mask, size), median(depth, size)
        jpeg = encode_jpeg(rgb)
        decode_jpeg(jpeg)
    if mask.max() < FOREGROUND:
        raise ValueError(f"{key}: empty mask")
    return {
        "overlay.jpg": jpeg,
        "mask.png": encode_png(mask, stored=True),
        "depth.png": encode_png(depth, stored=True),
        "json": encode_meta(decode_meta(meta)),
    }


CONTENDERS: dict[str, Callable[[Path, Path, Run], None]] = {
    "ours": ours,
    "sw checked": shard_writer,
    "sw copy": shard_writer,
}


def measure(run: Run, folder: Path, out: Path, pipe: Any) -> None:
    """Runs a contender in this process, which is a fresh one, and sends what it took."""
    if run.contender != "ours":
        import webdataset  # noqa: F401  loaded before the clock starts, as our libraries are
    cv2.setNumThreads(1)
    started, before = time.perf_counter(), cpu_seconds()
    CONTENDERS[run.contender](folder, out, run)
    seconds, spent = time.perf_counter() - started, cpu_seconds() - before
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    pipe.send(Result(seconds, spent, num_bytes))


def cpu_seconds() -> float:
    """Of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def in_fresh_process(run: Run, folder: Path, out: Path) -> Result:
    shutil.rmtree(out, ignore_errors=True)
    receiving, sending = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=measure, args=(run, folder, out, sending))
    process.start()
    sending.close()
    result: Result = receiving.recv()
    process.join()
    return result


def touch(folder: Path, *, cold: bool) -> None:
    """Every file of the folder is in the page cache, or none is."""
    for entry in os.scandir(folder):
        descriptor = os.open(entry.path, os.O_RDONLY)
        if cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            os.read(descriptor, 1 << 20)
        os.close(descriptor)


def members_of_ours(out: Path) -> Iterator[tuple[str, bytes]]:
    manifest = Manifest.load(str(out))
    for split in manifest.splits.values():
        for _, _, block in walk_blocks(manifest, split):
            for row, key in enumerate(block.keys):
                for suffix, data in zip(SUFFIXES, block.members(row), strict=True):
                    yield f"{key}.{suffix}", bytes(data)


def members_of_theirs(out: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(out.iterdir()):
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()


def digest(members: Iterator[tuple[str, bytes]]) -> int:
    """The same for the same members in any order."""
    total = 0
    for name, data in members:
        hashed = hashlib.blake2b(name.encode() + b"\0" + data, digest_size=16).digest()
        total += int.from_bytes(hashed)
    return total % (1 << 128)


def check_same_members(folder: Path, out: Path, pixels: int) -> None:
    found = []
    for contender, members in (("ours", members_of_ours), ("sw checked", members_of_theirs)):
        in_fresh_process(Run(contender, pixels, 1), folder, out)
        found.append(digest(members(out)))
    if found[0] != found[1]:
        raise SystemExit(f"{pixels} -> {SIZE}: ours and sw checked do not hold the same members")


def report(results: dict[Run, list[Result]], count: int) -> dict[str, dict[str, float]]:
    """Prints a line a run and the ratios of ours to each; gives the numbers."""
    rows = {}
    for run, all_results in results.items():
        rates = sorted(count / result.wall_seconds for result in all_results)
        row = {
            "triples_per_second": statistics.median(rates),
            "lowest": rates[0],
            "highest": rates[-1],
            "cpu_us_per_triple": 1e6
            / count
            * statistics.median(result.cpu_seconds for result in all_results),
            "bytes_per_triple": all_results[-1].num_bytes / count,
        }
        rows[str(run)] = row
        print(
            f"{run}  {row['triples_per_second']:8,.0f} triples/s ({rates[0]:,.0f} to "
            f"{rates[-1]:,.0f}), {row['cpu_us_per_triple']:6,.0f} us of CPU and "
            f"{row['bytes_per_triple']:6,.0f} bytes a triple"
        )
    for run in results:
        if run.contender != "ours":
            best = rows[str(Run("ours", run.pixels, 2))]["triples_per_second"]
            print(f"ours, 2 processes / {run}: {best / rows[str(run)]['triples_per_second']:.2f} x")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the triples here; default: temporary")
    parser.add_argument("--cold", action="store_true", help="files not in memory")
    parser.add_argument("--quick", action="store_true", help="2,000 triples, one round")
    add_options(parser)
    options = parser.parse_args()
    keep = keeper(parser, options)
    count, repeat = (2000, 1) if options.quick else (options.count, options.repeat)
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.folder or Path(scratch)
        out = Path(scratch) / "out"
        folders = {pixels: kept / f"triples-{pixels}-{count}" for pixels in (SIZE, 160)}
        for pixels, folder in folders.items():
            write_triples(Playground(count, pixels, difficulty=0.3), folder)
            check_same_members(folder, out, pixels)
        runs = [
            Run(contender, pixels, processes)
            for pixels in folders
            for contender in CONTENDERS
            for processes in (1, 2)
            if pixels == SIZE or contender != "sw copy"
        ]
        results: dict[Run, list[Result]] = {run: [] for run in runs}
        for number in range(repeat):
            for run in runs if number % 2 else reversed(runs):
                touch(folders[run.pixels], cold=options.cold)
                results[run].append(in_fresh_process(run, folders[run.pixels], out))
    rows = report(results, count)
    each = {str(run): [asdict(one) for one in found] for run, found in results.items()}
    keep({"count": count, "cold": options.cold, "medians": rows, "rounds": each})


if __name__ == "__main__":
    main()
