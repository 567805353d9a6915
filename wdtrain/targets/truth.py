"""From stored bytes to what a network sees and what it is compared with, without augmentation.

uint8 overlays become floats in 0..1 and are normalised last; mask alpha becomes 0 or 1 at 128
(hard: a mask's edge is a decision, as in the metrics); depth codes become unit values, code 0
(unknown) is not valid. Everything here runs on the device that its tensors are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from kornia.enhance import normalize
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.mask import FOREGROUND

TargetName = Literal["mask", "depth"]


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each overlay channel, in 0..1 (the manifest's)."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"normalisation has mean {tuple(self.mean)} and std {tuple(self.std)}; three means "
                "and three positive standard deviations are needed; pack the data again"
            )

    def __call__(self, overlay: Tensor) -> Tensor:
        """float [n, 3, h, w] in 0..1 -> normalised, channels last."""
        mean, std = (
            _constant(tuple(values), overlay.dtype, overlay.device)
            for values in (self.mean, self.std)
        )
        normal: Tensor = normalize(overlay.contiguous(), mean, std)
        return normal.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sent once: each sending of numbers that are not pinned waits for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class TrainingInput:
    """Ready for a network: picture [n, 3, h, w] normalised; target, valid [n, 1, h, w] floats."""

    picture: Tensor
    target: Tensor
    valid: Tensor

    def to(self, dtype: torch.dtype) -> TrainingInput:
        return TrainingInput(self.picture.to(dtype), self.target.to(dtype), self.valid.to(dtype))


def unit_overlay(overlay: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return overlay.to(torch.float32).div_(255.0)


def mask_target(mask: Tensor) -> Tensor:
    """uint8 alpha -> float32 0 or 1."""
    return (mask >= FOREGROUND).to(torch.float32)


def depth_target(depth: Tensor, depth_format: DepthFormat) -> tuple[Tensor, Tensor]:
    """Codes -> (unit depth 0..1, known 0 or 1), float32; unit is 0 where depth is unknown."""
    codes = depth.to(torch.float32)
    unit: Tensor = depth_format.to_unit(codes)
    return unit.clamp(min=0.0), (codes > 0).to(torch.float32)


def plain(
    overlay: Tensor,
    stored: Tensor,
    target: TargetName,
    *,
    normalisation: Normalisation,
    depth_format: DepthFormat,
) -> TrainingInput:
    """Not augmented: only to float and normalised. `stored`: the mask or depth as stored."""
    picture = normalisation(unit_overlay(overlay))
    return TrainingInput(picture, *plain_target(stored, target, depth_format))


def plain_target(
    stored: Tensor, target: TargetName, depth_format: DepthFormat
) -> tuple[Tensor, Tensor]:
    """(what is compared with, where it is valid), not augmented."""
    if target == "mask":
        truth = mask_target(stored)
        return truth, torch.ones_like(truth)
    return depth_target(stored, depth_format)
