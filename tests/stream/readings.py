"""Small packed datasets, drawn ways of reading them, and what came: for the laws of the stream."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import strategies as st

from tests.noise import NoiseSource
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Batch, Cursor, Order, open_stream

SIDE = 12
SAMPLE_BYTES = SIDE * SIDE * 5 + 4096
"""What the order reckons for a sample of a compressed dataset."""
SHUFFLED = st.integers(1, 60) | st.just(10**6)
"""Samples to shuffle among: windows of a block that is not kept, of some blocks, the whole."""
NOTHING = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)
SETS = [
    # samples, samples a block, samples a shard, encoding, compression
    (61, 7, 20, "image", "zstd:1"),
    (96, 8, 32, "raw", "zstd:1"),
    (45, 16, 13, "image", "none"),
    (50, 1, 50, "raw", "none"),
]
Row = tuple[str, int]
"""The key and the CRC of the pixels of a sample: what a batch hands on of it."""
Place = tuple[int, int, int]
"""Shard, block, row."""
Made = tuple[int, int, int, str, str]
"""Samples, samples a block, samples a shard, encoding, compression."""


class Shelf:
    """Packs datasets of one split below a folder, each once: shelf(samples, block, shard, encoding,
    compression)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Made, Manifest] = {}

    def __call__(self, *made: Any) -> Manifest:
        if made not in self._made:
            count, block, shard, encoding, compression = made
            self._made[made] = pack(
                NoiseSource(count, SIDE),
                self._folder / str(len(self._made)),
                encoding=encoding,
                compression=compression,
                processes=1,
                samples_per_block=block,
                shard_samples=shard,
                holdout=NOTHING,
            )
        return self._made[made]


@dataclass(frozen=True)
class How:
    """One way of reading: what the order may not depend on."""

    world: int
    threads: int
    chunks: int


@dataclass(frozen=True)
class Case:
    """A dataset and an order over it."""

    made: Made
    lanes: int
    chunk: int
    seed: int
    epochs: int
    shuffled: int = 10**6
    """Samples among which are shuffled: a whole split, or windows of lanes."""

    @property
    def order(self) -> dict[str, Any]:
        names = {"lanes": self.lanes, "chunk": self.chunk, "seed": self.seed}
        return {"split": "train", **names, "shuffle_bytes": self.shuffled * SAMPLE_BYTES}

    @property
    def stop(self) -> int:
        return self.epochs * self.made[0]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        made=draw(st.sampled_from(SETS)),
        lanes=draw(st.integers(1, 7)),
        chunk=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 2**31)),
        epochs=draw(st.integers(1, 2)),
        shuffled=draw(SHUFFLED),
    )


@st.composite
def cases_with(draw: st.DrawFn, ways: int) -> tuple[Any, ...]:
    """A case and so many ways of reading it."""
    case = draw(cases())
    world = st.integers(1, min(5, case.lanes))
    way = st.builds(How, world=world, threads=st.integers(1, 3), chunks=st.integers(1, 6))
    return (case, *(draw(way) for _ in range(ways)))


def open_rank(data: Manifest, case: Case, how: How, rank: int, **more: Any) -> Iterator[Batch]:
    """One rank's batches, from the position `start` on."""
    start = more.pop("start", 0)
    options = {
        "epochs": case.epochs,
        "batch_size": how.chunks * case.chunk,
        "world": how.world,
        "threads": how.threads,
        "cursor": Cursor.at(Order(data, **case.order), start) if start else None,
    }
    return iter(open_stream(data, **case.order, rank=rank, **(options | more)))


def read_ranks(data: Manifest, case: Case, how: How, **more: Any) -> list[list[Batch]]:
    """By rank, all batches, every one of them still held."""
    return [list(open_rank(data, case, how, rank, **more)) for rank in range(how.world)]


def seen(ranks: list[list[Batch]]) -> dict[int, Row]:
    """By position, the key and the pixels that came there; no two rows may share a position."""
    found: dict[int, Row] = {}
    for batch in (batch for batches in ranks for batch in batches):
        pixels = [crc_of(batch, row) for row in range(len(batch))]
        positions = batch.positions.tolist()
        rows = dict(zip(positions, zip(batch.keys, pixels, strict=True), strict=True))
        assert len(rows) == len(batch)
        assert not found.keys() & rows.keys(), "a position came twice"
        found |= rows
    return found


def crc_of(batch: Batch, row: int) -> int:
    crc = 0
    for pixels in batch.fields.values():
        crc = zlib.crc32(pixels[row].contiguous().numpy().tobytes(), crc)
    return crc


def stored_keys(data: Manifest) -> dict[Place, str]:
    """By (shard, block, row), the keys as Python's tarfile finds them in the inflated shards."""
    found = {}
    for shard, entry in enumerate(data.splits["train"].shards):
        file: Any = io.BytesIO(Path(data.shard_url(entry)).read_bytes())
        if data.is_compressed:
            inflater = zstandard.ZstdDecompressor()
            file = io.BytesIO(inflater.stream_reader(file, read_across_frames=True).read())
        with tarfile.open(fileobj=file) as tar:
            keys = dict.fromkeys(name.split(".")[0] for name in tar.getnames())
        for number, key in enumerate(keys):
            found[shard, *divmod(number, data.samples_per_block)] = key
    return found
