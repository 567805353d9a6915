"""Losses: pure functions of tensors, one number a sample, each declared for the outputs it fits.

Every loss takes (output [n, c, h, w], wanted [n, k, h, w], valid [n, 1, h, w], 0 or 1) and returns
[n]: the mean over the sample's valid pixels. A sample without a valid pixel gives 0 and a zero
gradient. Nothing is averaged over samples: that is what makes the gradient independent of how a
batch is cut. Which kind of target has which losses, stands in its own file; one of your own is
named by import path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH_L1_BETA = 0.05
DICE_SMOOTHING = 1.0
FOCAL_GAMMA = 2.0


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


def smooth_l1(
    output: Tensor, target: Tensor, valid: Tensor, *, beta: float = SMOOTH_L1_BETA
) -> Tensor:
    """Quadratic below a difference of `beta`, linear above (Girshick 2015, Huber 1964)."""
    per_pixel = F.smooth_l1_loss(output, target, reduction="none", beta=beta)
    return mean_over_valid(per_pixel, valid)


# ---------------------------------------------------------------------------- classes


def cross_entropy(logits: Tensor, ids: Tensor, valid: Tensor) -> Tensor:
    """Of logits [n, classes, h, w] and int64 ids [n, 1, h, w], in nats."""
    return mean_over_valid(F.cross_entropy(logits, ids[:, 0], reduction="none")[:, None], valid)


def dice_of_classes(logits: Tensor, ids: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Dice, smoothed by one pixel, the mean over the classes that a sample has."""
    share = logits.softmax(1) * valid
    wanted = torch.zeros_like(share).scatter_(1, ids, valid.to(share.dtype))
    overlap, found, there = ((each).sum((2, 3)) for each in (share * wanted, share, wanted))
    dice = 1.0 - (2.0 * overlap + DICE_SMOOTHING) / (found + there + DICE_SMOOTHING)
    present = (there > 0).to(dice.dtype)
    return (dice * present).sum(1) / present.sum(1).clamp(min=1.0)


def cross_entropy_dice(logits: Tensor, ids: Tensor, valid: Tensor) -> Tensor:
    return cross_entropy(logits, ids, valid) + dice_of_classes(logits, ids, valid)


def focal(logits: Tensor, ids: Tensor, valid: Tensor, *, gamma: float = FOCAL_GAMMA) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p being the probability of the right class: what is known
    already counts for little (Lin et al. 2017, without their weights of classes)."""
    nats = F.cross_entropy(logits, ids[:, 0], reduction="none")[:, None]
    return mean_over_valid((-torch.expm1(-nats)).pow(gamma) * nats, valid)
