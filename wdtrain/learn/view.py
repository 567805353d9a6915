"""How stored samples become what a network sees, in training or in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.learn.augment import Augmentation, AugmentedBatch
from wdtrain.learn.rows import Rows
from wdtrain.targets.truth import Normalisation, TargetName, TrainingInput, plain

PRECISIONS = ("fp32", "bf16", "fp64")
"""bf16: float32 parameters, bfloat16 autocast; fp64: everything, for tests."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """What a forward pass runs under."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class Memo:
    """What a rank sees of its part of a batch, prepared once for all tasks and micro-batches.

    Only where that part is small: memory must not grow with the batch.
    """

    MOST_BYTES = 16 * 2**20

    def __init__(self, rows: Rows) -> None:
        self._rows, self._version = rows, 0
        self._seen: AugmentedBatch | None = None
        self._targets: dict[TargetName, tuple[Tensor, Tensor]] = {}
        self._starts = dict(zip(rows.group_ids, accumulate([0, *rows.groups]), strict=False))

    def recall(
        self,
        part: Rows,
        target: TargetName,
        see: Callable[[Tensor, Rows], AugmentedBatch],
        device: torch.device,
    ) -> TrainingInput:
        """Some of the rows: views. The picture is made anew after a network has written into it."""
        if self._seen is None or self._seen.picture._version != self._version:
            self._seen = see(self._rows.copy(self._rows.overlay, device), self._rows)
            self._version = self._seen.picture._version
        if target not in self._targets:
            stored = self._rows.copy(getattr(self._rows, target), device)
            self._targets[target] = self._seen.target(stored, target)
        start = self._starts[part.group_ids[0]]
        rows = slice(start, start + len(part))
        truth, valid = self._targets[target]
        return TrainingInput(self._seen.picture[rows], truth[rows], valid[rows])

    @property
    def is_small(self) -> bool:
        return 4 * self._rows.overlay.nbytes <= self.MOST_BYTES  # float32


@dataclass(frozen=True, kw_only=True)
class View:
    """How stored samples become what a network sees; augmentation None: as in evaluation."""

    normalisation: Normalisation
    depth_format: DepthFormat
    augmentation: Augmentation | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
            )

    def augmented(self, augmentation: Augmentation) -> View:
        """This view, in training."""
        return replace(self, augmentation=augmentation)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: what a prediction needs to know of how a network was trained."""
        return {
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "depth": self.depth_format.as_dict(),
            "precision": self.precision,
        }

    def prepare(
        self,
        overlay: Tensor,
        stored: Tensor,
        target: TargetName,
        rows: Rows,
        memo: Memo | None = None,
    ) -> TrainingInput:
        """From tensors on the device; float64 in fp64, else float32. memo: what the tasks of a step
        have prepared so far."""
        common = {"normalisation": self.normalisation, "depth_format": self.depth_format}
        if self.augmentation is None:
            prepared = plain(overlay, stored, target, **common)  # type: ignore[arg-type]
        else:
            if memo is not None and memo.is_small:
                prepared = memo.recall(rows, target, self._see, overlay.device)
            else:
                seen = self._see(overlay, rows)
                prepared = TrainingInput(seen.picture, *seen.target(stored, target))
        return prepared.to(torch.float64) if self.precision == "fp64" else prepared

    def _see(self, overlay: Tensor, rows: Rows) -> AugmentedBatch:
        assert self.augmentation is not None
        return self.augmentation.see(
            overlay,
            keys=rows.keys,
            epochs=rows.epochs,
            normalisation=self.normalisation,
            depth_format=self.depth_format,
        )


def plain_view(
    mean: Sequence[float], std: Sequence[float], depth_format: DepthFormat, precision: str
) -> View:
    """The view of evaluation: normalised by these channel means and deviations."""
    normalisation = Normalisation(tuple(mean), tuple(std))
    return View(normalisation=normalisation, depth_format=depth_format, precision=precision)
