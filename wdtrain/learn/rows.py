"""A rank's part of a batch, as the step takes it: stored samples on the host, in norm groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wdtrain.learn.groups import groups_of_chunks
from wdtrain.learn.intensity import GroupRows

Copy = Callable[[Tensor, torch.device], Tensor]


def _copy(part: Tensor, device: torch.device) -> Tensor:
    return part.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A rank's part of a batch, on the host, as stored; it may be empty.

    fields: by name, images uint8 [n, 3, h, w], all else uint8 or uint16 [n, channels, h, w]; keys
    and epochs: one a row; groups: rows of each norm group, in order; group_ids: the global position
    of each group's first row; copy: takes one of the tensors, or a view of it, to a device without
    waiting, as the batch does it that the rows are of, whose memory is not used again before.
    """

    fields: Mapping[str, Tensor]
    keys: Sequence[str]
    epochs: Sequence[int]
    groups: Sequence[int]
    group_ids: Sequence[int]
    copy: Copy = _copy

    def __post_init__(self) -> None:
        counts = {len(self.keys), len(self.epochs), sum(self.groups)}
        counts |= {len(tensor) for tensor in self.fields.values()}
        if len(counts) != 1 or len(self.groups) != len(self.group_ids):
            fields = ", ".join(f"{len(tensor)} {name}" for name, tensor in self.fields.items())
            raise ValueError(
                f"a batch part has {fields}, {len(self.keys)} keys, "
                f"{len(self.epochs)} epochs, groups {list(self.groups)} and "
                f"{len(self.group_ids)} group ids; they must tell of the same rows"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, name: str) -> Tensor:
        """A field, by its name."""
        return self.fields[name]

    def part(self, first_group: int, last_group: int) -> Rows:
        """The rows of groups first..last - 1: views, no copies."""
        rows = slice(self._starts[first_group], self._starts[last_group])
        return replace(
            self,
            fields={name: tensor[rows] for name, tensor in self.fields.items()},
            keys=self.keys[rows],
            epochs=self.epochs[rows],
            groups=self.groups[first_group:last_group],
            group_ids=self.group_ids[first_group:last_group],
        )

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each group, and of the one that would come after the last."""
        return list(accumulate(self.groups, initial=0))

    @property
    def group_epochs(self) -> list[int]:
        return [self.epochs[start] for start in self._starts[:-1]]

    @property
    def group_rows(self) -> list[GroupRows]:
        """The groups as what is drawn by group knows them."""
        return list(map(GroupRows, self.groups, self.group_epochs, self.group_ids))


class StoredBatch(Protocol):
    """What the stream hands on, as far as a step reads it; `chunks` are the rows of each chunk."""

    @property
    def fields(self) -> Mapping[str, Tensor]: ...
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
        fields=batch.fields,
        keys=batch.keys,
        epochs=batch.epochs,
        groups=groups,
        group_ids=[int(position) for position in batch.positions[starts]],
        copy=batch.copy,
    )
