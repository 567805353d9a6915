"""Pictures that few programs write and many read: PNGs of every kind, JPEGs of the odd sort."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
BITS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
"""By colour type of PNG, third edition, table 8."""
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""x, y, and the steps between pixels, of each pass."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def samples_of(
    colour: int, bits: int, *, height: int = 13, width: int = 21, seed: int = 0
) -> np.ndarray:
    """uint16 [h, w, channels] of noise."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << bits, (height, width, CHANNELS[colour])).astype(np.uint16)


def png_of(
    samples: np.ndarray, colour: int, bits: int, *, laced: bool = False, **more: bytes
) -> bytes:
    """A PNG of samples [h, w, channels], its lines filtered in all five ways; more: chunks that
    stand before its data, by name."""
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(laced))
    passes = ADAM7 if laced else ((0, 0, 1, 1),)
    lines = b"".join(
        line for x, y, dx, dy in passes for line in _lines(samples[y::dy, x::dx], bits)
    )
    parts = [chunk(b"IHDR", head), *(chunk(name.encode(), body) for name, body in more.items())]
    middle = len(body := zlib.compress(lines)) // 2
    parts += [chunk(b"IDAT", body[:middle]), chunk(b"IDAT", body[middle:]), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _lines(samples: np.ndarray, bits: int) -> Iterator[bytes]:
    if samples.size == 0:
        return
    step = max(1, samples.shape[2] * bits // 8)
    above = None
    for at, row in enumerate(samples.reshape(len(samples), -1)):
        if bits == 16:
            line = row.astype(">u2").view(np.uint8)
        elif bits == 8:
            line = row.astype(np.uint8)
        else:
            line = np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8))
        line = line.astype(np.int64)
        above = np.zeros_like(line) if above is None else above
        left, corner = (
            np.concatenate([np.zeros(step, np.int64), of])[: len(of)] for of in (line, above)
        )
        guess = (np.zeros_like(line), left, above, (left + above) // 2, _paeth(left, above, corner))
        yield bytes([at % 5]) + (line - guess[at % 5]).astype(np.uint8).tobytes()
        above = line


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    base = left + above - corner
    far = [np.abs(base - one) for one in (left, above, corner)]
    of_two = np.where(far[1] <= far[2], above, corner)
    return np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, of_two)


def palette_of(count: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, 3 * count).astype(np.uint8).tobytes()


def soft(height: int = 40, width: int = 56) -> np.ndarray:
    """uint8 [h, w, 3]: colours that change slowly, as JPEG likes them."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 255 - 2 * x - y], -1).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(out, kind, **options)
    return out.getvalue()
