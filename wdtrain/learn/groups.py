"""What a layer may know about the rows in front of it: where the groups lie, and their keys.

A group is a fixed run of samples (`norm_group` of them, fewer at a tail) that is normalised
together and never cut by a micro-batch. The step writes the groups of the micro-batch into a
`Context` that it shares with the layers of one network; nothing here is process-wide. Outside a
step the context is empty, and the layers behave as PyTorch's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """The groups of one micro-batch: rows of each, and the key of each (16 bytes)."""

    rows: tuple[int, ...]
    keys: tuple[bytes, ...]

    def check(self, rows: int, layer: str) -> None:
        """A network must hand every layer the rows that the step gave it."""
        if sum(self.rows) != rows:
            raise ValueError(
                f"layer {layer!r} was given {rows} rows where the step announced {sum(self.rows)} "
                "in groups; statistics and dropout cannot be kept apart by group; a network must "
                "not fold other axes into the batch axis before its BatchNorm and Dropout layers"
            )


@dataclass
class Context:
    """Shared by the layers of one network; `groups` is set by the step, None elsewhere.

    seed: what dropout is keyed by, beside the group and the layer.
    """

    seed: bytes = b""
    groups: Groups | None = field(default=None, repr=False)
    seeds: Tensor | None = field(default=None, repr=False)
    """int64 [groups, 2] on the host: the groups' keys for what is compiled, where what is no tensor
    would be taken for a constant."""

    def open(self, rows: Sequence[int], epochs: Sequence[int], positions: Sequence[int]) -> None:
        """Announce a micro-batch: rows, epoch and global first position of each of its groups."""
        keys = tuple(
            keyed(self.seed, epoch, position)
            for epoch, position in zip(epochs, positions, strict=True)
        )
        self.groups = Groups(tuple(rows), keys)
        self.seeds = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.int64).view(-1, 2)

    def close(self) -> None:
        self.groups = self.seeds = None


def keyed(*parts: bytes | str | int) -> bytes:
    """16 bytes that depend on every part and its type, and on nothing else (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        kind = type(part).__name__[0].encode()
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(kind + len(data).to_bytes(4, "little") + data)
    return digest.digest()


def groups_of_chunks(chunks: Sequence[int], norm_group: int) -> list[int]:
    """Rows of each norm group: every chunk cut into pieces of `norm_group`, the rest on its own."""
    if norm_group < 1:
        raise ValueError(f"norm_group is {norm_group}; a group holds at least one sample")
    groups = []
    for chunk in chunks:
        groups += [norm_group] * (chunk // norm_group)
        groups += [chunk % norm_group] if chunk % norm_group else []
    return groups


def plan_micro_batches(groups: Sequence[int], micro_batch: int) -> list[tuple[int, int]]:
    """(first, last + 1) group of each micro-batch: whole groups, at most `micro_batch` samples.

    A group larger than `micro_batch` is a micro-batch of its own: it is never cut.
    """
    plan: list[tuple[int, int]] = []
    first = rows = 0
    for index, group in enumerate(groups):
        if index > first and rows + group > micro_batch:
            plan.append((first, index))
            first, rows = index, 0
        rows += group
    if first < len(groups):
        plan.append((first, len(groups)))
    return plan


def plan_few_sizes(groups: Sequence[int], micro_batch: int) -> list[tuple[int, int]]:
    """As `plan_micro_batches`, for a compiler, to which each size is another graph.

    A micro-batch is equal groups only: as many as fit, or half as many, or half of that ..., so a
    part of a batch of any length comes in the same few sizes. An odd group is one by itself.
    """
    plan: list[tuple[int, int]] = []
    first = 0
    for rows, run in groupby(groups):
        left, count = len(list(run)), max(1, micro_batch // rows)
        while left:
            while count > left:
                count //= 2
            plan.append((first, first + count))
            first, left = first + count, left - count
    return plan
