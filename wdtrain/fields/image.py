"""`image`: a colour picture, stored as a JPEG, or as a PNG where `lossless` asks for it.

A person's file may be JPEG, PNG, WebP, TIFF or BMP, of any bit depth and colour model, turned by
EXIF: it is brought to 8-bit RGB as Pillow reads it. What is transparent is refused unless `over`
names the colour behind it. A JPEG of the right size that needs no turn is stored as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from wdtrain.fields import levels, pictures, resize
from wdtrain.fields.base import Codec, Encoding, Field, Resizing, Value, flag
from wdtrain.fields.errors import AmbiguousError, FieldError, check_pixels, shown
from wdtrain.fields.jpeg import decode_jpeg, decode_jpeg_scaled, encode_jpeg, jpeg_shape
from wdtrain.fields.labels import is_colour
from wdtrain.fields.resize import Size

_SHAPES: Final = ((), (1,), (3,), (4,))
"""What may follow height and width in the shape of an array of a picture."""


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
            raise FieldError(
                f"field {self.name}: lossless is {shown(self.lossless)}; it is yes or no"
            )
        if self.over is not None and not is_colour(self.over):
            raise FieldError(
                f"field {self.name}: over is {shown(self.over)}; it is a colour #rrggbb in hex "
                "digits"
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
            return encode_jpeg(array, quality)
        return super().encode(array, encoding, stored=stored)

    def stored_shape(self, data: bytes | memoryview, encoding: Encoding) -> Size:
        if self.codec(encoding) == "jpeg":
            return jpeg_shape(data, name=self.name)
        return super().stored_shape(data, encoding)

    def decode_member(
        self, data: bytes | memoryview, encoding: Encoding, *, size: Size | None = None
    ) -> np.ndarray:
        if self.codec(encoding) != "jpeg":
            return super().decode_member(data, encoding, size=size)
        if size is None:
            return decode_jpeg(data, name=self.name)
        rgb, eighths = decode_jpeg_scaled(data, size, name=self.name)
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
        if not isinstance(value, bytes):
            return value, None
        head = pictures.read_picture_header(value, name=self.name)
        if size is None or head.turn != 1 or head.channels > self.channels:
            return self.from_picture(value, file=self.name), None
        plain = pictures.plain_jpeg(value, name=self.name)
        return decode_jpeg_scaled(plain, size, name=self.name)

    def reusable_bytes(self, value: Value, size: Size) -> bytes | None:
        """A JPEG of this size that needs no turn, less its EXIF and what lies behind its end."""
        if not isinstance(value, bytes) or self.lossless:
            return None
        head = pictures.read_picture_header(value, name=self.name)
        fits = head.shown == size and head.turn == 1 and head.channels == self.channels
        return pictures.plain_jpeg(value, name=self.name) if fits else None

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in _SHAPES:
            raise FieldError(
                f"{file} is an array of {array.dtype} {list(array.shape)}; a picture is uint8 "
                "[h, w, 3] RGB; convert it"
            )
        check_pixels(*array.shape[:2], name=file)
        if array.shape[2:] in ((), (1,)):
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, 2)
        alpha = array[..., 3] if array.shape[2] == 4 else None
        return self._opaque(np.ascontiguousarray(array[..., :3]), alpha, file)

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        found = levels.read(data, file=file)
        return self._opaque(found.colours(file=file), found.alpha_bytes(), file)

    def _opaque(self, rgb: np.ndarray, alpha: np.ndarray | None, file: str) -> np.ndarray:
        """RGB over the declared colour, each channel rounded."""
        if alpha is None or (alpha == 255).all():
            return rgb
        if self.over is None:
            raise AmbiguousError(
                f"{file} is transparent in parts, and what stands behind it is not said",
                {
                    "over=#ffffff": "over white",
                    "over=#000000": "over black, or any other colour",
                },
                name=self.name,
                kind=self.kind,
            )
        behind = np.frombuffer(bytes.fromhex(self.over[1:]), np.uint8)
        share = alpha[..., None].astype(np.uint32)
        blended = (rgb * share + behind * (255 - share) + 127) // 255
        return blended.astype(np.uint8)

    def load(self, data: bytes, *, file: str) -> Value:
        """A JPEG's bytes as they lie, but of inks; else as `read`."""
        if (
            data.startswith(b"\xff\xd8")
            and pictures.read_picture_header(data, name=file).channels <= 3
        ):
            return data
        return self.read(data, file=file)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] RGB: what is stored."""
        return array
