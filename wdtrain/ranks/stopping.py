"""Stopping together: what one rank is asked, all ranks do, at the same place."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from wdtrain.ranks.collective import Collective
from wdtrain.ranks.heap import give_back

B_co = TypeVar("B_co", covariant=True)


class RunStopped(Exception):
    """Some rank was asked to stop: raised on all of them, with nothing half-done."""


class SizedStream(Protocol[B_co]):
    """Batches, as many on every rank, of pictures of this (height, width)."""

    @property
    def size(self) -> tuple[int, int]: ...
    def __iter__(self) -> Iterator[B_co]: ...


class StopOnAllRanks(Generic[B_co]):
    """The batches of a stream, until a rank is asked to stop: then Stopped, on all of them.

    A stream that ends early on a rank that was asked to stop (it waited for data) is as good as a
    yes.
    """

    def __init__(
        self, stream: SizedStream[B_co], collective: Collective, asked: Callable[[], bool]
    ) -> None:
        self._stream, self._collective, self._asked = stream, collective, asked
        self.size = stream.size

    def __iter__(self) -> Iterator[B_co]:
        batches = iter(self._stream)
        while True:
            batch = next(batches, None)
            stop, ended = self._collective.host_sum([self._asked(), batch is None])
            if stop:
                raise RunStopped
            if ended:
                return
            assert batch is not None
            yield batch


def check_stop(collective: Collective, asked: Callable[[], bool]) -> None:
    """Raises Stopped on all ranks if one is asked to stop."""
    if collective.host_sum([asked()])[0]:
        raise RunStopped


@contextmanager
def no_sudden_collection() -> Iterator[Callable[[], object]]:
    """The garbage collector runs when what is handed out is called, and at no other time: in the
    midst of a step it would stop one rank for all. What lives already is never looked at again.
    What is free then goes back to the system."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield _collect
    finally:
        gc.enable()
        gc.unfreeze()


def _collect() -> int:
    found = gc.collect()
    give_back()
    return found
