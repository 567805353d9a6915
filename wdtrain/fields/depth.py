"""`depth`: how far away each pixel is, as 8- or 16-bit codes of a declared format; 0 is unknown.

A person's file may be a PNG of 8 or 16 bits, a JPEG, or floats (`.npy`, `.npz`, PFM, TIFF); `unit`,
`scale` and `shift` say what its numbers are. What is not above 0 or not finite is unknown.
The surprise: a depth is never averaged: between a figure and its wall lies the depth of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from wdtrain.fields import resize
from wdtrain.fields.base import Field, Resizing
from wdtrain.fields.resize import Size
from wdtrain.triple import DepthFormat

Unit = Literal["m", "cm", "mm", "relative", "inverse", "codes"]
__all__ = ["DepthField", "DepthFormat", "Unit"]
_FORMAT: Final = DepthFormat(bits=16)


@dataclass(frozen=True)
class DepthField(Field):
    """format: what is stored. unit, scale: of the values of files (metres = value / scale; inverse:
    metres = scale / value). shift: bits by which 16-bit values are turned (SUN RGB-D: 3)."""

    kind: ClassVar[str] = "depth"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {}

    format: DepthFormat = _FORMAT
    unit: Unit | None = None
    scale: float | None = None
    shift: int = 0

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

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, array: np.ndarray) -> np.ndarray:
        """float32 [h, w] in metres (logarithmic formats) or unit values 0..1; unknown is NaN."""
        return self.format.decode(array)

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def declared(cls, name: str, options: Mapping[str, str]) -> Self:
        """Options unit, scale, shift; near, far (metres), bits, format (the kind) of what is
        stored."""
        raise NotImplementedError
