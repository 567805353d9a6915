"""Which pieces of a tar are read for its members: few, and not all bytes between them."""

from __future__ import annotations

from typing import Final

import numpy as np

GAP: Final = 64 << 10
"""Gaps of up to this many bytes between members are read along: another read costs more."""
MAX_MEMBER: Final = 256 << 20
"""Bytes of a member that is read."""
MAX_BLOCK: Final = 1 << 32
"""Bytes that are read for the samples of a block: they are held in memory whole."""


def extents(starts: np.ndarray, sizes: np.ndarray) -> tuple[list[int], list[int]]:
    """Starts and ends of the pieces that hold all members of some bytes, in order.

    starts, sizes: integers of one shape, in bytes; a member of size 0 is in no piece.
    """
    is_there = sizes > 0
    starts, sizes = starts[is_there].astype(np.int64), sizes[is_there].astype(np.int64)
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    ends = np.maximum.accumulate(starts + sizes[order])
    is_first = np.concatenate([[True], starts[1:] - ends[:-1] > GAP])[: len(starts)]
    is_last = np.concatenate([is_first[1:], [True]])[: len(starts)]
    return starts[is_first].tolist(), ends[is_last].tolist()
