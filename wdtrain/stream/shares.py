"""How a batch's chunks fall on the ranks: how evenly, what the fullest gets, what would do better.

A chunk goes to the rank of its lane, `lane mod world`; chunks take the lanes in turn, and an epoch
begins at lane 0 again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

EVEN = 0.9
"""A balance from which on ranks hardly wait for one another."""


def balance(chunks: int, lanes: int, world: int) -> float:
    """Mean over largest share of a batch of so many chunks on the ranks: 1.0 is even."""
    # The lanes of a batch begin anywhere; the mean over all beginnings is what a run sees.
    most = 0
    for first in range(lanes):
        ranks = np.arange(first, first + chunks) % lanes % world
        most += int(np.bincount(ranks, minlength=world).max())
    return chunks / world / (most / lanes)


def fullest_share(batch_size: int, world: int, *, samples: int, lanes: int, chunk: int) -> int:
    """The most samples that a rank gets of any batch, wherever it begins in an epoch of `samples`,
    also where it reaches into the next ones."""
    chunks = batch_size // chunk
    inside = [(chunk, lane) for lane in range(lanes)] * (chunks // lanes + 2)
    most = _fullest(inside, batch_size, world)
    # The end of an epoch, where its last chunk is short and the lanes begin anew, and what follows.
    per_epoch = -(-samples // chunk)
    first = max(0, per_epoch - chunks - 1)
    pieces: list[tuple[int, int]] = []
    number, left = first, float(per_epoch - first + chunks + 1)
    while left > 0:
        is_last = number == per_epoch - 1
        pieces.append(((samples - 1) % chunk + 1 if is_last else chunk, number % lanes))
        left -= pieces[-1][0] / chunk
        number = 0 if is_last else number + 1
    return max(most, _fullest(pieces, batch_size, world))


def _fullest(pieces: list[tuple[int, int]], batch_size: int, world: int) -> int:
    """The most of a rank in any `batch_size` samples in a row of pieces (samples, lane).

    As a batch slides, a rank's part grows and shrinks in straight lines, so its largest is where
    the batch begins or ends with a piece.
    """
    sizes = np.array([size for size, _ in pieces])
    ranks = np.array([lane % world for _, lane in pieces])
    edges = np.concatenate([[0], np.cumsum(sizes)])
    begins = np.concatenate([edges, edges - batch_size])
    begins = begins[(begins >= 0) & (begins + batch_size <= edges[-1])]
    most = 0
    for rank in range(world):
        got = np.concatenate([[0], np.cumsum(np.where(ranks == rank, sizes, 0))])
        parts = np.interp(begins + batch_size, edges, got) - np.interp(begins, edges, got)
        most = max(most, round(float(parts.max(initial=0))))
    return most


def balance_advice(
    batch_size: int, world: int, *, lanes: int, chunk: int, norm_group: int | None
) -> str:
    """What would give every rank work in every step, for a person; "" where that is so.

    norm_group: which chunks have to be a multiple of; None: it follows the chunk.
    """
    chunks = batch_size // chunk
    found = balance(chunks, lanes, world)
    if found >= EVEN:
        return ""
    plural = "s" * (chunks != 1)
    text = (
        f"uneven: {world} ranks share {chunks} chunk{plural} of a batch (balance {found:.2f}), so "
        "some wait while others work"
    )
    better = [*_batches(chunks, lanes, world, chunk), *_chunks(batch_size, lanes, world, chunk,
              norm_group)]  # fmt: skip
    if not better:
        return f"{text}; make data.lanes (now {lanes}) a multiple of {world}"
    return f"{text}; {' or '.join(better)} would do"


def _batches(chunks: int, lanes: int, world: int, chunk: int) -> Iterator[str]:
    """The nearest even batch, of fewer chunks or more; rather more, if they are as near."""
    for more in range(1, max(chunks, 2 * world)):
        for count in (chunks + more, chunks - more):
            if count > 0 and balance(count, lanes, world) >= EVEN:
                yield f"train.batch_size={count * chunk}"
                return


def _chunks(
    batch_size: int, lanes: int, world: int, chunk: int, norm_group: int | None
) -> Iterator[str]:
    """The largest smaller chunk by which the batch is even."""
    for size in range(chunk - 1, 0, -1):
        fits = batch_size % size == 0 and size % (norm_group or 1) == 0
        if fits and balance(batch_size // size, lanes, world) >= EVEN:
            group = "" if norm_group else ", which norm groups follow,"
            yield f"data.chunk={size}{group}"
            return
