"""The C library's heap, on a CPU: what a tensor gives back is there for the next one.

glibc maps memory of more than a few MB anew for each tensor and unmaps it afterwards, so that every
step touches fresh pages, which the system has to zero first: on two cores a fifth of a step. Kept
instead, it costs no more than the peak that each step reaches anyway.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3), as malloc.h numbers them."""


def keep_freed_memory() -> None:
    """From now on this process keeps what it frees for its own use; only glibc has this setting."""
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:
        tell(_MMAP_MAX, 0)
        tell(_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """What is free now goes back to the system: after work that took more than a step does."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
