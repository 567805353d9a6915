"""`inspect-shards order --shuffle`: how often neighbours meet, beside chance.

Neighbours are samples that are stored in one block: of one scene or folder, often, where the packer
was given them in order. A perfect shuffle brings two of them together as often as any two. Counted
over the order itself, epoch after epoch; no data is read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from wdtrain.config import Recipe
from wdtrain.remote.urls import redacted
from wdtrain.store.manifest import Manifest

if TYPE_CHECKING:
    from wdtrain.stream.order import Order, WindowKey

POSITIONS: Final = 500_000
"""Positions that are gone through, in whole epochs where they are small: some seconds."""
EPOCHS: Final = 100


class Meeting(NamedTuple):
    """How often two neighbours come together in a group of this name and size: shares of epochs."""

    name: str
    size: int
    found: float
    chance: float

    @property
    def times(self) -> float:
        """How many times as often as chance has it."""
        return self.found / self.chance if self.chance else 1.0


def show_shuffle(
    order: Order, manifest: Manifest, batch_size: int, recipe: Recipe | None, *, as_json: bool
) -> int:
    """Prints how well an order mixes; the exit code."""
    norm_group = order.chunk if recipe is None else recipe.norm_group
    stop = min(POSITIONS, EPOCHS * order.samples)
    if order.samples <= POSITIONS:
        stop -= stop % order.samples
    found = meetings(order, {"norm group": norm_group, "batch": batch_size}, stop)
    if as_json:
        for one in found:
            print(json.dumps({**one._asdict(), "times": one.times}))
        return 0
    among = "the whole split" if order.is_whole else "windows of each lane"
    print(
        f"{order.split} of {redacted(manifest.url)}: {order.samples:,} samples of "
        f"{order.sample_bytes:,} bytes in memory, {order.block_rows} a block; "
        f"shuffle_bytes {order.shuffle_bytes:,} "
        f"shuffles among {among}; lanes {order.lanes}, chunk {order.chunk}, seed {order.seed}"
    )
    print(f"how often two samples of one block come together, over {stop:,} positions:")
    print(f"{'':12s}{'samples':>8s}{'found':>10s}{'chance':>10s}{'times':>8s}")
    for one in found:
        print(f"{one.name:12s}{one.size:8,d}{one.found:10.3%}{one.chance:10.3%}{one.times:8.1f}")
    return 0


def meetings(order: Order, groups: dict[str, int], stop: int) -> list[Meeting]:
    """By name and size of a group (consecutive positions of an epoch), how often neighbours meet in
    one, over the positions before `stop`."""
    blocks = _blocks_until(order, stop)
    of_block = order.block_sizes()
    neighbours = float((of_block * (of_block - 1)).sum()) / order.samples  # of a sample, the mean
    found = []
    for name, size in groups.items():
        of_group = np.arange(stop) % order.samples // size  # blocks tell the epoch
        _, together = np.unique(of_group * (blocks.max() + 1) + blocks, return_counts=True)
        met = float((together * (together - 1)).sum()) / stop
        chance = min(1.0, (size - 1) / max(1, order.samples - 1))
        found.append(Meeting(name, size, met / neighbours if neighbours else 0.0, chance))
    return found


def _blocks_until(order: Order, stop: int) -> np.ndarray:
    """int64 [stop]: the block of each position, another number in each epoch."""
    blocks, at = np.zeros(stop, np.int64), 0
    last: dict[int, WindowKey] = {}
    for piece in order.pieces(0, stop):
        for fragment in order.fragments(piece, last):
            numbers, _ = order.samples_of(fragment)
            blocks[at : at + fragment.rows] = numbers + piece.epoch * order.num_blocks
            at += fragment.rows
    return blocks
