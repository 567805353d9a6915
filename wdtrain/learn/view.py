"""How stored samples become what a network sees, in training or in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wdtrain.learn.augment import Augmentation
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

    def prepare(self, overlay: Tensor, stored: Tensor, target: Target, rows: Rows) -> Prepared:
        """From tensors on the device; float64 in fp64, else float32."""
        common = {"normalisation": self.normalisation, "depth_format": self.depth_format}
        if self.augmentation is None:
            prepared = plain(overlay, stored, target, **common)  # type: ignore[arg-type]
        else:
            prepared = self.augmentation(
                overlay,
                stored,
                target,
                keys=rows.keys,
                epochs=rows.epochs,
                **common,  # type: ignore[arg-type]
            )
        return prepared.to(torch.float64) if self.precision == "fp64" else prepared


def plain_view(
    mean: Sequence[float], std: Sequence[float], depth_format: DepthFormat, precision: str
) -> View:
    """The view of evaluation: normalised by these channel means and deviations."""
    normalisation = Normalisation(tuple(mean), tuple(std))
    return View(normalisation=normalisation, depth_format=depth_format, precision=precision)
