"""Fields at another size, by one rule: a pixel is what it covers of the old.

Owns the arithmetic of sizes and areas. Edges are aligned: of a side of E old pixels, pixel x of
`size` new ones covers those from x E / size to (x + 1) E / size, whether the side shrinks or grows.
Pictures and masks take the mean of the area, depth its median, classes the id that has most of it.
What is here is the reference, in numpy; `store/shrink.py` runs compiled loops that give the same,
to the bit.
The surprise: a JPEG decoded at k eighths has ceil(side k / 8) pixels, but they cover side k / 8.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

Size = tuple[int, int]
"""(height, width) in pixels."""

EIGHTHS: Final = 8
STRIDE: Final = 16
"""What networks that halve a picture four times need its sides to be multiples of."""
_UNKNOWN: Final = np.int32(2**31 - 1)


class Cover(NamedTuple):
    """Which old pixels of a side make each new one: pixel x takes `taps` of them from first[x] on.

    first: int32 [size]. shares: int32 [size, taps], in a common unit, `total` for each new pixel.
    """

    first: np.ndarray
    shares: np.ndarray
    total: int

    @property
    def weights(self) -> np.ndarray:
        """float32 [size, taps]: the shares of the whole."""
        return (self.shares / self.total).astype(np.float32)


@lru_cache(maxsize=256)
def cover(extent: int, size: int, unit: int = 1) -> Cover:
    """How `size` new pixels cover a side of `extent` / `unit` old ones. Exact: whole numbers."""
    pixel = unit * size
    begin = np.arange(size, dtype=np.int64) * extent
    first, last = begin // pixel, (begin + extent - 1) // pixel
    taps = int((last - first).max()) + 1
    first = np.minimum(first, -(-extent // unit) - taps)
    place = (first[:, None] + np.arange(taps)) * pixel
    inside = np.minimum(place + pixel, begin[:, None] + extent) - np.maximum(place, begin[:, None])
    divisor = int(np.gcd(extent, pixel))
    shares = np.maximum(inside, 0) // divisor
    return Cover(first.astype(np.int32), shares.astype(np.int32), extent // divisor)


def area(picture: np.ndarray, size: Size, *, eighths: Size | None = None) -> np.ndarray:
    """uint8 [*size] or [*size, channels] of a picture uint8 [h, w] or [h, w, channels]: the mean of
    what each pixel covers, in float32, across and then down, halves to even.

    `eighths`: how many eighths of a pixel high and wide the picture is, where it is a JPEG decoded
    at a fraction; its last row and column may then lie in it only in part.
    """
    whole = picture.shape[0] * EIGHTHS, picture.shape[1] * EIGHTHS
    down, across = map(cover, eighths or whole, size, (EIGHTHS, EIGHTHS))
    if picture.shape[:2] == size and (eighths or whole) == whole:
        return picture
    lines = picture.reshape(*picture.shape[:2], -1).astype(np.float32)
    lines = _blend(lines.swapaxes(0, 1), across).swapaxes(0, 1)
    blended: np.ndarray = np.rint(_blend(lines, down)).astype(np.uint8)
    return blended.reshape(*size, *picture.shape[2:])


def _blend(lines: np.ndarray, side: Cover) -> np.ndarray:
    """float32 [size, ...]: each the sum of its taps of float32 [old, ...], one after the other."""
    weights = side.weights[..., None, None]
    blended: np.ndarray = lines[side.first] * weights[:, 0]
    for tap in range(1, weights.shape[1]):
        blended += lines[side.first + tap] * weights[:, tap]
    return blended


def median(codes: np.ndarray, size: Size, *, larger_is_nearer: bool = False) -> np.ndarray:
    """Depth codes [*size] of codes [h, w], uint8 or uint16: the area-weighted median of the known
    (not 0) codes that a pixel covers, of two middle ones the nearer; 0 where most is unknown.

    Never a mean: between a figure and its wall lies the depth of nothing.
    """
    if codes.shape == size:
        return codes
    flip = flip_of(codes.dtype, larger_is_nearer=larger_is_nearer)
    keys = np.where(codes == 0, _UNKNOWN, np.abs(flip - codes.astype(np.int32)))
    down, across = map(cover, codes.shape, size)
    columns = across.first[:, None] + np.arange(across.shares.shape[1])
    found = np.empty(size, codes.dtype)
    for y, (first, shares) in enumerate(zip(down.first, down.shares, strict=True)):
        window = keys[first : first + len(shares)][:, columns].swapaxes(0, 1)
        weights = shares[:, None].astype(np.int64) * across.shares[:, None, :]
        total = down.total * across.total
        found[y] = _medians(window.reshape(size[1], -1), weights.reshape(size[1], -1), total, flip)
    return found


def flip_of(dtype: np.dtype, *, larger_is_nearer: bool) -> int:
    """A code c is compared as |flip - c|, so that the smaller is the nearer."""
    return int(np.iinfo(dtype).max) + 1 if larger_is_nearer else 0


def _medians(keys: np.ndarray, weights: np.ndarray, total: int, flip: int) -> np.ndarray:
    """Codes [n] of keys and weights [n, covered]: the smallest key with half the known weight."""
    order = np.argsort(keys, axis=1)
    keys, weights = np.take_along_axis(keys, order, 1), np.take_along_axis(weights, order, 1)
    known = np.where(keys == _UNKNOWN, 0, weights).sum(1)
    middle = (2 * weights.cumsum(1) >= known[:, None]).argmax(1)
    codes = np.abs(flip - keys[np.arange(len(keys)), middle])
    return np.where(2 * known < total, 0, codes)


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


# ---------------------------------------------------------------------------- which size


def size_for(stored: Size, size: Any, *, multiple: int = 1) -> Size:
    """(height, width) that `size` asks of pictures of the stored one: a number is the shorter side,
    and the shape is kept; a pair is taken as it is; None is the stored size.

    `multiple`: both sides are rounded to one of it, at least that. ValueError, which names `size`,
    for what is none of these.
    """
    if size is None:
        return stored
    if _is_count(size):
        scale = size / min(stored)
        height, width = (max(1, round(side * scale / multiple)) * multiple for side in stored)
        return height, width
    if isinstance(size, tuple | list) and len(size) == 2 and all(map(_is_count, size)):
        return int(size[0]), int(size[1])
    raise ValueError(
        f"size is {size!r}; it must be the shorter side in pixels, or height and width, each 1 or "
        "more"
    )


def network_size(stored: Size, size: Any) -> Size:
    """(height, width) at which networks see pictures of the stored size: as `size_for`, with the
    longer side rounded to a multiple of 16 where the shorter is one, as networks that halve it four
    times need."""
    multiple = STRIDE if _is_count(size) and size % STRIDE == 0 else 1
    return size_for(stored, size, multiple=multiple)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def jpeg_scale(stored: Size, size: Size) -> int:
    """The fewest eighths at which a JPEG of the stored size still covers `size` pixels, at most 8.

    A tiny one is decoded whole: at several scales it has as many pixels, and decoders are asked
    for pixels.
    """
    for scale in range(1, EIGHTHS):
        if stored[0] * scale >= EIGHTHS * size[0] and stored[1] * scale >= EIGHTHS * size[1]:
            is_unlike = scale == 1 or scaled(stored, scale - 1) != scaled(stored, scale)
            return scale if is_unlike else EIGHTHS
    return EIGHTHS


def scaled(stored: Size, scale: int) -> Size:
    """The pixels of a JPEG of the stored size that is decoded at `scale` eighths."""
    return -(-stored[0] * scale // EIGHTHS), -(-stored[1] * scale // EIGHTHS)
