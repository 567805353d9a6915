"""`classes`: one class id a pixel, 0 to `classes` - 1, or `ignore` where none is known.

A person's file may be a grey or palette PNG (the indices) or `.npy`, its values brought to ids by
`map`; or a picture of colours, by `colours`. Ids beyond the classes are refused, with their name.
The surprise: ids are never averaged; a smaller picture has the id that covers most of the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wdtrain.fields.base import Field
from wdtrain.fields.resize import Size


@dataclass(frozen=True)
class ClassesField(Field):
    """classes: how many there are. names: of each, if known. bits: 8 or 16, of the stored ids; by
    default 8 where they fit. ignore: the id that counts nowhere; by default the largest there is.
    map: (first, last, id) of values of files: `first` becomes `id`, and so on to `last`; None is
    every other value. colours: ("#rrggbb", id) pairs of coloured files."""

    kind: ClassVar[str] = "classes"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {}

    classes: int = 0
    names: tuple[str, ...] = ()
    bits: int = 0
    ignore: int = -1
    map: tuple[tuple[int | None, int | None, int], ...] = ()
    colours: tuple[tuple[str, int], ...] = ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def blank(self) -> int:
        return self.ignore

    def missing(self, height: int, width: int) -> np.ndarray | None:
        """All `ignore`, where the field is optional."""
        return super().missing(height, width)

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        raise NotImplementedError

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w] ids: what is stored."""
        return array
