"""Keys that come twice in a whole dataset, found in bounded memory.

Each finished shard leaves the 64-bit hashes of its keys. They are compared in as many passes as
keep a pass within 16 million of them; equal hashes are then compared as keys, so a chance collision
rejects nothing. Of samples with one key the first of the source stays.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np
import xxhash

from wdtrain.fields.source import Source
from wdtrain.packing.plan import Job
from wdtrain.packing.staging import Staging

KEYS_A_PASS: Final = 1 << 24


def key_hash(key: str) -> int:
    """64 bits of a key."""
    return int(xxhash.xxh3_64_intdigest(key.encode()))


def find_duplicates(
    source: Source, work: Staging, jobs: list[Job], *, keys_a_pass: int = KEYS_A_PASS
) -> dict[str, frozenset[int]]:
    """By shard name, the source indices to be left out of it because their key came before."""
    found: dict[str, set[int]] = defaultdict(set)
    num_passes = max(1, -(-len(source) // keys_a_pass))
    for number in range(num_passes):
        hashes, indices, shards = _gather(work, jobs, number, num_passes)
        order = np.lexsort((indices, hashes))
        hashes, indices, shards = hashes[order], indices[order], shards[order]
        for at in (np.flatnonzero(hashes[1:] == hashes[:-1]) + 1).tolist():
            first = int(np.searchsorted(hashes, hashes[at]))
            key = source.key(int(indices[at]))
            if any(source.key(int(index)) == key for index in indices[first:at]):
                found[jobs[int(shards[at])].name].add(int(indices[at]))
    return {name: frozenset(rows) for name, rows in found.items()}


def _gather(
    work: Staging, jobs: list[Job], number: int, num_passes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, source indices and shard numbers of the keys that fall in one pass."""
    hashes, indices, shards = [], [], []
    for place, job in enumerate(jobs):
        keys = work.keys(job.edition)
        if num_passes > 1:
            keys = keys[:, keys[0] % np.uint64(num_passes) == number]
        hashes.append(keys[0])
        indices.append(keys[1].view(np.int64))
        shards.append(np.full(keys.shape[1], place, np.int32))
    return np.concatenate(hashes), np.concatenate(indices), np.concatenate(shards)
