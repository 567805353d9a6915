"""A rank's rows to the device, micro-batch by micro-batch, as uint8.

On CUDA the next micro-batch travels on a stream of its own while this one is worked on; that
overlaps only if the batch lies in pinned memory (`open_stream(pin_memory=True)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from wdtrain.learn.rows import Rows
from wdtrain.targets.truth import TargetName


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch: its rows on the host, its overlay and its stored target on the device."""

    rows: Rows
    overlay: Tensor
    stored: Tensor


class Prefetcher:
    """Copies to one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = _stream(device) if device.type == "cuda" else None

    def micro_batches(
        self, rows: Rows, cuts: Sequence[tuple[int, int]], target: TargetName
    ) -> Iterator[MicroBatch]:
        """One after the other; cuts: (first, last + 1) norm group of each."""
        ahead: MicroBatch | None = None
        for index, cut in enumerate(cuts):
            micro = ahead or self._copy(rows.part(*cut), target)
            self._arrive(micro)
            ahead = None
            if self._side is not None and index + 1 < len(cuts):
                ahead = self._copy(rows.part(*cuts[index + 1]), target)
            yield micro

    def _copy(self, part: Rows, target: TargetName) -> MicroBatch:
        if self._side is None:
            return self._to_device(part, target)
        with torch.cuda.stream(self._side):
            return self._to_device(part, target)

    def _to_device(self, part: Rows, target: TargetName) -> MicroBatch:
        stored = getattr(part, target)
        return MicroBatch(
            part,
            part.copy(part.overlay, self._device),
            part.copy(stored, self._device),
        )

    def _arrive(self, micro: MicroBatch) -> None:
        """The current stream may use it, and the side stream will not reuse its memory before."""
        if self._side is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._side)
        micro.overlay.record_stream(current)
        micro.stored.record_stream(current)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all steps: the allocator keeps what was used on a stream for that stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
