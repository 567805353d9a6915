"""One triple, checked and brought to the dataset's size and encoding: as it will be stored.

Owns the reasons for which a sample is rejected. The sums of an overlay are taken of what a reader
will decode, that is of the decoded stored JPEG and not of the picture before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from wdtrain.fields import DepthFormat, FieldError, pictures, triple_of
from wdtrain.fields.jpeg import decode_jpeg, decode_jpeg_scaled, encode_jpeg
from wdtrain.fields.labels import shown_values
from wdtrain.fields.mask import FOREGROUND
from wdtrain.fields.resize import size_for
from wdtrain.fields.sample import encode_meta
from wdtrain.fields.source import Source
from wdtrain.packing.plan import Settings
from wdtrain.store.limits import KEY, max_key, most_free_bytes
from wdtrain.store.shrink import Resizer

_COLOURS: Final = 3
_FIELDS: Final = triple_of(DepthFormat())


@dataclass(frozen=True)
class PackedSample:
    """A triple as it will be stored: arrays as a reader gets them, and in `jpeg` the overlay's
    bytes where the encoding is `image`."""

    key: str
    jpeg: bytes
    overlay: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    meta: bytes


def prepare(source: Source, index: int, settings: Settings) -> PackedSample:
    """The sample of an index, ready to be written; FieldError with the reason to reject it."""
    check_key(source.key(index))
    loaded = source.load(index)
    check_key(loaded.key)
    sample = _Triple(*loaded.arrays.values())  # type: ignore[arg-type]
    _check_mask(sample.mask)
    format_of_depth = source.fields[2].format  # type: ignore[attr-defined]
    if settings.encoding == "raw":
        jpeg, arrays = b"", _sized(sample, format_of_depth, settings)
    else:
        jpeg, arrays = _with_jpeg(sample, format_of_depth, settings)
    overlay, mask, depth = (np.ascontiguousarray(array) for array in arrays)
    meta = encode_meta(loaded.meta)
    _check_room(len(jpeg) + len(meta), settings)
    return PackedSample(loaded.key, jpeg, overlay, mask, depth, meta)


class _Triple(NamedTuple):
    overlay: np.ndarray | bytes
    mask: np.ndarray
    depth: np.ndarray


def _check_room(num_bytes: int, settings: Settings) -> None:
    most = most_free_bytes(settings.height, settings.width, _FIELDS)
    if num_bytes > most:
        raise FieldError(
            f"too large: its JPEG and JSON take {num_bytes:,} bytes, of which a reader takes "
            f"{most:,} at this size; leave out metadata that training does not need"
        )


def _check_mask(mask: np.ndarray) -> None:
    """FieldError for values that are no alpha: all are below foreground, and not all are 0."""
    if mask.dtype == np.uint8 and 0 < mask.max(initial=0) < FOREGROUND:
        raise FieldError(
            f"mask without foreground: {shown_values(mask)} were found; foreground counts from "
            f"{FOREGROUND}: an empty mask is 0 everywhere, and of labels triples.json says which "
            'are foreground ({"mask": {"foreground": [1]}})'
        )


def check_key(key: str) -> None:
    """FieldError for a key that a reader of WebDataset would not give back as it is."""
    if not KEY.fullmatch(key):
        raise FieldError(
            f"key: {key!r} may hold only letters, digits, - and _ (a name in a WebDataset is cut "
            "at its first dot)"
        )
    if len(key) > (most := max_key(_FIELDS)):
        raise FieldError(f"key: {key!r} is longer than {most} characters")


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _with_jpeg(sample: _Triple, depth: DepthFormat, settings: Settings) -> tuple[bytes, Arrays]:
    """The stored JPEG and the arrays a reader gets. A JPEG that fits passes byte for byte, less its
    EXIF, if that turns nothing, and less what lies behind its end."""
    size = (settings.height, settings.width)
    overlay = sample.overlay
    if isinstance(overlay, bytes):
        head = pictures.read_picture_header(overlay, name="overlay")
        if head.shown == size and head.turn == 1 and head.channels == _COLOURS:
            jpeg = pictures.plain_jpeg(overlay, name="overlay")
            rgb = decode_jpeg(jpeg, name="overlay")
            _check_arrays(rgb, sample, depth)
            return jpeg, (rgb, sample.mask, sample.depth)
    rgb, mask, codes = _sized(sample, depth, settings)
    jpeg = encode_jpeg(rgb, settings.jpeg_quality)
    return jpeg, (decode_jpeg(jpeg), mask, codes)


def _sized(sample: _Triple, depth: DepthFormat, settings: Settings) -> Arrays:
    """The three arrays at the dataset's size; a larger JPEG is decoded at a fraction."""
    size = (settings.height, settings.width)
    overlay = sample.overlay
    if isinstance(overlay, bytes):
        head = pictures.read_picture_header(overlay, name="overlay")
        full_size, eighths = head.shown, None
        _check_size(full_size, sample, turn=head.turn)
        _check_shape(full_size, settings)
        if head.turn == 1 and head.channels <= _COLOURS:
            plain = pictures.plain_jpeg(overlay, name="overlay")
            rgb, eighths = decode_jpeg_scaled(plain, size, name="overlay")
        else:
            rgb = pictures.read_rgb(overlay, name="overlay")
    else:
        rgb, full_size, eighths = overlay, overlay.shape[:2], None
        _check_shape(full_size, settings)
    _check_arrays(rgb, sample, depth, overlay_size=full_size)
    from_rgb = Resizer(rgb.shape[:2], size, eighths=eighths)
    from_stored = Resizer(full_size, size)
    arrays = np.empty((1, *size, 3), np.uint8), np.empty((1, *size), np.uint8)
    codes = np.empty((1, *size), depth.dtype)
    from_rgb.shrink(np.ascontiguousarray(rgb)[None], arrays[0])
    from_stored.shrink(np.ascontiguousarray(sample.mask)[None], arrays[1])
    known = np.ascontiguousarray(sample.depth)[None]
    from_stored.medians(known, codes, larger_is_nearer=depth.larger_is_nearer)
    return arrays[0][0], arrays[1][0], codes[0]


def _check_shape(full_size: tuple[int, int], settings: Settings) -> None:
    """FieldError for a picture that would have to be cut or squeezed without having been asked."""
    size = (settings.height, settings.width)
    if not settings.resize and full_size != size:
        raise FieldError(f"wrong size: {full_size}, the others are {size}")
    if settings.keep_shape and size_for(full_size, min(size)) != size:
        raise FieldError(
            f"wrong shape: {full_size} would be squeezed to {size}, the shape of the others; give "
            "the size as height x width if that is wanted"
        )


def _check_arrays(
    rgb: np.ndarray,
    sample: _Triple,
    depth: DepthFormat,
    *,
    overlay_size: tuple[int, ...] | None = None,
) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise FieldError(f"overlay: {rgb.dtype} {rgb.shape}; uint8 [h, w, 3] is needed")
    if sample.mask.dtype != np.uint8 or sample.depth.dtype != depth.dtype:
        raise FieldError(
            f"dtypes: mask {sample.mask.dtype}, depth {sample.depth.dtype}; "
            f"uint8 and {depth.dtype} are needed"
        )
    _check_size(overlay_size or rgb.shape[:2], sample)


def _check_size(overlay_size: tuple[int, ...], sample: _Triple, *, turn: int = 1) -> None:
    shown = "" if turn == 1 else f" as its EXIF orientation {turn} shows it"
    for name, shape in (("mask", sample.mask.shape), ("depth", sample.depth.shape)):
        if shape != overlay_size:
            raise FieldError(
                f"{name} of another size: {shape}, the overlay is {overlay_size}{shown}"
            )


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
