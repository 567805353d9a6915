"""JPEGs as they are stored, and decoded at a fraction of their size."""

from __future__ import annotations

import numpy as np
import simplejpeg

from wdtrain.fields import resize
from wdtrain.fields.errors import FieldError, check_pixels, decoding
from wdtrain.fields.resize import Size


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of a uint8 [h, w, 3] RGB picture, 4:2:0 chroma."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return data


def jpeg_shape(data: bytes | memoryview, *, name: str = "picture") -> Size:
    """(height, width) of a JPEG as it is stored, from its header."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise FieldError(f"{name} is not a readable JPEG ({error})") from error
    check_pixels(height, width, name=name)
    return int(height), int(width)


def decode_jpeg(
    data: bytes | memoryview,
    *,
    at_least: Size | None = None,
    name: str = "picture",
) -> np.ndarray:
    """uint8 [h, w, 3] RGB of a JPEG; `at_least` (height, width) allows DCT-scaled decoding, whose
    last row and column may lie in the picture only in part (see `resize.py`)."""
    height, width = at_least or (0, 0)
    with decoding(name):
        rgb: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, strict=True
        )
    return rgb


def decode_jpeg_scaled(
    data: bytes | memoryview, size: Size, *, name: str = "picture"
) -> tuple[np.ndarray, Size]:
    """A JPEG decoded at the fewest eighths that still cover `size` (height, width): uint8 [h, w, 3]
    RGB, and how many eighths of its pixels the picture is high and wide."""
    stored = jpeg_shape(data, name=name)
    scale = resize.jpeg_scale(stored, size)
    at_least = resize.scaled(stored, scale) if scale < resize.EIGHTHS else None
    rgb = decode_jpeg(data, at_least=at_least, name=name)
    return rgb, (stored[0] * scale, stored[1] * scale)
