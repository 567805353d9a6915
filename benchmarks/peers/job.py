"""What a child process is asked to do, and what a peer's module hands back to it.

A peer's module has `open_loader(job) -> Loader`, and `write(job, shared)` where its data are not
written by another row. Nothing here is imported from outside the standard library and numpy.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Batch = tuple[Any, Any, Any]
"""overlay uint8 [n, h, w, 3] or [n, 3, h, w], mask and depth uint8 [n, h, w] or [n, 1, h, w]:
arrays or tensors."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table with a number of workers, for one child.

    data: the folder of the row's data; shared: that of the neutral copy of all pictures; scratch:
    a folder of this child alone. options: what the row sets in its module. size: pixels a side of
    a batch's pictures. seed: of the shuffling. pixels: which overlay of the neutral copy it must
    deliver. packages: whose versions it reports.
    """

    module: str
    workers: int
    data: str
    shared: str
    scratch: str
    count: int
    size: int
    batch_size: int
    seed: int
    pixels: str
    packages: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def num_worker_processes(self) -> int:
        """For PyTorch's DataLoader: one worker means in process, which is the faster of the two."""
        return 0 if self.workers == 1 else self.workers

    def shards(self, pattern: str) -> list[str]:
        """The row's files of a pattern, in order."""
        return [str(path) for path in sorted(Path(self.data).glob(pattern))]


@dataclass(frozen=True)
class Loader:
    """epoch: the batches of one whole epoch. endless: those of all epochs, one after the other,
    the way this peer does it best; by default `epoch` again and again."""

    epoch: Callable[[], Iterable[Batch]]
    endless: Callable[[], Iterable[Batch]] | None = None

    def batches(self) -> Iterator[Batch]:
        if self.endless is not None:
            return iter(self.endless())
        return itertools.chain.from_iterable(self.epoch() for _ in itertools.count())
