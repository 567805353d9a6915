"""What the stream hands on: a batch of samples on the host, as they are stored, with its cursor.

Owns the memory that batches are decoded into. The surprise: a batch's memory is used again once
nothing refers to its tensors and names any more, and the device has done what copies of them were
asked of it until then: by `Batch.to`, or on the stream that is current where the batch is let go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from wdtrain.fields import Field
from wdtrain.fields.resize import Size
from wdtrain.store.buffers import Lease, Recycled
from wdtrain.store.filling import RowBuffers
from wdtrain.store.tar import MAX_NAME
from wdtrain.stream.cursor import Cursor


@dataclass(frozen=True)
class Batch:
    """A rank's part of one batch; it may be empty. `batch["NAME"]` is a field's tensor.

    fields: by name, of those that were asked for, in their order: colours uint8 [n, 3, height,
    width] in channels_last memory, all else uint8 or uint16 [n, 1, height, width]; names: uint8
    [n, 100], of the first member of each sample; positions: int64 [n], where in the order each row
    is (epoch = position // cursor.samples); chunks: rows of each chunk, in order; cursor: where the
    run is after this batch, the same on every rank; wait_seconds: how long the caller waited for
    it; occupancy: share 0..1 of the reader's threads busy in each stage since the batch before.
    """

    fields: dict[str, torch.Tensor]
    names: np.ndarray
    positions: np.ndarray
    chunks: list[int]
    cursor: Cursor
    wait_seconds: float = 0.0
    occupancy: dict[str, float] = field(default_factory=dict)
    lease: Lease = field(default_factory=Lease, repr=False, compare=False)

    def __getitem__(self, name: str) -> torch.Tensor:
        """A field's tensor; KeyError names the fields there are."""
        if name not in self.fields:
            raise KeyError(f"the batch has no field {name!r}; it has {', '.join(self.fields)}")
        return self.fields[name]

    __iter__ = None  # else rows would be looked for by number
    __contains__ = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device, which are there when the current stream
        comes to use them: the host does not wait, and may let go of this batch at once."""
        fields = {name: self.copy(tensor, device) for name, tensor in self.fields.items()}
        return replace(self, fields=fields)

    def copy(self, part: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """One of the batch's tensors, or a view of it, on a device, as `to` has it there."""
        copied = part.to(device, non_blocking=True)
        if copied.device.type == "cuda":
            read_until_now(self.lease, copied.device)
        return copied

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


def read_until_now(lease: Lease, device: torch.device) -> None:
    """The memory is read by all that was queued on the device's current stream so far."""
    stream = torch.cuda.current_stream(device)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(stream)
    lease.read_until(event, stream)


@dataclass(frozen=True)
class Lent(RowBuffers):
    """Memory of a batch, with the lease that says how long a device reads it."""

    lease: Lease


class HostMemory:
    """The memory of batches at one size; what nothing shows or reads any more is given again.

    pinned: page-locked, for copies to the GPU that is current where this is made.
    """

    def __init__(self, fields: Iterable[Field], size: Size, *, pinned: bool = False) -> None:
        # Those of two bytes first, so that each begins where its values may.
        fields = list(fields)
        self._names = [field.name for field in fields]
        placed = sorted(fields, key=lambda field: -field.dtype.itemsize)
        self._placed = [(field.name, field.dtype, field.shape(*size)) for field in placed]
        self._row_bytes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in self._placed]
        self._memory = Recycled(_pinned, _at_release()) if pinned else Recycled()

    def take(self, rows: int) -> Lent:
        """Uninitialised memory for a batch of so many rows."""
        lease, at = Lease(), 0
        memory = self._memory.take(rows * (sum(self._row_bytes) + MAX_NAME), lease)
        found: dict[str, np.ndarray] = {}
        for (name, dtype, shape), row_bytes in zip(self._placed, self._row_bytes, strict=True):
            part = memory[at : at + rows * row_bytes]
            found[name] = part.view(dtype).reshape(rows, *shape)
            at += rows * row_bytes
        names = memory[at:].reshape(rows, MAX_NAME)
        return Lent({name: found[name] for name in self._names}, names, lease)


def _pinned(num_bytes: int) -> np.ndarray:
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def _at_release() -> Callable[[Lease], None]:
    """Copies that somebody asked for without `Batch.to` are queued where the batch is let go."""
    device = torch.cuda.current_stream().device
    return lambda lease: read_until_now(lease, device)


def tensors(target: RowBuffers, kept: np.ndarray) -> dict[str, torch.Tensor]:
    """The fields of the rows that are kept (bool [rows]), in Batch's shapes."""
    is_whole = bool(kept.all())
    found = {}
    for name, array in target.arrays.items():
        tensor = torch.from_numpy(array if is_whole else array[kept])
        found[name] = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    return found
