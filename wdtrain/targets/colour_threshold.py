"""What a mask network has to beat: the best linear colour threshold.

Fitted on training samples as whole numbers, so that the result does not depend on batches, ranks or
order. It is searched on a histogram of colours (64 levels a channel): many directions, in each all
thresholds, both sides, by pooled IoU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wdtrain.targets.base import Baseline, Truth
from wdtrain.targets.sums import is_foreground

LEVELS = 64
_LEVEL_STEP = 256 // LEVELS
_NUM_SPREAD = 256
_NUM_BINS = 2048
_REFINE_ANGLES = (0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True)
class ColourThreshold:
    """Foreground is where weights . (level of red, green, blue) >= threshold; levels 0..63.

    iou: pooled over the pixels it was fitted on.
    """

    weights: tuple[float, float, float]
    threshold: float
    iou: float

    def predict(self, picture: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """The mask, 0 or 1."""
        levels = (picture // _LEVEL_STEP).to(torch.float64)
        red, green, blue = self.weights
        value = red * levels[:, 0] + green * levels[:, 1] + blue * levels[:, 2]
        return (value >= self.threshold).to(torch.float32)[:, None]


class ColourHistogram(Baseline):
    """How often each colour is background and foreground, over the training samples."""

    def __init__(self, name: str = "mask") -> None:
        super().__init__((2, LEVELS**3))
        self._name = name

    def update(self, picture: UInt8[Tensor, "n 3 h w"], truth: Truth) -> None:
        """Counts every known pixel."""
        red, green, blue = (picture // _LEVEL_STEP).to(torch.int64).unbind(1)
        colour = (red * LEVELS + green) * LEVELS + blue
        cell = colour + is_foreground(truth.wanted)[:, 0].to(torch.int64) * LEVELS**3
        known = cell[truth.known[:, 0]]
        self._add(torch.bincount(known, minlength=2 * LEVELS**3).reshape(2, -1))

    def fit(self) -> ColourThreshold:
        """The best threshold found. Deterministic; about 2 s. ValueError without a pixel."""
        counts = self._sums.numpy()
        colours = np.flatnonzero(counts.sum(0))
        if not len(colours):
            raise ValueError(
                f"the first training samples have no pixel of which {self._name} is known, so a "
                "network would learn nothing of it (and its baseline, a colour threshold, has no "
                "training pixel to be fitted on); pack data with it, or train without it"
            )
        levels = np.stack(np.unravel_index(colours, (LEVELS,) * 3), 1).astype(np.float64)
        background, foreground = counts[:, colours]
        directions = np.concatenate(
            [_fitted_directions(levels, background, foreground), _spread_directions(_NUM_SPREAD)]
        )
        best = _best_direction(directions, levels, background, foreground)
        for angle in _REFINE_ANGLES:
            around = best + angle * np.concatenate([np.zeros((1, 3)), _spread_directions(24)])
            best = _best_direction(around, levels, background, foreground)
        return max(
            (_best_threshold(sign * best, levels, background, foreground) for sign in (1, -1)),
            key=lambda found: found.iou,
        )


def _spread_directions(count: int) -> np.ndarray:
    """Unit vectors [count, 3] spread evenly over the sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    turn = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)


def _fitted_directions(
    levels: np.ndarray, background: np.ndarray, foreground: np.ndarray
) -> np.ndarray:
    """LDA, logistic regression, the axes, brightness and the colour opponents: [k, 3]."""
    fixed_ones = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.299, 0.587, 0.114], [1, 1, 1],
         [1, -1, 0], [1, 0, -1], [0, 1, -1], [2, -1, -1], [-1, 2, -1], [-1, -1, 2]], float
    )  # fmt: skip
    if not background.sum() or not foreground.sum():
        return fixed_ones
    means = [np.average(levels, axis=0, weights=w) for w in (background, foreground)]
    spread = sum(
        np.cov(levels.T, aweights=w, ddof=0) * w.sum() for w in (background, foreground)
    ) / (background.sum() + foreground.sum())
    lda = np.linalg.solve(spread + np.eye(3), means[1] - means[0])
    return np.concatenate([fixed_ones, [lda, _logistic(levels, background, foreground)]])


def _logistic(
    levels: np.ndarray, background: np.ndarray, foreground: np.ndarray, rounds: int = 12
) -> np.ndarray:
    """Weights [3] of a ridge logistic regression of foreground on colour, by Newton's method."""
    inputs = np.concatenate([levels / LEVELS - 0.5, np.ones((len(levels), 1))], 1)
    count = background + foreground
    weights = np.zeros(4)
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (foreground - count * chance) - weights
        curvature = (inputs * (count * chance * (1 - chance))[:, None]).T @ inputs + np.eye(4)
        weights = weights + np.clip(np.linalg.solve(curvature, gradient), -10, 10)
    return np.asarray(weights[:3])


def _best_direction(
    directions: np.ndarray, levels: np.ndarray, background: np.ndarray, foreground: np.ndarray
) -> np.ndarray:
    """The direction whose best threshold has the highest IoU, thresholds taken from 2048 bins."""
    scores = []
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[lengths[:, 0] > 1e-9] / lengths[lengths[:, 0] > 1e-9]
    for direction in directions:
        value = levels @ direction
        low, high = value.min(), value.max()
        bins = ((value - low) * ((_NUM_BINS - 1) / max(high - low, 1e-9))).astype(np.int64)
        counts = [np.bincount(bins, w, _NUM_BINS) for w in (background, foreground)]
        scores.append(max(_ious(*counts).max(), _ious(counts[0][::-1], counts[1][::-1]).max()))
    return np.asarray(directions[int(np.argmax(scores))])


def _best_threshold(
    direction: np.ndarray, levels: np.ndarray, background: np.ndarray, foreground: np.ndarray
) -> ColourThreshold:
    """The exact best threshold in one direction, foreground above it."""
    red, green, blue = direction
    value = red * levels[:, 0] + green * levels[:, 1] + blue * levels[:, 2]
    places, cell = np.unique(value, return_inverse=True)
    ious = _ious(np.bincount(cell, background), np.bincount(cell, foreground))
    at = int(np.argmax(ious))
    below = places[at - 1] if at else places[0] - 1.0
    return ColourThreshold(
        weights=(float(red), float(green), float(blue)),
        threshold=float((below + places[at]) / 2),
        iou=float(ious[at]),
    )


def _ious(background: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Pooled IoU of calling place i and all above it foreground, for every i."""
    taken_wrongly = np.cumsum(background[::-1])[::-1]
    taken_rightly = np.cumsum(foreground[::-1])[::-1]
    return np.asarray(taken_rightly / np.maximum(foreground.sum() + taken_wrongly, 1.0))
