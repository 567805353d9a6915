"""One triple, checked and brought to the dataset's size and encoding: as it will be stored.

Owns the reasons for which a sample is rejected. The sums of an overlay are taken of what a reader
will decode, that is of the decoded stored JPEG and not of the picture before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wdtrain import triple
from wdtrain.store.limits import KEY, MAX_KEY, most_free_bytes
from wdtrain.store.plan import Settings
from wdtrain.store.source import Source
from wdtrain.triple import FOREGROUND, DepthFormat, Triple, TripleError


@dataclass(frozen=True)
class Prepared:
    """A triple as it will be stored: arrays as a reader gets them, and in `jpeg` the overlay's
    bytes where the encoding is `image`."""

    key: str
    jpeg: bytes
    overlay: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    meta: bytes


def prepare(source: Source, index: int, settings: Settings) -> Prepared:
    """The sample of an index, ready to be written; TripleError with the reason to reject it."""
    check_key(source.key(index))
    sample = source.load(index)
    check_key(sample.key)
    if settings.encoding == "raw":
        jpeg, arrays = b"", _sized(sample, source.depth_format, settings)
    else:
        jpeg, arrays = _with_jpeg(sample, source.depth_format, settings)
    overlay, mask, depth = (np.ascontiguousarray(array) for array in arrays)
    if mask.max() < FOREGROUND:
        raise TripleError(f"empty mask: no pixel of it is {FOREGROUND} or above")
    meta = triple.encode_meta(sample.meta)
    _check_room(len(jpeg) + len(meta), settings)
    return Prepared(sample.key, jpeg, overlay, mask, depth, meta)


def _check_room(num_bytes: int, settings: Settings) -> None:
    most = most_free_bytes(settings.height, settings.width)
    if num_bytes > most:
        raise TripleError(
            f"too large: its JPEG and JSON take {num_bytes:,} bytes, of which a reader takes "
            f"{most:,} at this size; leave out metadata that training does not need"
        )


def check_key(key: str) -> None:
    """TripleError for a key that a reader of WebDataset would not give back as it is."""
    if not KEY.fullmatch(key):
        raise TripleError(
            f"key: {key!r} may hold only letters, digits, - and _ (a name in a WebDataset is cut "
            "at its first dot)"
        )
    if len(key) > MAX_KEY:
        raise TripleError(f"key: {key!r} is longer than {MAX_KEY} characters")


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _with_jpeg(sample: Triple, depth: DepthFormat, settings: Settings) -> tuple[bytes, Arrays]:
    """The stored JPEG and the arrays a reader gets. A JPEG that fits passes byte for byte."""
    size = (settings.height, settings.width)
    overlay = sample.overlay
    fits = isinstance(overlay, bytes) and triple.overlay_shape(overlay) == size
    if fits and isinstance(overlay, bytes) and triple.is_plain(overlay):
        rgb = triple.decode_overlay(overlay)
        _check_arrays(rgb, sample, depth)
        return overlay, (rgb, sample.mask, sample.depth)
    rgb, mask, codes = _sized(sample, depth, settings)
    jpeg = triple.encode_overlay(rgb, settings.jpeg_quality)
    return jpeg, (triple.decode_overlay(jpeg), mask, codes)


def _sized(sample: Triple, depth: DepthFormat, settings: Settings) -> Arrays:
    """The three arrays at the dataset's size; a larger JPEG is decoded at a DCT scale."""
    size = (settings.height, settings.width)
    overlay = sample.overlay
    if isinstance(overlay, bytes):
        full_size = triple.overlay_shape(overlay)
        _check_size(full_size, sample)
        rgb = triple.decode_overlay(overlay, at_least=size if settings.resize else None)
    else:
        rgb, full_size = overlay, overlay.shape[:2]
    _check_arrays(rgb, sample, depth, overlay_size=full_size)
    if full_size != size and not settings.resize:
        raise TripleError(f"wrong size: {full_size}, the others are {size}")
    return triple.resize_triple_arrays(
        rgb, sample.mask, sample.depth, height=settings.height, width=settings.width
    )


def _check_arrays(
    rgb: np.ndarray,
    sample: Triple,
    depth: DepthFormat,
    *,
    overlay_size: tuple[int, ...] | None = None,
) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise TripleError(f"overlay: {rgb.dtype} {rgb.shape}; uint8 [h, w, 3] is needed")
    if sample.mask.dtype != np.uint8 or sample.depth.dtype != depth.dtype:
        raise TripleError(
            f"dtypes: mask {sample.mask.dtype}, depth {sample.depth.dtype}; "
            f"uint8 and {depth.dtype} are needed"
        )
    _check_size(overlay_size or rgb.shape[:2], sample)


def _check_size(overlay_size: tuple[int, ...], sample: Triple) -> None:
    for name, shape in (("mask", sample.mask.shape), ("depth", sample.depth.shape)):
        if shape != overlay_size:
            raise TripleError(f"{name} of another size: {shape}, the overlay is {overlay_size}")


class OverlaySums:
    """Whole-number sums over overlays: pixels, and per channel values and their squares."""

    def __init__(self) -> None:
        self.pixels = 0
        self.total = [0, 0, 0]
        self.squares = [0, 0, 0]

    def add(self, overlay: np.ndarray) -> None:
        """Adds uint8 [h, w, 3]. Exact: every partial sum is a whole number below 2**53."""
        self.pixels += overlay.shape[0] * overlay.shape[1]
        squares = cv2.multiply(overlay, overlay, dtype=cv2.CV_32F)
        for sums, values in ((self.total, overlay), (self.squares, squares)):
            for channel, value in enumerate(cv2.sumElems(values)[:3]):
                sums[channel] += int(value)

    def merge(self, other: dict[str, Any]) -> None:
        self.pixels += other["pixels"]
        for channel in range(3):
            self.total[channel] += other["sum"][channel]
            self.squares[channel] += other["square_sum"][channel]

    def as_dict(self) -> dict[str, Any]:
        return {"pixels": self.pixels, "sum": self.total, "square_sum": self.squares}
