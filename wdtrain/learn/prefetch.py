"""A rank's rows to the device, micro-batch by micro-batch, as uint8.

On CUDA the next micro-batch travels on a stream of its own while this one is worked on; that
overlaps only if the batch is in pinned memory (`open_stream(pin_memory=True)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from wdtrain.learn.rows import Rows


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch: its rows on the host; the fields that were asked for, in that order, on the
    device as stored."""

    rows: Rows
    arrived: tuple[Tensor, ...]


class Prefetcher:
    """Copies to one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = _stream(device) if device.type == "cuda" else None

    def micro_batches(
        self, rows: Rows, cuts: Sequence[tuple[int, int]], fields: Sequence[str]
    ) -> Iterator[MicroBatch]:
        """One after the other; cuts: (first, last + 1) norm group of each."""
        ahead: MicroBatch | None = None
        for index, cut in enumerate(cuts):
            micro = ahead or self._copy(rows.part(*cut), fields)
            self._arrive(micro)
            ahead = None
            if self._side is not None and index + 1 < len(cuts):
                ahead = self._copy(rows.part(*cuts[index + 1]), fields)
            yield micro

    def _copy(self, part: Rows, fields: Sequence[str]) -> MicroBatch:
        if self._side is None:
            return self._to_device(part, fields)
        with torch.cuda.stream(self._side):
            return self._to_device(part, fields)

    def _to_device(self, part: Rows, fields: Sequence[str]) -> MicroBatch:
        return MicroBatch(part, tuple(part.copy(part[name], self._device) for name in fields))

    def _arrive(self, micro: MicroBatch) -> None:
        """The current stream may use it, and the side stream will not reuse its memory before."""
        if self._side is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._side)
        for tensor in micro.arrived:
            tensor.record_stream(current)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all steps: the allocator keeps what was used on a stream for that stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
