"""Samples announced before they are loaded, so that the disk works while the processor does.

Packing loads samples in a shuffled order, one small cold file after the other: without this a
process would mostly wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol, runtime_checkable

SAMPLES_AHEAD: Final = 32
"""Samples announced and not yet loaded. Some 4 files each: enough to keep a disk's queue full."""


@runtime_checkable
class Prefetching(Protocol):
    """A source that can begin to fetch a sample before it is loaded."""

    def prefetch(self, index: int) -> None:
        """Sample `index` is loaded soon. Never waits, never fails: `load` says what is wrong."""


def prefetched(indices: Sequence[int], prefetch: Callable[[int], None]) -> Iterator[int]:
    """The indices in order, each announced `SAMPLES_AHEAD` places before it comes."""
    upcoming = iter(indices)
    for index in islice(upcoming, SAMPLES_AHEAD):
        prefetch(index)
    for index in indices:
        for soon in islice(upcoming, 1):
            prefetch(soon)
        yield index
