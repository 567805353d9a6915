"""What the stream hands on: a batch of triples on the host, as uint8, with its cursor.

Owns the memory that batches are decoded into. The surprise: a batch's memory is used again once
nothing refers to its tensors and names any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from wdtrain.store.memory import Recycled
from wdtrain.store.rows import Target
from wdtrain.store.tar import MAX_NAME
from wdtrain.stream.cursor import Cursor


@dataclass(frozen=True)
class Batch:
    """A rank's part of one batch; it may be empty.

    overlay: uint8 [n, 3, height, width] in channels_last memory; mask: uint8 [n, 1, height, width]
    alpha; depth: uint8 or uint16 [n, 1, height, width] codes; names: uint8 [n, 100], the members
    the overlays lay in; positions: int64 [n], where in the order each row is (epoch =
    position // cursor.samples); chunks: rows of each chunk, in order; cursor: where the run is
    after this batch, the same on every rank; wait_seconds: how long the caller waited for it;
    occupancy: share 0..1 of the reader's threads busy in each stage since the batch before.
    """

    overlay: torch.Tensor
    mask: torch.Tensor
    depth: torch.Tensor
    names: np.ndarray
    positions: np.ndarray
    chunks: list[int]
    cursor: Cursor
    wait_seconds: float = 0.0
    occupancy: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def keys(self) -> list[str]:
        """The n sample keys: a member's name up to its first dot, as in WebDataset."""
        names = self.names.view(f"S{MAX_NAME}").ravel().tolist() if len(self) else []
        return [name.split(b".", 1)[0].decode() for name in names]

    @property
    def epochs(self) -> list[int]:
        """The epoch of each row: a batch may run across the border of two."""
        return [int(epoch) for epoch in self.positions // self.cursor.samples]


class HostMemory:
    """The memory of batches at one size; what nothing shows any more is given again."""

    def __init__(
        self, height: int, width: int, depth_dtype: np.dtype, *, pinned: bool = False
    ) -> None:
        self._size, self._depth_dtype = (height, width), depth_dtype
        self._memory = Recycled(_pinned) if pinned else Recycled()

    def take(self, rows: int) -> Target:
        """Uninitialised memory for a batch of so many rows."""
        shape = (rows, *self._size)
        pixels = rows * self._size[0] * self._size[1]
        ends = np.cumsum([self._depth_dtype.itemsize * pixels, 3 * pixels, pixels])
        depth, overlay, mask, names = np.split(self._memory.take(ends[-1] + rows * MAX_NAME), ends)
        return Target(
            overlay.reshape(*shape, 3),
            mask.reshape(shape),
            depth.view(self._depth_dtype).reshape(shape),
            names.reshape(rows, MAX_NAME),
        )


def _pinned(num_bytes: int) -> np.ndarray:
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def tensors(target: Target, kept: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """overlay, mask, depth of the rows that are kept (bool [rows]), in Batch's shapes."""
    arrays: tuple[np.ndarray, ...] = (target.overlay, target.mask, target.depth)
    if not kept.all():
        arrays = tuple(array[kept] for array in arrays)
    overlay, mask, depth = (torch.from_numpy(array) for array in arrays)
    return overlay.permute(0, 3, 1, 2), mask.unsqueeze(1), depth.unsqueeze(1)
