"""What ranks say to one another in a step: a few host numbers, and one flat tensor.

`Alone` is one process; `Distributed` is a torch.distributed job. Host numbers travel over a CPU
group (gloo), so that agreeing neither waits for the device nor needs its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collective(Protocol):
    """Sums over all ranks. Every rank makes the same calls in the same order."""

    @property
    def world(self) -> int: ...

    @property
    def rank(self) -> int: ...

    def host_sum(self, values: Sequence[float]) -> list[float]:
        """The sums of a few numbers, exact in float64 for counts."""
        ...

    def total(self, numbers: Tensor) -> Tensor:
        """The sums of a 1-D fp64 tensor on the host."""
        ...

    def flat_sum(self, flat: Tensor) -> None:
        """Sum a 1-D tensor in place; afterwards it is equal, bit for bit, on all ranks."""
        ...


class Alone:
    """One process: sums are what they were."""

    world = 1
    rank = 0

    def host_sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def total(self, numbers: Tensor) -> Tensor:
        return numbers

    def flat_sum(self, flat: Tensor) -> None:
        pass


class Distributed:
    """All ranks of the default process group, which must be initialised."""

    def __init__(self) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        on_cpu = "gloo" in str(dist.get_backend())
        self._host_group = None if on_cpu else dist.new_group(backend="gloo")

    def host_sum(self, values: Sequence[float]) -> list[float]:
        numbers = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(numbers, group=self._host_group)
        return [float(value) for value in numbers.tolist()]

    def total(self, numbers: Tensor) -> Tensor:
        summed = numbers.clone()
        dist.all_reduce(summed, group=self._host_group)
        return summed

    def flat_sum(self, flat: Tensor) -> None:
        dist.all_reduce(flat)


def open_collective() -> Collective:
    """`Distributed` where torch.distributed is initialised with several ranks, else `Alone`."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Distributed() if several else Alone()
