"""What ranks say to one another: a few host numbers, one flat tensor, now and then an object.

`Alone` is one process; `Distributed` is a torch.distributed job. Host numbers travel over a CPU
group (gloo), so that agreeing neither waits for the device nor needs its memory.
The surprise: every call ends. It returns, or raises RankLost that names who is missing: a rank that
has ended is noticed at once, one that does not answer after `timeout_seconds`. After a RankLost the
process groups are gone, and the process can end (`ending.py`).
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from wdtrain.ranks.ending import give_up_groups
from wdtrain.ranks.liveness import FailedWait, LivenessWatch, RankLost

DEFAULT_TIMEOUT_SECONDS = 600.0
_SLICE = timedelta(seconds=0.5)
"""How long is waited in C++ at a time: in between, signals and another rank's verdict come in."""


_Work = Any
"""torch.distributed.Work, which torch does not type; None where nothing is left to wait for."""


class Collective(Protocol):
    """Exchanges over all ranks. Every rank makes the same calls in the same order.

    Each call returns on every rank, or raises RankLost on those that are left.
    """

    @property
    def world(self) -> int: ...

    @property
    def rank(self) -> int: ...

    def host_sum(self, values: Sequence[float]) -> list[float]:
        """The sums of a few numbers, exact in float64 for counts."""
        ...

    def host_min(self, values: Sequence[float]) -> list[float]:
        """The smallest over all ranks of each of a few numbers, in float64."""
        ...

    def host_max(self, values: Sequence[float]) -> list[float]:
        """The largest over all ranks of each of a few numbers, in float64."""
        ...

    def total(self, numbers: Tensor) -> Tensor:
        """The sums of a 1-D fp64 tensor on the host."""
        ...

    def flat_sum(self, flat: Tensor) -> None:
        """Sum a 1-D tensor in place; afterwards it is equal, bit for bit, on all ranks."""
        ...

    def barrier(self, what: str = "the other ranks") -> None:
        """Every rank has come here. `what` is waited for, in the words of an error."""
        ...

    def gather(self, value: Any, what: str = "an object of every rank") -> list[Any]:
        """The values of all ranks, by rank, on every rank. They are pickled: small, and our own."""
        ...


class Alone:
    """One process: sums are what they were."""

    world = 1
    rank = 0

    def host_sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def host_min(self, values: Sequence[float]) -> list[float]:
        return self.host_sum(values)

    def host_max(self, values: Sequence[float]) -> list[float]:
        return self.host_sum(values)

    def total(self, numbers: Tensor) -> Tensor:
        return numbers

    def flat_sum(self, flat: Tensor) -> None:
        pass

    def barrier(self, what: str = "the other ranks") -> None:
        pass

    def gather(self, value: Any, what: str = "an object of every rank") -> list[Any]:
        return [value]


class Distributed:
    """All ranks of the default process group, which must be initialised.

    timeout_seconds: how long a rank may be waited for. Where the default group is NCCL, `flat_sum`
    only queues its work on the device. A rank that is lost before it is found by the agreement over
    gloo that comes first in every step; in the moment between the two, NCCL's own watchdog ends the
    waiting ranks after its timeout, without RankLost, and what the run folder says stays "running".
    """

    def __init__(self, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self._timeout_seconds = timeout_seconds
        # A group of our own also on CPU: the default group's timeout is whoever's made it.
        self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        on_cpu = "gloo" in str(dist.get_backend())
        self._device = self._host if on_cpu else None
        store = dist.distributed_c10d._get_default_store()
        # A connection of its own: the default one is locked while others wait on it for a key.
        store = store.clone() if hasattr(store, "clone") else store
        self._watch = LivenessWatch(store, self.rank, self.world)

    def host_sum(self, values: Sequence[float]) -> list[float]:
        return self._host_reduce(values, dist.ReduceOp.SUM)

    def host_min(self, values: Sequence[float]) -> list[float]:
        return self._host_reduce(values, dist.ReduceOp.MIN)

    def host_max(self, values: Sequence[float]) -> list[float]:
        return self._host_reduce(values, dist.ReduceOp.MAX)

    def total(self, numbers: Tensor) -> Tensor:
        summed = numbers.clone()
        self._wait("a sum of scores", lambda: self._all_reduce(summed))
        return summed

    def flat_sum(self, flat: Tensor) -> None:
        def begin() -> _Work:
            return dist.all_reduce(flat, group=self._device, async_op=self._device is not None)

        self._wait("the sum of gradients", begin)

    def barrier(self, what: str = "the other ranks") -> None:
        nothing = torch.zeros(1)
        self._wait(what, lambda: self._all_reduce(nothing))

    def gather(self, value: Any, what: str = "an object of every rank") -> list[Any]:
        mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self._all_gather(torch.tensor([mine.numel()]), what)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        parts = zip(self._all_gather(padded, what), sizes, strict=True)
        return [pickle.loads(part[:size].numpy().tobytes()) for part, size in parts]

    def _host_reduce(self, values: Iterable[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        numbers = torch.tensor(list(values), dtype=torch.float64)
        self._wait("an agreement", lambda: self._all_reduce(numbers, how))
        return [float(value) for value in numbers.tolist()]

    def _all_reduce(
        self, numbers: Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
    ) -> _Work:
        return dist.all_reduce(numbers, how, group=self._host, async_op=True)

    def _all_gather(self, mine: Tensor, what: str) -> list[Tensor]:
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        self._wait(what, lambda: dist.all_gather(parts, mine, group=self._host, async_op=True))
        return parts

    def _wait(self, what: str, begin: Callable[[], _Work]) -> None:
        """What `begin` starts is done, or RankLost."""
        self._watch.check()
        self._watch.enter()
        started, work = time.monotonic(), None
        try:
            work = begin()
            while work is not None and not work.is_completed():
                _wait_a_slice(work)
                self._watch.check()
            if work is not None:
                work.wait()  # raises what the work failed by
        except torch.OutOfMemoryError:
            raise
        except RankLost:
            give_up_groups(work)
            raise
        except RuntimeError as error:
            seconds = time.monotonic() - started
            waited = FailedWait(what, seconds, seconds >= self._timeout_seconds, str(error))
            lost = self._watch.roll_call(waited)
            give_up_groups(work)
            raise lost from error


def _wait_a_slice(work: _Work) -> None:
    """The work is done, has failed, or a slice of time has passed: the caller asks which."""
    try:
        work.wait(_SLICE)
    except RuntimeError:
        if work.is_completed():
            raise


def open_collective(timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Collective:
    """`Distributed` where torch.distributed is initialised with several ranks, else `Alone`."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Distributed(timeout_seconds) if several else Alone()


__all__ = ["Alone", "Collective", "Distributed", "RankLost", "open_collective"]
