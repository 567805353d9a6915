"""A keyed bijection on range(size), without tables: the chance in dealing and in reading order.

An alternating Feistel network on the bits of the smallest power of two that holds the range, with
cycle walking (Black and Rogaway 2002) for what falls outside. The order of 10^9 samples costs no
memory, and any position of it costs the same. Not cryptography: a fair, repeatable shuffle.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

MAX_SIZE: Final = 2**62
_NUM_ROUNDS: Final = 8
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_SHIFT_1: Final = np.uint64(30)
_SHIFT_2: Final = np.uint64(27)
_SHIFT_3: Final = np.uint64(31)
_SLICE: Final = 1 << 15
"""Values worked on at once: a slice and its temporaries stay in the second-level cache."""


def permutation_key(*parts: int | str | bytes) -> bytes:
    """32 key bytes of a sequence of numbers, texts and bytes; no two sequences share an encoding.

    The same on every machine and Python version: type and length are written before each part.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | str | bytes):
            raise TypeError(f"a key is made of int, str and bytes, not {type(part).__name__}")
        tag = type(part).__name__[:1].encode()
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(tag + len(data).to_bytes(8, "little") + data)
    return digest.digest()


def keyed_hash(values: np.ndarray, key: bytes) -> np.ndarray:
    """uint64 [n], uniform over 64 bits, of int64 [n] values: the same value, the same hash."""
    first, second = (np.uint64(word) for word in _words(key, 2))
    hashed = values.astype(np.int64).view(np.uint64) ^ first
    return _mix(_mix(hashed) + second)


def _words(key: bytes, count: int) -> list[int]:
    """`count` round keys of 64 bits, derived from a key of any length."""
    digest = hashlib.blake2b(key, digest_size=8 * count, person=b"wdtrain-order").digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place on a fresh uint64."""
    values ^= values >> _SHIFT_1
    values *= _MIX_1
    values ^= values >> _SHIFT_2
    values *= _MIX_2
    values ^= values >> _SHIFT_3
    return values


class Permutation:
    """A bijection on range(size), chosen by `key`; `size` from 1 to 2**62."""

    def __init__(self, size: int, key: bytes) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a permutation of {size} values; the size goes from 1 to 2**62")
        bits = max(2, (size - 1).bit_length())
        self.size = size
        self._low_bits = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << (bits // 2)) - 1)
        self._high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self._round_keys = [np.uint64(word) for word in _words(key, _NUM_ROUNDS)]

    def forward(self, values: np.ndarray) -> np.ndarray:
        """int64, shaped like `values`: where each value of range(size) goes."""
        return self._walk(values, inverse=False)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """int64, shaped like `values`: what `forward` sends to each value."""
        return self._walk(values, inverse=True)

    def _walk(self, values: np.ndarray, *, inverse: bool) -> np.ndarray:
        values = np.asarray(values, np.int64)
        if values.size and not (values.min() >= 0 and values.max() < self.size):
            raise ValueError(f"values outside range({self.size}) have no place in the permutation")
        out = values.reshape(-1).view(np.uint64).copy()
        for start in range(0, out.size, _SLICE):
            part = self._network(out[start : start + _SLICE], inverse=inverse)
            while (outside := np.flatnonzero(part >= self.size)).size:
                part[outside] = self._network(part[outside], inverse=inverse)
            out[start : start + _SLICE] = part
        return out.view(np.int64).reshape(values.shape)

    def _network(self, values: np.ndarray, *, inverse: bool) -> np.ndarray:
        high, low = values >> self._low_bits, values & self._low_mask
        rounds = list(enumerate(self._round_keys))
        for index, key in reversed(rounds) if inverse else rounds:
            if index % 2:
                low ^= _mix(high ^ key) & self._low_mask
            else:
                high ^= _mix(low ^ key) & self._high_mask
        return (high << self._low_bits) | low
