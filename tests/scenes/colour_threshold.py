"""The best linear colour threshold of a set of pictures: what a mask network has to beat.

An oracle: the direction in RGB and the threshold are searched on the very pixels that it is judged
by, from Fisher's direction, the axes, and random ones, each improved by hill climbing.
"""

from __future__ import annotations

import numpy as np

_BINS = 256


def _best_cut(colours: np.ndarray, inside: np.ndarray, direction: np.ndarray) -> float:
    """The best pooled IoU of `colours @ direction` above or below any threshold."""
    values = colours @ direction.astype(np.float32)
    low, high = values.min(), values.max()
    bins = ((values - low) * ((_BINS - 1) / max(high - low, 1e-9))).astype(np.intp)
    hits = np.bincount(bins, weights=inside, minlength=_BINS).cumsum()
    count = np.bincount(bins, minlength=_BINS).cumsum()
    total = hits[-1]
    below = hits / np.maximum(count + total - hits, 1)
    above_hits = total - hits
    above = above_hits / np.maximum(count[-1] - count + total - above_hits, 1)
    return float(max(below.max(), above.max()))


def best_threshold_iou(overlays: np.ndarray, masks: np.ndarray, *, seed: int = 0) -> float:
    """Pooled IoU of the best linear colour threshold; overlays [n, h, w, 3], masks [n, h, w]."""
    rng = np.random.default_rng(seed)
    colours = overlays.reshape(-1, 3).astype(np.float32) / 255
    inside = masks.reshape(-1) >= 128
    chosen = rng.permutation(len(colours))[:150_000]
    colours, inside = colours[chosen], inside[chosen]
    gap = colours[inside].mean(0) - colours[~inside].mean(0)
    scatter = np.cov(colours[inside].T) + np.cov(colours[~inside].T)
    starts = [np.linalg.solve(scatter, gap), gap, np.array([0.299, 0.587, 0.114]), *np.eye(3)]
    starts += list(rng.standard_normal((60, 3)))
    scored = [(_best_cut(colours, inside, start), start) for start in starts]
    scored.sort(key=lambda pair: -pair[0])
    best = scored[0][0]
    for score, direction in scored[:4]:
        for step in (0.4, 0.2, 0.1, 0.05):
            for _ in range(8):
                trial = direction / np.linalg.norm(direction) + step * rng.standard_normal(3)
                if (trial_score := _best_cut(colours, inside, trial)) > score:
                    score, direction = trial_score, trial
        best = max(best, score)
    return best
