"""One sample, checked and brought to the dataset's size and encoding: as it will be stored.

Owns the reasons for which a sample is rejected, whatever its fields are. The sums of an image are
taken of what a reader will decode, that is of the decoded stored JPEG and not of the picture before
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wdtrain.fields import Field, FieldError, ImageField, Sample, Value
from wdtrain.fields.pictures import read_picture_header
from wdtrain.fields.resize import Size
from wdtrain.fields.sample import encode_meta
from wdtrain.packing.fit import Fit, fit_to, measured, misfit
from wdtrain.packing.plan import Plan, Settings
from wdtrain.store.limits import KEY
from wdtrain.store.shrink import Resizer


@dataclass(frozen=True)
class PackedSample:
    """A sample as it will be stored, its fields in order. members: their bytes, none in a raw
    dataset. arrays: contiguous, as a reader will get them. images: those of them that are one."""

    key: str
    members: list[bytes]
    arrays: list[np.ndarray]
    images: dict[str, np.ndarray]
    meta: bytes


def prepare(plan: Plan, index: int) -> PackedSample:
    """The sample of an index, ready to be written; FieldError with the reason to reject it."""
    check_key(key := plan.source.key(index), plan.longest_key)
    sample = plan.source.load(index)
    if sample.key != key:
        check_key(sample.key, plan.longest_key)
    members, arrays = zip(*_fitted(plan, sample), strict=True)
    meta = encode_meta(_meta(plan, sample, index))
    stored = list(zip(plan.fields, members, arrays, strict=True))
    jpegs = (len(data) for field, data, _ in stored if field.codec("image") == "jpeg")
    _check_room(sum(jpegs) + len(meta), plan)
    images = {field.name: array for field, _, array in stored if isinstance(field, ImageField)}
    return PackedSample(sample.key, list(members), list(arrays), images, meta)


def check_key(key: str, longest: int) -> None:
    """FieldError for a key that a reader of WebDataset would not give back as it is."""
    if not KEY.fullmatch(key):
        raise FieldError(
            f"key: {key!r} may hold only letters, digits, - and _ (a name in a WebDataset is cut "
            "at its first dot)"
        )
    if len(key) > longest:
        raise FieldError(f"key: {key!r} is longer than {longest} characters")


def _check_room(num_bytes: int, plan: Plan) -> None:
    if num_bytes > plan.most_free_bytes:
        raise FieldError(
            f"too large: its JPEG and JSON take {num_bytes:,} bytes, of which a reader takes "
            f"{plan.most_free_bytes:,} at this size; leave out metadata that training does not need"
        )


def _meta(plan: Plan, sample: Sample, index: int) -> dict[str, Any]:
    """What is kept of a sample; with its group, where the source has one and does not name it."""
    if plan.grouped is None or "group" in sample.meta:
        return sample.meta
    group = int(plan.grouped.groups(np.array([index], np.int64))[0])
    return sample.meta if group < 0 else {**sample.meta, "group": group}


# ---------------------------------------------------------------------------- sizes


def _fitted(plan: Plan, sample: Sample) -> Iterator[tuple[bytes, np.ndarray]]:
    """Of each field in order: its member's bytes (none in a raw dataset), and the array that a
    reader gets."""
    settings, declared = plan.settings, plan.declared
    values = _given(declared, sample)
    kept = _kept_as_they_lie(declared, values, settings)
    stored = _size_of_all(declared, values, dict.fromkeys(kept, settings.size))
    if why := misfit(stored, settings.size, is_resized=settings.resize, fit=settings.fit):
        raise FieldError(why)
    for field in declared:
        if field.name not in values:
            values[field.name] = _missing(field, stored)
    fit = fit_to(stored, settings.size, settings.fit)
    for field in plan.fields:
        value = values[field.name]
        if plan.padded and isinstance(value, np.ndarray) and field.name in plan.padded:
            value = field.cleared(value)
        data = kept.get(field.name)
        if data is None and stored == settings.size and settings.encoding == "image":
            data = field.reusable_bytes(value, settings.size)
        if data is None:
            yield _member(field, value, fit, settings)
        else:
            yield data, field.decode_member(data, "image")


def _kept_as_they_lie(
    fields: tuple[Field, ...], values: Mapping[str, Value], settings: Settings
) -> dict[str, bytes]:
    """The files that are members byte for byte, asked for before their sizes where all are to be of
    the dataset's: so a JPEG's head is read once."""
    found: dict[str, bytes] = {}
    if settings.resize or settings.encoding == "raw":
        return found
    for field in fields:
        if isinstance(value := values.get(field.name), bytes):
            data = field.reusable_bytes(value, settings.size)
            found.update({} if data is None else {field.name: data})
    return found


def _given(fields: tuple[Field, ...], sample: Sample) -> dict[str, Value]:
    """What a sample has, by field: arrays are checked."""
    values = dict(sample.arrays)
    for field in fields:
        if isinstance(value := values.get(field.name), np.ndarray):
            field.check(value)
    if others := values.keys() - {field.name for field in fields}:
        raise FieldError(
            f"not declared: {min(others)!r}, of which the source's fields know nothing"
        )
    return values


def _size_of_all(
    fields: tuple[Field, ...], values: Mapping[str, Value], known: Mapping[str, Size]
) -> Size:
    """(height, width) of a sample, all of whose fields are of one size as they are shown; known:
    of some of them, by name."""
    there = [field for field in fields if field.name in values]
    if not there:
        raise FieldError("missing all: the sample has none of its fields")
    sizes = {
        field.name: known.get(field.name) or field.size_of(values[field.name]) for field in there
    }
    first = measured(there)
    for name, size in sizes.items():
        if size != sizes[first.name]:
            raise FieldError(
                f"{name} of another size: {size}, the {first.name} is {sizes[first.name]}"
                f"{_turn_of(first, values[first.name])}"
            )
    return sizes[first.name]


def _turn_of(field: Field, value: Value) -> str:
    turn = read_picture_header(value, name=field.name).turn if isinstance(value, bytes) else 1
    return "" if turn == 1 else f" as its EXIF orientation {turn} shows it"


def _missing(field: Field, size: Size) -> np.ndarray:
    array = field.missing(*size)
    if array is None:
        raise FieldError(f"missing {field.name}: the sample has none")
    return array


def _member(field: Field, value: Value, fit: Fit, settings: Settings) -> tuple[bytes, np.ndarray]:
    """The bytes of a member that is encoded here (none in a raw dataset), and the array that a
    reader gets."""
    array = np.ascontiguousarray(_brought(field, value, fit, settings.size))
    if settings.encoding == "raw":
        return b"", array
    stored = settings.zstd_level is not None
    data = field.encode(array, "image", stored=stored, quality=settings.jpeg_quality)
    is_lossy = field.codec("image") == "jpeg"
    return data, field.decode_member(data, "image") if is_lossy else array


def _brought(field: Field, value: Value, fit: Fit, size: Size) -> np.ndarray:
    """The array of a field at the dataset's size; a larger JPEG is decoded at a fraction, unless
    only a part of it is kept."""
    array, eighths = field.pixels_of(value, fit.lies.size if fit.is_whole else fit.stored)
    if not fit.is_whole:
        array, eighths = array[fit.kept.slices], None
    array = _resized(field, array, fit.lies.size, eighths)
    if fit.lies.size == size:
        return array
    padded = np.full(field.shape(*size), field.blank, field.dtype)
    padded[fit.lies.slices] = array
    return padded


def _resized(field: Field, array: np.ndarray, size: Size, eighths: Size | None) -> np.ndarray:
    if array.shape[:2] == size and eighths in (None, (8 * size[0], 8 * size[1])):
        return array
    target = np.empty((1, *field.shape(*size)), field.dtype)
    resizer = Resizer((array.shape[0], array.shape[1]), size, eighths=eighths)
    resizer.resize(field, np.ascontiguousarray(array)[None], target)
    resized: np.ndarray = target[0]
    return resized


# ---------------------------------------------------------------------------- sums


class PixelSums:
    """Whole-number sums over pictures: pixels, and per channel values and their squares."""

    def __init__(self) -> None:
        self.pixels = 0
        self.total = [0, 0, 0]
        self.squares = [0, 0, 0]

    def add(self, picture: np.ndarray) -> None:
        """Adds uint8 [h, w, 3]. Exact: every partial sum is a whole number below 2**53."""
        self.pixels += picture.shape[0] * picture.shape[1]
        squares = cv2.multiply(picture, picture, dtype=cv2.CV_32F)
        for sums, values in ((self.total, picture), (self.squares, squares)):
            for channel, value in enumerate(cv2.sumElems(values)[:3]):
                sums[channel] += int(value)

    def merge(self, other: dict[str, Any]) -> None:
        self.pixels += other["pixels"]
        for channel in range(3):
            self.total[channel] += other["sum"][channel]
            self.squares[channel] += other["square_sum"][channel]

    def as_dict(self) -> dict[str, Any]:
        return {"pixels": self.pixels, "sum": self.total, "square_sum": self.squares}
