"""How stored samples become what a network sees, in training or in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wdtrain.learn.augment import Augmentation, Seen
from wdtrain.learn.rows import Rows
from wdtrain.learn.targets import Normalisation, Prepared, Target, plain
from wdtrain.triple import DepthFormat

PRECISIONS = ("fp32", "bf16", "fp64")
"""bf16: float32 parameters, bfloat16 autocast; fp64: everything, for tests."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """What a forward pass runs under."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class Memo:
    """What the tasks of one step saw, for those that come after and cut the batch alike.

    Only where a rank's whole part (`rows` samples) is small: memory must not grow with the batch.
    """

    MOST_BYTES = 32 * 2**20

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._kept: dict[tuple[int, int], tuple[Seen, int]] = {}

    def recall(self, rows: Rows) -> Seen | None:
        """What was seen of exactly these rows, unless a network wrote into it."""
        seen, version = self._kept.get((rows.group_ids[0], len(rows)), (None, 0))
        return seen if seen is not None and seen.picture._version == version else None

    def keep(self, rows: Rows, seen: Seen) -> Seen:
        num_bytes = seen.picture.nbytes // len(rows) * self._rows
        if 0 < num_bytes <= self.MOST_BYTES:
            self._kept[rows.group_ids[0], len(rows)] = (seen, seen.picture._version)
        return seen


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
        target: Target,
        rows: Rows,
        memo: Memo | None = None,
    ) -> Prepared:
        """From tensors on the device; float64 in fp64, else float32. memo: what the tasks of a step
        have prepared so far."""
        common = {"normalisation": self.normalisation, "depth_format": self.depth_format}
        if self.augmentation is None:
            prepared = plain(overlay, stored, target, **common)  # type: ignore[arg-type]
        else:
            memo = memo or Memo(0)
            seen = memo.recall(rows) or memo.keep(
                rows,
                self.augmentation.see(
                    overlay, keys=rows.keys, epochs=rows.epochs, normalisation=self.normalisation
                ),
            )
            prepared = seen.with_target(stored, target, self.depth_format)
        return prepared.to(torch.float64) if self.precision == "fp64" else prepared


def plain_view(
    mean: Sequence[float], std: Sequence[float], depth_format: DepthFormat, precision: str
) -> View:
    """The view of evaluation: normalised by these channel means and deviations."""
    normalisation = Normalisation(tuple(mean), tuple(std))
    return View(normalisation=normalisation, depth_format=depth_format, precision=precision)
