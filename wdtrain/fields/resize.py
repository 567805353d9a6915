"""Pictures, masks, classes and depths at another size, by one rule: a pixel is what it covers of
the old."""

from __future__ import annotations

import numpy as np

from wdtrain.resize import Cover, Size, area, cover, median

__all__ = ["Size", "area", "known_area", "majority", "median"]


def known_area(alpha: np.ndarray, size: Size, *, unknown: int) -> np.ndarray:
    """uint8 [*size] of an alpha uint8 [h, w]: the mean of what is known of what each pixel covers,
    halves to even; `unknown`, itself 1, where more than half is. A mean that rounds to 1 becomes 0,
    or 2 where it is above. Exact: whole numbers."""
    if alpha.shape == size:
        return alpha
    down, across = map(cover, alpha.shape, size)
    is_known = alpha != unknown
    known = _covered(is_known, down, across)
    total = _covered(np.where(is_known, alpha, 0), down, across)
    whole, rest = np.divmod(total, np.maximum(known, 1))
    mean = whole + (2 * rest + (whole & 1) > known)
    mean = np.where(mean == unknown, np.where(total > known, 2, 0), mean)
    return np.where(2 * known < down.total * across.total, unknown, mean).astype(np.uint8)


def majority(ids: np.ndarray, size: Size, *, ignore: int) -> np.ndarray:
    """Class ids [*size] of ids [h, w], uint8 or uint16: the one that covers most of the pixel's
    area, of several the smallest; `ignore` where that covers more than half, and else not. Exact.

    Costs a pass over the picture for each id that is in it.
    """
    if ids.shape == size:
        return ids
    down, across = map(cover, ids.shape, size)
    found = np.full(size, ignore, ids.dtype)
    most = np.zeros(size, np.int64)
    for value in np.unique(ids).tolist():
        if value != ignore:
            share = _covered(ids == value, down, across)
            is_more = share > most
            found[is_more], most[is_more] = value, share[is_more]
    ignored = _covered(ids == ignore, down, across)
    found[2 * ignored > down.total * across.total] = ignore
    return found


def _covered(values: np.ndarray, down: Cover, across: Cover) -> np.ndarray:
    """int32 or int64 [*size]: the sum over what each pixel covers of values [h, w] of up to 255,
    weighted by area."""
    fits = 255 * down.total * across.total < 1 << 31
    lines = _summed(values.astype(np.int32 if fits else np.int64), down)
    return np.ascontiguousarray(_summed(np.ascontiguousarray(lines.T), across).T)


def _summed(lines: np.ndarray, side: Cover) -> np.ndarray:
    """[size, n]: each the weighted sum of its taps of whole numbers [old, n]."""
    shares = side.shares.astype(lines.dtype)[..., None]
    total: np.ndarray = lines[side.first] * shares[:, 0]
    for tap in range(1, shares.shape[1]):
        total += lines[side.first + tap] * shares[:, tap]
    return total
