"""What the stream hands on: a batch of triples on the host, as uint8, with its cursor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from wdtrain.stream.cursor import Cursor


@dataclass(frozen=True)
class Batch:
    """A rank's part of one batch; it may be empty.

    overlay: uint8 [n, 3, height, width] in channels_last memory; mask: uint8 [n, 1, height, width]
    alpha; depth: uint8 or uint16 [n, 1, height, width] codes; keys: n sample keys; positions:
    int64 [n], where in the order each row is (epoch = position // cursor.samples); chunks: rows of
    each chunk, in order; cursor: where the run is after this batch, the same on every rank;
    wait_seconds: how long the caller waited for it; occupancy: share 0..1 of the reader's threads
    that was busy in each stage since the batch before.
    """

    overlay: torch.Tensor
    mask: torch.Tensor
    depth: torch.Tensor
    keys: list[str]
    positions: np.ndarray
    chunks: list[int]
    cursor: Cursor
    wait_seconds: float = 0.0
    occupancy: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def epochs(self) -> list[int]:
        """The epoch of each row: a batch may run across the border of two."""
        return [int(epoch) for epoch in self.positions // self.cursor.samples]


class HostBuffers:
    """The memory one batch is decoded into, and from there shown as tensors without a copy."""

    def __init__(self, rows: int, height: int, width: int, depth_dtype: np.dtype) -> None:
        self.overlay = np.empty((rows, height, width, 3), np.uint8)
        self.mask = np.empty((rows, height, width), np.uint8)
        self.depth = np.empty((rows, height, width), depth_dtype)

    def tensors(self, kept: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """overlay, mask, depth of the rows that are kept (bool [rows]), in Batch's shapes."""
        arrays = (self.overlay, self.mask, self.depth)
        if not kept.all():
            arrays = tuple(array[kept] for array in arrays)
        overlay, mask, depth = (torch.from_numpy(array) for array in arrays)
        return overlay.permute(0, 3, 1, 2), mask.unsqueeze(1), depth.unsqueeze(1)
