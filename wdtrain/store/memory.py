"""Memory that is used again: touching fresh pages costs as much as copying into them.

Gives arrays, and takes their memory back when nothing shows it any more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Final

import numpy as np

KEPT: Final = 8
"""Arrays whose memory is kept for the next ones unless told otherwise: what lies idle stays small
beside what is used, however sizes differ."""

_SPARE: Final = 8
"""An eighth more is asked for than is needed, so that what is of about one size can follow one
another; pages that are not touched take no memory."""


def _ordinary(num_bytes: int) -> np.ndarray:
    return np.empty(num_bytes, np.uint8)


class Recycled:
    """Thread-safe. allocate: uninitialised uint8 [num_bytes]; None: ordinary memory. kept: arrays
    whose memory is kept for the next ones."""

    def __init__(
        self, allocate: Callable[[int], np.ndarray] | None = None, *, kept: int = KEPT
    ) -> None:
        self._allocate, self._kept = allocate or _ordinary, kept
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> np.ndarray:
        """Uninitialised uint8 [num_bytes]; its memory is given again when neither it nor anything
        made of it is left."""
        owner = self._fitting(num_bytes)
        if owner is None:
            owner = self._allocate(num_bytes + num_bytes // _SPARE + 1)
        # Through a memoryview, since numpy passes over arrays in a chain of views: what is made of
        # `array` must hold that object itself, so that its end is the end of them all.
        array = np.frombuffer(owner.data, np.uint8, num_bytes)
        weakref.finalize(array, self._take_back, owner).atexit = False
        return array

    def _fitting(self, num_bytes: int) -> np.ndarray | None:
        """One that is free, large enough and not much larger. Where none is, and all that may be
        kept is kept, the oldest goes: sizes have changed."""
        with self._lock:
            for place, owner in enumerate(self._free):
                if num_bytes < owner.nbytes <= num_bytes + num_bytes // 2 + 1:
                    return self._free.pop(place)
            if len(self._free) >= self._kept:
                del self._free[0]
        return None

    def _take_back(self, owner: np.ndarray) -> None:
        # May run wherever the last reference goes, also while this thread holds the lock above:
        # so no lock here, and nothing but appending, which moves no other; one too many does no
        # harm.
        if len(self._free) < self._kept:
            self._free.append(owner)
