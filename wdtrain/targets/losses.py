"""Losses: pure functions of tensors, one number a sample, each declared for the outputs it fits.

Every loss takes (output, target, valid), all [n, 1, h, w] floats (valid: 0 or 1), and returns [n]:
the mean over the sample's valid pixels. A sample without a valid pixel gives 0 and a zero gradient.
Nothing is averaged over samples: that is what makes the gradient independent of how a batch is cut.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

SMOOTH_L1_BETA = 0.05
DICE_SMOOTHING = 1.0


@dataclass(frozen=True)
class Loss:
    """A loss that fits outputs of `domain`; call it with (output, target, valid) -> [n]."""

    name: str
    domain: str
    function: PixelLoss

    def __call__(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return self.function(output, target, valid)


def mean_over_valid(per_pixel: Tensor, valid: Tensor) -> Tensor:
    """[n] means of [n, 1, h, w] over the valid pixels of each sample; 0 where there are none."""
    total = (per_pixel * valid).sum((1, 2, 3))
    return total / valid.sum((1, 2, 3)).clamp(min=1.0)


def bce_of_logits(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy in nats; targets may be soft."""
    per_pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return mean_over_valid(per_pixel, valid)


def bce_of_unit(unit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of outputs in 0..1; logarithms are cut at -100, as in PyTorch."""
    return mean_over_valid(F.binary_cross_entropy(unit, target, reduction="none"), valid)


def dice_of_unit(unit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Dice of each sample (Milletari et al. 2016, no squares), smoothed by one pixel."""
    unit, target = unit * valid, target * valid
    overlap = (unit * target).sum((1, 2, 3))
    total = unit.sum((1, 2, 3)) + target.sum((1, 2, 3))
    return 1.0 - (2.0 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)


def bce_dice_of_logits(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    return bce_of_logits(logits, target, valid) + dice_of_unit(logits.sigmoid(), target, valid)


def bce_dice_of_unit(unit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    return bce_of_unit(unit, target, valid) + dice_of_unit(unit, target, valid)


def l1(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    return mean_over_valid((output - target).abs(), valid)


def smooth_l1(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Quadratic below a difference of 0.05, linear above (Girshick 2015, Huber 1964)."""
    per_pixel = F.smooth_l1_loss(output, target, reduction="none", beta=SMOOTH_L1_BETA)
    return mean_over_valid(per_pixel, valid)


LOSSES: dict[str, dict[str, PixelLoss]] = {
    "bce": {"logits": bce_of_logits, "unit": bce_of_unit},
    "bce+dice": {"logits": bce_dice_of_logits, "unit": bce_dice_of_unit},
    "l1": {"unit": l1, "positive": l1},
    "smooth-l1": {"unit": smooth_l1, "positive": smooth_l1},
}
"""Every loss by name, with the function for each domain that it fits."""


def build_loss(name: str, domain: str) -> Loss:
    """The loss `name` for a network whose output is of `domain` (see `networks.domain_of`).

    Raises ValueError for a name that does not exist, and for a loss on the wrong activation.
    """
    if name not in LOSSES:
        close = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"loss {name!r} does not exist; {hint}known: {', '.join(LOSSES)}")
    if domain not in LOSSES[name]:
        fitting = ", ".join(other for other, domains in LOSSES.items() if domain in domains)
        raise ValueError(
            f"loss {name!r} was put on a network whose output is {domain!r}; it is defined for "
            f"{' and '.join(LOSSES[name])}, so its values would mean nothing; for this network "
            f"choose one of: {fitting}"
        )
    return Loss(name, domain, LOSSES[name][domain])


def to_unit(output: Tensor, domain: str) -> Tensor:
    """Outputs as values in 0..1: the sigmoid of logits, everything else clipped."""
    return torch.sigmoid(output) if domain == "logits" else output.clamp(0.0, 1.0)
