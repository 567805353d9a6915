"""`image`: a colour picture, stored as a JPEG, or as a PNG where `lossless` asks for it.

A person's file may be JPEG, PNG, WebP, TIFF or BMP, of any bit depth and colour model, turned by
EXIF: it is brought to 8-bit RGB as Pillow reads it. What is transparent is refused unless `over`
names the colour behind it. A JPEG of the right size that needs no turn is stored as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from wdtrain import pictures
from wdtrain.fields import jpeg, resize
from wdtrain.fields.base import Codec, Encoding, Field, Resizing, Value, flag
from wdtrain.fields.errors import FieldError
from wdtrain.fields.resize import Size

_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class ImageField(Field):
    """lossless: stored as PNG. over: the colour "#rrggbb" behind what is transparent."""

    kind: ClassVar[str] = "image"
    channels: ClassVar[int] = 3
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {"lossless": flag, "over": str.lower}

    lossless: bool = False
    over: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optional:
            raise FieldError(f"field {self.name}: an image cannot be optional: it is what is seen")
        if not isinstance(self.lossless, bool):
            raise FieldError(f"field {self.name}: lossless is {self.lossless!r}; it is yes or no")
        if self.over is not None and not _COLOUR.fullmatch(str(self.over)):
            raise FieldError(
                f"field {self.name}: over is {self.over!r}; it is a colour #rrggbb in hex digits"
            )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def blank(self) -> int:
        return 0

    def codec(self, encoding: Encoding) -> Codec:
        return "jpeg" if encoding == "image" and not self.lossless else super().codec(encoding)

    def encode(
        self, array: np.ndarray, encoding: Encoding, *, stored: bool = False, quality: int = 90
    ) -> bytes:
        if self.codec(encoding) == "jpeg":
            return jpeg.encode(array, quality)
        return super().encode(array, encoding, stored=stored)

    def stored_shape(self, data: bytes | memoryview, encoding: Encoding) -> Size:
        if self.codec(encoding) == "jpeg":
            return jpeg.shape(data)
        return super().stored_shape(data, encoding)

    def decode_member(
        self, data: bytes | memoryview, encoding: Encoding, *, size: Size | None = None
    ) -> np.ndarray:
        if self.codec(encoding) != "jpeg":
            return super().decode_member(data, encoding, size=size)
        if size is None:
            return jpeg.decode(data, name=self.name)
        rgb, eighths = jpeg.decode_scaled(data, size)
        return resize.area(rgb, size, eighths=eighths)

    @property
    def resizing(self) -> Resizing:
        return Resizing("area")

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        return resize.area(array, size)

    def size_of(self, value: Value) -> Size:
        if isinstance(value, bytes):
            return pictures.read_picture_header(value, name=self.name).shown
        return super().size_of(value)

    def pixels_of(self, value: Value, size: Size | None = None) -> tuple[np.ndarray, Size | None]:
        raise NotImplementedError

    def as_it_lies(self, value: Value, size: Size) -> bytes | None:
        raise NotImplementedError

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def load(self, data: bytes, *, file: str) -> Value:
        """A JPEG's bytes as they lie, where it is to be stored as one."""
        raise NotImplementedError

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] RGB: what is stored."""
        return array
