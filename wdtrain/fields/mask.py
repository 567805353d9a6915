"""`mask`: how much of a pixel is foreground, as alpha 0 to 255; foreground counts from 128.

A person's file may be a PNG of 1, 8 or 16 bits, a palette or RGBA, a JPEG (thresholded), `.npy` of
bool or numbers; `foreground` names the values or colours that are it. An empty mask is a mask.
The surprise: in a field that has unknown pixels (`optional`, `unknown`), alpha 1 means unknown, and
a real 1 becomes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

import numpy as np

from wdtrain.fields import resize
from wdtrain.fields.base import Field, Resizing
from wdtrain.fields.resize import Size

FOREGROUND: Final = 128
"""A stored alpha from here up is foreground."""
UNKNOWN: Final = 1
"""The alpha of an unknown pixel, in fields that have them."""
Level = int | str
"""A value of a person's mask file: a number, or a colour "#rrggbb"."""


@dataclass(frozen=True)
class MaskField(Field):
    """foreground, background, unknown: the values or colours of a person's files that mean it.
    Without `foreground` files hold alpha. partly: whether pixels may be unknown."""

    kind: ClassVar[str] = "mask"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {}

    foreground: tuple[Level, ...] = ()
    background: tuple[Level, ...] = ()
    unknown: tuple[Level, ...] = ()
    partly: bool = False

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def has_unknown(self) -> bool:
        """Whether alpha 1 means unknown."""
        return self.partly or self.optional or bool(self.unknown)

    @property
    def blank(self) -> int:
        return UNKNOWN if self.has_unknown else 0

    def padded(self) -> Self:
        return replace(self, partly=True)

    @property
    def resizing(self) -> Resizing:
        return Resizing(None if self.has_unknown else "area")

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        return resize.area(array, size)

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 [h, w] alpha: what is stored, 1 being unknown where `has_unknown`."""
        return array
