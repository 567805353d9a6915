"""Keyed chance: generators and choices that are pure functions of what they are called with.

Owns `generator` (a stream of random numbers for a key) and `Shuffle` (a bijection on range(size)
that needs no table). A sample of `count` out of `size` without repetition is the image of
range(count) under a Shuffle.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


def sample_key(*parts: str | int) -> int:
    """128 bits of BLAKE2b over the parts; ("a", "bc") and ("ab", "c") differ."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """A generator whose numbers depend on `parts` alone (Philox, keyed: no seeding cost)."""
    return np.random.Generator(np.random.Philox(key=sample_key(*parts)))


class Shuffle:
    """A keyed bijection on range(size): a Feistel network with cycle walking.

    Vectorised over int64 arrays; constant memory; size up to 2**62.
    """

    def __init__(self, size: int, *key: str | int) -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(1, size - 1).bit_length() + 1) // 2))
        self._low = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(sample_key(*key, turn) & (2**64 - 1)) for turn in range(_ROUNDS)]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """int64 [n] in range(size) -> int64 [n] in range(size), one to one."""
        values = np.asarray(indices, np.int64).astype(np.uint64)
        if values.size and int(values.max()) >= self.size:
            raise IndexError(f"index {int(values.max())} is outside 0..{self.size - 1}")
        values = self._once(values)
        while (outside := values >= self.size).any():
            values[outside] = self._once(values[outside])
        return values.astype(np.int64)

    def _once(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._low
        for key in self._keys:
            mixed = (right + key) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._low)
        return (left << self._half) | right
