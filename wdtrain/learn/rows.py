"""A rank's part of a batch, as the step takes it: stored samples on the host, in norm groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wdtrain.learn.groups import groups_of_chunks

Copy = Callable[[Tensor, torch.device], Tensor]


def _copy(part: Tensor, device: torch.device) -> Tensor:
    return part.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A rank's part of a batch, on the host, as stored; it may be empty.

    overlay uint8 [n, 3, h, w], mask uint8 [n, 1, h, w], depth uint8 or uint16 [n, 1, h, w]; keys
    and epochs: one a row; groups: rows of each norm group, in order; group_ids: the global position
    of each group's first row; copy: takes one of the tensors, or a view of it, to a device without
    waiting, as the batch does it that the rows are of, whose memory is not used again before.
    """

    overlay: Tensor
    mask: Tensor
    depth: Tensor
    keys: Sequence[str]
    epochs: Sequence[int]
    groups: Sequence[int]
    group_ids: Sequence[int]
    copy: Copy = _copy

    def __post_init__(self) -> None:
        counts = {len(self.overlay), len(self.mask), len(self.depth), len(self.keys)}
        counts |= {len(self.epochs), sum(self.groups)}
        if len(counts) != 1 or len(self.groups) != len(self.group_ids):
            raise ValueError(
                f"a batch part has {len(self.overlay)} overlays, {len(self.keys)} keys, "
                f"{len(self.epochs)} epochs, groups {list(self.groups)} and "
                f"{len(self.group_ids)} group ids; they must tell of the same rows"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, first_group: int, last_group: int) -> Rows:
        """The rows of groups first..last - 1: views, no copies."""
        rows = slice(self._starts[first_group], self._starts[last_group])
        return Rows(
            overlay=self.overlay[rows],
            mask=self.mask[rows],
            depth=self.depth[rows],
            keys=self.keys[rows],
            epochs=self.epochs[rows],
            groups=self.groups[first_group:last_group],
            group_ids=self.group_ids[first_group:last_group],
            copy=self.copy,
        )

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each group, and of the one that would come after the last."""
        return list(accumulate(self.groups, initial=0))

    @property
    def group_epochs(self) -> list[int]:
        return [self.epochs[start] for start in self._starts[:-1]]


class StoredBatch(Protocol):
    """What the stream hands on, as far as a step reads it; `chunks` are the rows of each chunk."""

    def __getitem__(self, name: str) -> Tensor: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def chunks(self) -> list[int]: ...
    @property
    def positions(self) -> np.ndarray: ...
    @property
    def epochs(self) -> list[int]: ...
    def copy(self, part: Tensor, device: torch.device) -> Tensor: ...


def rows_of(batch: StoredBatch, norm_group: int) -> Rows:
    """The rows of a batch, its chunks cut into norm groups known by their first position."""
    groups = groups_of_chunks(batch.chunks, norm_group)
    starts = np.cumsum([0, *groups])[:-1]
    return Rows(
        overlay=batch["overlay"],
        mask=batch["mask"],
        depth=batch["depth"],
        keys=batch.keys,
        epochs=batch.epochs,
        groups=groups,
        group_ids=[int(position) for position in batch.positions[starts]],
        copy=batch.copy,
    )
