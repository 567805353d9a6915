"""What no reader of these formats can beat; options: `what` is decode, inflate or gather.

decode: simplejpeg into the batch and slicing stored PNGs, members lying in memory. inflate: zstd
alone over the frames of our shards. gather: rows of arrays in memory copied into a batch. Two
workers are two processes that share nothing, each with all samples: cores, not threads.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Full
from typing import Any

import numpy as np
import simplejpeg
import zstandard

from peers.job import Batch, Job, Loader
from peers.shared import Shared

PNG_PIXELS_AT, STORED_BLOCK, BLOCK_HEADER = 48, 65535, 5  # of a stored PNG: docs/format.md
READY_BATCHES = 4
PARENT_SECONDS = 5.0
SEEK_ENTRY, SEEK_FOOTER = struct.Struct("<III"), struct.Struct("<IBI")
Epoch = Callable[[int], Iterator[Batch]]


def decode(job: Job) -> Epoch:
    jpegs, masks, depths = zip(*stored_members(job.shards("train-*.tar.zst")), strict=True)

    def epoch(seed: int) -> Iterator[Batch]:
        for rows in shuffled(job, seed):
            overlay = np.empty((len(rows), job.size, job.size, 3), np.uint8)
            for at, row in enumerate(rows):
                simplejpeg.decode_jpeg(jpegs[row], "RGB", buffer=overlay[at])
            grey = [sliced([pngs[row] for row in rows], job.size) for pngs in (masks, depths)]
            yield overlay, grey[0], grey[1]

    return epoch


def stored_members(shards: list[str]) -> Iterator[tuple[bytes, bytes, bytes]]:
    for shard in shards:
        with Path(shard).open("rb") as packed:
            stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                members = (archive.extractfile(info) for info in archive)
                parts = [member.read() for member in members if member is not None]
        yield from zip(parts[0::4], parts[1::4], parts[2::4], strict=True)


def sliced(pngs: list[bytes], size: int) -> np.ndarray:
    """uint8 [n, size, size] of stored PNGs of one size, all at once."""
    length = size * (size + 1)
    if length > STORED_BLOCK:
        lines = np.frombuffer(b"".join(blocks_of(pngs, length)), np.uint8)
    else:
        flat = np.frombuffer(b"".join(pngs), np.uint8).reshape(len(pngs), -1)
        lines = flat[:, PNG_PIXELS_AT : PNG_PIXELS_AT + length]
    return lines.reshape(len(pngs), size, size + 1)[:, :, 1:].copy()


def blocks_of(pngs: list[bytes], length: int) -> Iterator[memoryview]:
    """What the stored blocks of each PNG hold, without their headers: `length` bytes a PNG."""
    for png in map(memoryview, pngs):
        for number, start in enumerate(range(0, length, STORED_BLOCK)):
            at = PNG_PIXELS_AT + start + number * BLOCK_HEADER
            yield png[at : at + min(STORED_BLOCK, length - start)]


def inflate(job: Job) -> Epoch:
    manifest = json.loads((Path(job.data) / "manifest.json").read_text())
    block = range(manifest["samples_per_block"])
    frames = [frame for shard in job.shards("train-*.tar.zst") for frame in frames_of(shard)]
    inflater = zstandard.ZstdDecompressor()

    def epoch(seed: int) -> Iterator[Batch]:
        for row in np.random.default_rng(seed).permutation(len(frames)):
            inflater.decompress(frames[row])
            yield block, None, None

    return epoch


def frames_of(shard: str) -> Iterator[bytes]:
    """The whole blocks of a shard by its seek table, but the last, which may be short."""
    data = Path(shard).read_bytes()
    count, _, _ = SEEK_FOOTER.unpack(data[-SEEK_FOOTER.size :])
    start = len(data) - SEEK_FOOTER.size - count * SEEK_ENTRY.size
    sizes = [size for size, _, _ in SEEK_ENTRY.iter_unpack(data[start : -SEEK_FOOTER.size])]
    ends = list(itertools.accumulate(sizes))
    for end, size in list(zip(ends, sizes, strict=True))[:-2]:  # the last of all ends the archive
        yield data[end - size : end]


def gather(job: Job) -> Epoch:
    shared = Shared(Path(job.shared))
    arrays = [np.array(shared.array(name)) for name in ("overlay_raw", "mask", "depth")]

    def epoch(seed: int) -> Iterator[Batch]:
        for rows in shuffled(job, seed):
            overlay, mask, depth = (array.take(rows, axis=0) for array in arrays)
            yield overlay, mask, depth

    return epoch


def shuffled(job: Job, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of the batches of one epoch."""
    order = np.random.default_rng(seed).permutation(job.count)
    yield from np.split(order, range(job.batch_size, job.count, job.batch_size))


FLOORS: dict[str, Callable[[Job], Epoch]] = {
    "decode": decode,
    "inflate": inflate,
    "gather": gather,
}


def open_loader(job: Job) -> Loader:
    epoch = FLOORS[job.options["what"]](job)
    return Loader(epoch=lambda: epoch(job.seed), endless=lambda: endless(job, epoch))


def endless(job: Job, epoch: Epoch) -> Iterator[Batch]:
    if job.workers == 1:
        yield from forever(epoch, job.seed)
    context = multiprocessing.get_context("fork")  # the members in memory are not copied
    queue = context.Queue(READY_BATCHES)
    for number in range(job.workers):
        arguments = (epoch, job.seed + number, queue)
        context.Process(target=work, args=arguments, daemon=True).start()
    while True:
        yield range(queue.get()), None, None


def forever(epoch: Epoch, seed: int) -> Iterator[Batch]:
    return itertools.chain.from_iterable(epoch(number) for number in itertools.count(seed))


def work(epoch: Epoch, seed: int, queue: Any) -> None:
    for _ in epoch(seed):
        pass  # its first use of each member copies the page that counts who uses it
    for overlay, _, _ in forever(epoch, seed):
        put(queue, len(overlay))


def put(queue: Any, value: int) -> None:
    """Into a bounded queue; a process whose parent is gone ends here instead of waiting for it."""
    while True:
        try:
            queue.put(value, timeout=PARENT_SECONDS)
            return
        except Full:
            parent = multiprocessing.parent_process()
            if parent is None or not parent.is_alive():
                os._exit(0)
