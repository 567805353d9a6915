"""How well readers mix: how often samples that were stored side by side meet in a batch.

    python benchmarks/shuffle.py [--samples N] [--seeds N]

Ours is the real order, and webdataset's buffer the real one of the installed library. The others
are models of their published algorithms at their defaults, written here from their documentation
and said to be models: they are not installed. Neighbours are the 32 samples of one run of 32, as
they are stored. Without worker processes: with several, each mixes within its own shards alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from webdataset.filters import _shuffle

from wdtrain.stream.order import Order

RUN, GROUP, BATCH = 32, 32, 256
SAMPLE_BYTES = 64 * 64 * 5 + 4096  # 64 x 64 pixels, as stored raw
SHARD = 8192


class Stored:
    """As much of a dataset as the order reads: N samples in blocks of 32, shards of 8,192."""

    url, digest, height, width, samples_per_block, is_compressed = "", "", 64, 64, RUN, True
    index = None

    def __init__(self, samples: int) -> None:
        sizes = [SHARD] * (samples // SHARD) + [samples % SHARD] * (samples % SHARD > 0)
        named: Callable[..., Any] = lambda **of: type("Named", (), of)()  # noqa: E731
        shards = [named(samples=size) for size in sizes]
        self.splits = {"train": named(shards=shards, samples=samples)}
        self.depth = named(dtype=np.dtype(np.uint8))


def ours(shuffle_bytes: int) -> Callable[[int, int], np.ndarray]:
    def order(samples: int, seed: int) -> np.ndarray:
        laid = Order(cast("Any", Stored(samples)), "train", seed=seed, shuffle_bytes=shuffle_bytes)
        parts = [laid.samples_of(f) for p in laid.pieces(0, samples) for f in laid.fragments(p)]
        return np.concatenate([blocks * RUN + rows for blocks, rows in parts])

    return order


def webdataset(samples: int, seed: int) -> np.ndarray:
    """`WebDataset(urls, shardshuffle=100).shuffle(1000)`, as its README has it."""
    shards = range(0, samples, SHARD)
    mixed = _shuffle(iter(shards), 100, 100, rng=random.Random(seed))
    stored = (at for first in mixed for at in range(first, min(first + SHARD, samples)))
    return np.fromiter(_shuffle(stored, 1000, rng=random.Random(seed)), np.int64)


def chunks_then_samples(samples: int, seed: int) -> np.ndarray:
    """LitData, `shuffle=True`: chunks of 64 MB in random order, each shuffled by itself."""
    rng, size = np.random.default_rng(seed), 64 * 10**6 // SAMPLE_BYTES
    chunks = [np.arange(first, min(first + size, samples)) for first in range(0, samples, size)]
    return np.concatenate([rng.permutation(chunks[at]) for at in rng.permutation(len(chunks))])


def py1e(samples: int, seed: int, block: int = 4_000_000) -> np.ndarray:
    """MosaicML Streaming, `py1e`: shards of 64 MB in random order, each sample then moved by up to
    half a block (4,000,000 samples on one node) either way."""
    rng, size = np.random.default_rng(seed), 2**26 // SAMPLE_BYTES
    shards = [np.arange(first, min(first + size, samples)) for first in range(0, samples, size)]
    laid = np.concatenate([shards[at] for at in rng.permutation(len(shards))])
    reach = min(block, samples) / 2
    return laid[np.argsort(np.arange(samples) + rng.uniform(-reach, reach, samples))]


def quasi_random(samples: int, seed: int, pages_at_once: int = 6) -> np.ndarray:
    """FFCV, `QUASI_RANDOM`: pages of 8 MiB in random order, six open, of which a random one gives
    its next sample, each page being shuffled."""
    rng, size = np.random.default_rng(seed), 8 * 2**20 // SAMPLE_BYTES
    pages = [rng.permutation(np.arange(f, min(f + size, samples))) for f in range(0, samples, size)]
    waiting = [pages[at].tolist() for at in rng.permutation(len(pages))]
    opened: list[list[int]] = []
    found: list[int] = []
    while waiting or opened:
        while waiting and len(opened) < pages_at_once:
            opened.append(waiting.pop())
        at = int(rng.integers(len(opened)))
        found.append(opened[at].pop())
        if not opened[at]:
            del opened[at]
    return np.array(found)


def at_random(samples: int, seed: int) -> np.ndarray:
    """FFCV, `RANDOM`: a permutation, for which the file lies in memory or is read at random."""
    return np.random.default_rng(seed).permutation(samples)


READERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "ours, 256MiB": ours(2**28),
    "ours, 512MiB": ours(2**29),
    "ours, 1GiB (default)": ours(2**30),
    "ours, 2GiB": ours(2**31),
    "webdataset 1.0.2, shardshuffle 100, shuffle 1000": webdataset,
    "LitData 0.2.76, shuffle=True (model)": chunks_then_samples,
    "MosaicML Streaming 0.13.0, py1e (model)": py1e,
    "FFCV 1.0.2, QUASI_RANDOM (model)": quasi_random,
    "FFCV 1.0.2, RANDOM (model)": at_random,
}


def meet(order: np.ndarray, size: int) -> float:
    """Share of the pairs of one run that come in one group of this size."""
    group = np.arange(len(order)) // size
    _, together = np.unique(group * (len(order) // RUN + 1) + order // RUN, return_counts=True)
    _, runs = np.unique(order // RUN, return_counts=True)
    return float((together * (together - 1)).sum() / (runs * (runs - 1)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="How well readers mix.")
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3, help="orders whose mean is shown")
    options = parser.parse_args()
    chances = [(size - 1) / (options.samples - 1) for size in (GROUP, BATCH)]
    print(
        f"| of {options.samples:,} samples | group of {GROUP} | batch of {BATCH} |\n|---|---|---|"
    )
    print("| chance | " + " | ".join(f"{chance:.3%}" for chance in chances) + " |")
    for name, reader in READERS.items():
        orders = [reader(options.samples, seed) for seed in range(options.seeds)]
        assert all(len(np.unique(order)) == options.samples for order in orders), name
        shares = [np.mean([meet(order, size) for order in orders]) for size in (GROUP, BATCH)]
        cells = [f"{s:.3%} ({s / c:.1f} x)" for s, c in zip(shares, chances, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
