"""`depth`: how far away each pixel is, as 8- or 16-bit codes of a declared format; 0 is unknown.

A person's file may be a PNG of 8 or 16 bits, a JPEG, or floats (`.npy`, `.npz`, EXR, PFM, TIFF);
`unit`, `scale` and `shift` say what its numbers are. What is not above 0 or not finite is unknown.
The surprise: a depth is never averaged: between a figure and its wall lies the depth of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, Self, get_args

import cv2
import numpy as np

from wdtrain.fields import labels, levels, resize
from wdtrain.fields.base import Field, Resizing, option_text, plane
from wdtrain.fields.depth_format import DepthFormat, DepthKind
from wdtrain.fields.errors import AmbiguousError, FieldError, shown
from wdtrain.fields.resize import Size

Unit = Literal["m", "cm", "mm", "relative", "inverse", "codes"]

UNITS: Final = get_args(Unit)
PER_METRE: Final = {"mm": 1000.0, "cm": 100.0, "m": 1.0}
"""Values a metre, by the unit."""
_FORMAT: Final = DepthFormat(bits=16)
_FORMAT_OPTIONS: Final = {"format": "kind", "near": "near_m", "far": "far_m", "bits": "bits"}
_TABLED: Final = (np.dtype(np.uint8), np.dtype(np.uint16))
_MOST_BEYOND: Final = 0.5
_UNKNOWN_GREY: Final = 128
_MOST_OF_IT: Final = 95
_SPARSE: Final = 0.5
_MOST_MILLIMETRES: Final = (8_000, 12_000)
"""Sensors that write millimetres are of rooms: where more than 5 % of what is known is farther,
values of 16 bits are likelier KITTI's (47 m); a laser leaves most of the pixels unknown, too, and
then 31 m are enough."""
_MOST_UNIT: Final = 1 + 1e-3
"""A relative depth that exceeds 1 by rounding is taken for 1."""


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError("a number is needed") from error


@dataclass(frozen=True)
class DepthField(Field):
    """format: what is stored. unit: of the values of files; None: not declared. scale: metres are
    value / scale; of an inverse depth that is stored in metres, scale / value; of a relative or
    inverse one that is not, the value that becomes 1. shift: bits by which values of 16 bits are
    turned to the right (SUN RGB-D: 3)."""

    kind: ClassVar[str] = "depth"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "unit": str,
        "scale": _read_number,
        "shift": labels.read_number,
        "near": _read_number,
        "far": _read_number,
        "bits": labels.read_number,
        "format": str,
    }

    format: DepthFormat = _FORMAT
    unit: Unit | None = None
    scale: float | None = None
    shift: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.format, DepthFormat):
            raise FieldError(
                f"field {self.name}: format is {shown(self.format)}; an object is needed"
            )
        if self.unit is not None and self.unit not in UNITS:
            raise FieldError(
                f"field {self.name}: unit is {shown(self.unit)}; it is one of {', '.join(UNITS)}"
            )
        if self.scale is not None and not _is_positive(self.scale):
            raise FieldError(f"field {self.name}: scale is {shown(self.scale)}; it is above 0")
        if not labels.is_number(self.shift) or not 0 <= self.shift < 16:
            raise FieldError(f"field {self.name}: shift is {shown(self.shift)}; it is 0 to 15 bits")
        if self.unit in ("cm", "mm", "codes") and self.scale is not None:
            raise FieldError(f"field {self.name}: unit and scale are declared; keep one")
        if self.unit != "codes" and self._stores_metres != self.format.is_logarithmic:
            self._refuse_format()
        keeps_unit = self.unit in ("relative", "inverse") and not self._stores_metres
        if keeps_unit and self.format.kind != self.unit:
            self._refuse_format()

    def _refuse_format(self) -> None:
        meaning = f"{self.unit} depth" if self.unit in ("relative", "inverse") else "metres"
        raise FieldError(
            f"field {self.name}: its files hold {meaning}, and its format is {self.format.kind}; "
            "metric and geometric formats store metres, inverse and relative ones what they are "
            "called"
        )

    @property
    def _stores_metres(self) -> bool:
        """Whether values are converted to metres."""
        if self.unit is None and self.scale is None:
            return self.format.is_logarithmic
        return self.unit not in ("relative", "inverse") or (
            self.unit == "inverse" and self.format.is_logarithmic
        )

    @property
    def dtype(self) -> np.dtype:
        return self.format.dtype

    @property
    def blank(self) -> int:
        return 0

    @property
    def resizing(self) -> Resizing:
        return Resizing("median", self.format.larger_is_nearer)

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        return resize.median(array, size, larger_is_nearer=self.format.larger_is_nearer)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """float32 [h, w] in metres (logarithmic formats) or unit values 0..1; unknown is NaN."""
        return self.format.decode(array)

    def preview(self, array: np.ndarray) -> np.ndarray:
        """Near bright, far dark; what is unknown in grey."""
        unit = np.clip(self.format.to_unit(array.astype(np.float32)), 0, 1)
        near = unit if self.format.larger_is_nearer else 1 - unit
        bgr = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        bgr[array == 0] = _UNKNOWN_GREY
        return np.ascontiguousarray(bgr[..., ::-1])

    # ------------------------------------------------------------------ a person's files

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        values = plane(array, file=file)
        if values.dtype == bool:
            raise FieldError(f"{file} holds yes and no; a depth is a number")
        full = int(np.iinfo(values.dtype).max) if values.dtype in (np.uint8, np.uint16) else 0
        return self._codes(values, full, file)

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        found = levels.read(data, file=file)
        if not found.is_opaque:
            raise FieldError(
                f"{file} is transparent in parts, and nothing says how far that is; save the depth "
                "without transparency, 0 where it is unknown"
            )
        greys = found.greys()
        if greys is None:
            raise FieldError(
                f"{file} is a picture of colours, and a depth that was coloured cannot be turned "
                "back; save it in grey, or as .npy"
            )
        return self._codes(greys.values, greys.full, file)

    def _codes(self, values: np.ndarray, full: int, file: str) -> np.ndarray:
        """Codes of the values of a file; full: their largest, 0 where that is not known."""
        if self.unit is None and self.scale is None:
            raise self._ambiguous(values, full, file)
        if self.shift:
            values = self._turned(values, full, file)
        if self.unit == "codes":
            return self._as_they_are(values, full, file)
        if values.dtype in _TABLED:
            codes, beyond = _tables(self, values.dtype.str, full)
            self._check_limits(values, beyond[values], file)
            return np.ascontiguousarray(codes[values])
        if not self._stores_metres:
            self._check_unit(values, file)
        meant = self._meant(values, full)
        self._check_limits(meant, self._is_beyond(meant), file)
        return self.format.encode(meant)

    def _meant(self, values: np.ndarray, full: int) -> np.ndarray:
        """float64 metres or unit values of the values of files; NaN is unknown."""
        values = values.astype(np.float64)
        safe = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        if not self._stores_metres:
            return safe / (self.scale or full or 1.0)
        if self.unit == "inverse":
            return (self.scale or 1.0) / safe
        return safe / (self.scale or PER_METRE[self.unit or "m"])

    def _is_beyond(self, metres: np.ndarray) -> np.ndarray:
        """Where known metres are not between the limits of the format."""
        if not self._stores_metres:
            return np.zeros(metres.shape, bool)
        return (metres < self.format.near_m) | (metres > self.format.far_m)

    def _check_unit(self, values: np.ndarray, file: str) -> None:
        """FieldError for floats of relative or inverse depth that exceed what becomes 1."""
        largest = np.max(values, initial=0, where=np.isfinite(values))
        scale = self.scale or 1.0
        if largest > scale * _MOST_UNIT:
            raise FieldError(
                f"{file} has {self.unit} depths of up to {largest:.6g}, and the largest is to be "
                f"{scale:.6g}; declare which value of all files becomes 1: --field "
                f"'{self.name}=depth:PATTERN,unit={self.unit},scale={largest:.6g}'"
            )

    def _turned(self, values: np.ndarray, full: int, file: str) -> np.ndarray:
        if full != 65535:
            raise FieldError(
                f"{file} is of {values.dtype}; shift is of values of 16 bits: leave it out"
            )
        return values >> self.shift | (values << (16 - self.shift)).astype(np.uint16)

    def _as_they_are(self, values: np.ndarray, full: int, file: str) -> np.ndarray:
        if full != self.format.max_code:
            found = f"{full.bit_length()} bits" if full else str(values.dtype)
            raise FieldError(
                f"{file} is of {found}, and the codes of its format have {self.format.bits} bits; "
                "declare bits=8 or bits=16 as they are, or another unit"
            )
        return np.ascontiguousarray(values, self.dtype)

    def _check_limits(self, values: np.ndarray, beyond: np.ndarray, file: str) -> None:
        """FieldError where most of what is known lies beyond the limits of the format."""
        known = np.isfinite(values) & (values > 0)
        if np.count_nonzero(beyond) <= _MOST_BEYOND * np.count_nonzero(known):
            return
        is_raw = values.dtype in _TABLED
        metres = self._meant(values[known], 0) if is_raw else values[known]
        near, far = self.format.near_m, self.format.far_m
        raise FieldError(
            f"{file}: depth beyond its limits: most of it is {metres.min():.4g} to "
            f"{metres.max():.4g} m, and {near:g} to {far:g} m are kept; declare its unit or scale, "
            "or near= and far= (metres), as they are"
        )

    def _ambiguous(self, values: np.ndarray, full: int, file: str) -> AmbiguousError:
        """Of a depth of which neither unit nor scale is declared."""
        known = values[np.isfinite(values) & (values > 0)]
        span = f"{known.min():.6g} to {known.max():.6g}" if known.size else "no known depth"
        if full == 65535:
            what = "a picture of 16 bits"
            choices = _choices_of_16_bits(known, known.size / max(1, values.size))
        elif full:
            what = "a picture of 8 bits"
            choices = {
                "unit=relative": "brighter is farther, and no more is known",
                "unit=inverse": "brighter is nearer",
                "unit=codes,bits=8": "codes of this project, logarithmic; format, near, far",
            }
        else:
            what = f"an array of {values.dtype}"
            choices = {
                "unit=m": "values are metres (mm: millimetres)",
                "unit=inverse": "larger is nearer; scale= is what becomes 1",
                "unit=inverse,format=metric,scale=1": "metres are scale / value: a disparity",
            }
        return AmbiguousError(
            f"{file} is {what} with values of {span}, and nothing says in which unit",
            choices,
            name=self.name,
            kind=self.kind,
        )

    # ------------------------------------------------------------------ the declaration

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Self:
        if isinstance(values, Mapping) and "format" in values:
            values = {**values, "format": format_of(name, values["format"])}
        return super().from_dict(name, values)

    def typed(self) -> dict[str, str]:
        """near and far wherever they mean something, format and bits where they are not usual."""
        kept, usual = self.format, replace(_FORMAT, kind=_kind_stored(self.unit))
        found = super().typed()
        found.pop("format", None)
        if kept.kind != usual.kind:
            found["format"] = kept.kind
        if kept.is_logarithmic:
            found |= {"near": option_text(kept.near_m), "far": option_text(kept.far_m)}
        if kept.bits != usual.bits:
            found["bits"] = str(kept.bits)
        return found

    @classmethod
    def declared(cls, name: str, options: Mapping[str, str]) -> Self:
        """Of what is stored: format (its kind; by default that of the unit), near, far and bits."""
        found = cls.read_options(name, options)
        words = {
            word: found.pop(option) for option, word in _FORMAT_OPTIONS.items() if option in found
        }
        stored = {**_FORMAT.as_dict(), "kind": _kind_stored(found.get("unit")), **words}
        return cls(name, format=format_of(name, stored), **found)


def _kind_stored(unit: Unit | None) -> DepthKind:
    """How a depth of this unit is stored, unless it is said otherwise."""
    return unit if unit == "relative" or unit == "inverse" else _FORMAT.kind


def _choices_of_16_bits(known: np.ndarray, share: float) -> dict[str, str]:
    """What depths of 16 bits may be, the likelier first, with the metres that each would give.
    share: of the pixels whose depth is known."""

    def span(per_metre: float) -> str:
        low, high = known.min(initial=65535) / per_metre, known.max(initial=0) / per_metre
        return f"{low:.3g} to {high:.3g} m" if known.size else "nothing is known"

    millimetres = {"unit=mm": f"values are millimetres: {span(1000)}"}
    kitti = {"scale=256": f"values / 256 are metres, as KITTI has it: {span(256)}"}
    most = _MOST_MILLIMETRES[share > _SPARSE]
    is_far = bool(known.size) and np.percentile(known, _MOST_OF_IT) > most
    return {
        **(kitti if is_far else millimetres),
        **(millimetres if is_far else kitti),
        "scale=5000": f"values / 5000 are metres, as TUM has it: {span(5000)}",
        "unit=codes": "codes of this project, logarithmic; format, near, far as they are",
    }


@lru_cache(maxsize=16)
def _tables(field: DepthField, dtype: str, full: int) -> tuple[np.ndarray, np.ndarray]:
    """The code of each value of uint8 or uint16, and whether it lies beyond the limits: a logarithm
    of each value is taken once, not one of each pixel."""
    meant = field._meant(np.arange(np.iinfo(dtype).max + 1), full)
    return field.format.encode(meant), field._is_beyond(meant)


def format_of(name: str, values: object) -> DepthFormat:
    """The format that a manifest or options describe. FieldError names the field."""
    if isinstance(values, DepthFormat):
        return values
    known = _FORMAT.as_dict()
    if not isinstance(values, Mapping) or set(values) != set(known):
        raise FieldError(
            f"field {name}: format is {shown(values)}; it has {', '.join(known)} and nothing else"
        )
    for word in ("near_m", "far_m"):
        if not _is_positive(values[word]):
            raise FieldError(
                f"field {name}: {word} is {shown(values[word])}; it is metres, above 0"
            )
    if not isinstance(values["kind"], str) or not labels.is_number(values["bits"]):
        raise FieldError(f"field {name}: kind is a word and bits a number, not {shown(values)}")
    try:
        return DepthFormat(**values)
    except FieldError as error:
        raise FieldError(f"field {name}: {error}") from error


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
