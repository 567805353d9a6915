"""Pictures as networks are given them, without augmentation: floats in 0..1, normalised last.

Everything here runs on the device that its tensors are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from kornia.enhance import normalize
from torch import Tensor

from wdtrain.targets import Truth


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of an image, in 0..1 (the manifest's)."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"normalisation has mean {tuple(self.mean)} and std {tuple(self.std)}; three means "
                "and three positive standard deviations are needed; pack the data again"
            )

    def __call__(self, picture: Tensor) -> Tensor:
        """float [n, 3, h, w] in 0..1 -> normalised, channels last."""
        mean, std = (
            _constant(tuple(values), picture.dtype, picture.device)
            for values in (self.mean, self.std)
        )
        normal: Tensor = normalize(picture.contiguous(), mean, std)
        return normal.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sent once: each sending of numbers that are not pinned waits for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class TrainingInput:
    """Ready for a network: picture [n, 3, h, w] normalised; target [n, k, h, w] and valid
    [n, 1, h, w] as `Truth` has them."""

    picture: Tensor
    target: Tensor
    valid: Tensor

    @classmethod
    def of(cls, picture: Tensor, truth: Truth) -> TrainingInput:
        return cls(picture, truth.wanted, truth.valid)

    def to(self, dtype: torch.dtype) -> TrainingInput:
        """In another precision; ids of classes stay."""
        is_float = self.target.is_floating_point()
        target = self.target.to(dtype) if is_float else self.target
        return TrainingInput(self.picture.to(dtype), target, self.valid.to(dtype))


def unit_picture(stored: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return stored.to(torch.float32).div_(255.0)
