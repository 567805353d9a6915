"""PNGs as they are stored: greyscale or RGB of 8 or 16 bits, laid out in two ways.

Owns both layouts (PNG specification, third edition, W3C): for inside zstd *stored* (zlib level 0,
filter 0), so that zstd compresses across samples and a reader slices pixels out without a decoder;
else filtered Up, zlib level 6. Whatever else is a greyscale or RGB PNG is decoded too.
The surprise: a decoder of others is called only for what is laid out in neither way.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from threading import get_ident
from typing import Final

import cv2
import numpy as np

from wdtrain.fields.errors import MOST_PIXELS, FieldError, check_pixels, decoding
from wdtrain.fields.resize import Size

_DEFLATE_MOST: Final = 1032
"""Times that deflated bytes may grow, at most (zlib's own figure)."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_START: Final = _SIGNATURE + b"\0\0\0\rIHDR"
_END: Final = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_HEADER: Final = struct.Struct(">16xIIBBBBBII4s")
_HEADER_BYTES: Final = 33
_BODY_AT: Final = 41
_UP: Final = b"\x02"
_ZLIB_STORED_HEADER: Final = b"\x78\x01"
_STORED_BLOCK: Final = 65535
_COLOUR_TYPES: Final = {1: 0, 3: 2}
"""By channels: greyscale, RGB."""
_VALUES: Final = {2: 3, 4: 2, 6: 4}
"""A pixel, by colour type; else 1."""
_TYPE_NAMES: Final = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale+alpha", 6: "RGBA"}


# ---------------------------------------------------------------------------- writing


def encode_png(pixels: np.ndarray, *, stored: bool = False) -> bytes:
    """The PNG of a uint8 or uint16 [h, w] or [h, w, 3] RGB array; `stored`: zlib level 0, filter 0,
    for inside zstd. Otherwise filter Up and zlib level 6."""
    height, width = pixels.shape[:2]
    bits, colour = pixels.dtype.itemsize * 8, _COLOUR_TYPES[_channels_of(pixels)]
    rows = _as_bytes(pixels).reshape(height, -1)
    lines = np.zeros((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 1:] = rows
    if not stored:
        lines[:, 0] = 2
        lines[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = _zlib_stored(lines.tobytes()) if stored else zlib.compress(lines.tobytes(), 6)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _channels_of(pixels: np.ndarray) -> int:
    return 1 if pixels.ndim == 2 else int(pixels.shape[2])


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, ...]: samples as PNG has them, the larger byte first."""
    pixels = np.ascontiguousarray(pixels)
    return pixels if pixels.itemsize == 1 else pixels.astype(">u2").view(np.uint8)


def _zlib_stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, 1951), laid out by us so that it can be sliced."""
    blocks = [_ZLIB_STORED_HEADER]
    for start in range(0, max(len(data), 1), _STORED_BLOCK):
        part = data[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(data)
        blocks += [struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF), part]
    return b"".join([*blocks, struct.pack(">I", zlib.adler32(data))])


def stored_png_size(height: int, width: int, bits: int, channels: int = 1) -> int:
    """Bytes of a stored PNG of this geometry: exact, from the format."""
    line_bytes = height * (1 + width * channels * bits // 8)
    return 8 + 25 + (12 + 2 + 5 * max(1, -(-line_bytes // _STORED_BLOCK)) + line_bytes + 4) + 12


class StoredPng:
    """Writes stored PNGs of one geometry: the bytes of `encode_png(stored=True)`, without laying
    out anew each time what is the same in all of them. Not shared by threads."""

    def __init__(self, height: int, width: int, dtype: np.dtype, channels: int = 1) -> None:
        self._shape = (height, width) if channels == 1 else (height, width, channels)
        self._dtype = dtype
        lines = np.zeros((height, 1 + width * channels * dtype.itemsize), np.uint8)
        self._lines, self._pixels = lines, lines[:, 1:]
        self._is_one_block = lines.nbytes <= _STORED_BLOCK
        bits, colour = 8 * dtype.itemsize, _COLOUR_TYPES[channels]
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
        block = struct.pack("<BHH", 1, *(lines.nbytes & 0xFFFF, ~lines.nbytes & 0xFFFF))
        body = b"IDAT" + _ZLIB_STORED_HEADER + block
        num_bytes = len(body) - 4 + lines.nbytes + 4
        self._body_checksum = zlib.crc32(body)
        checksum = struct.pack(">I", zlib.crc32(header))
        self._start = _START[:12] + header + checksum + struct.pack(">I", num_bytes) + body

    def encode(self, pixels: np.ndarray) -> bytes:
        """The PNG of an array of this geometry."""
        if (pixels.shape, pixels.dtype) != (self._shape, self._dtype) or not self._is_one_block:
            return encode_png(pixels, stored=True)
        self._pixels[:] = _as_bytes(pixels).reshape(len(pixels), -1)
        data = self._lines.tobytes()
        adler = struct.pack(">I", zlib.adler32(data))
        checksum = zlib.crc32(adler, zlib.crc32(data, self._body_checksum))
        return b"".join((self._start, data, adler, struct.pack(">I", checksum), _END))


@lru_cache(maxsize=32)
def _writer(height: int, width: int, dtype: np.dtype, channels: int, thread: int) -> StoredPng:
    return StoredPng(height, width, dtype, channels)


def encode_stored_png(pixels: np.ndarray) -> bytes:
    """As `encode_png(stored=True)`, a third of the time from the second of a geometry on."""
    height, width = pixels.shape[:2]
    return _writer(height, width, pixels.dtype, _channels_of(pixels), get_ident()).encode(pixels)


# ---------------------------------------------------------------------------- reading


def png_shape(data: bytes | memoryview, *, name: str) -> Size:
    """(height, width) of a PNG, from its header, before anything is decoded or made room for."""
    head = bytes(data[:_HEADER_BYTES])
    if len(head) < _HEADER_BYTES or not head.startswith(_START):
        raise FieldError(f"{name} is not a PNG")
    width, height = struct.unpack_from(">II", head, 16)
    return height, width


def png_holds_too_little(data: bytes) -> bool:
    """Whether a PNG's bytes are fewer than its pixels can have been deflated to."""
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    line_bytes = 1 + width * bits * _VALUES.get(colour, 1) // 8
    return bool(height * line_bytes > _DEFLATE_MOST * len(data))


def decode_png(
    data: bytes | memoryview, *, name: str, dtype: np.dtype, channels: int = 1
) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, 3] RGB of a PNG of exactly this dtype and these channels.

    A palette or alpha picture, or one of another depth or colour, is refused by `name`: converting
    it silently would change what its values mean.
    """
    data = bytes(data)
    height, width = png_shape(data, name=name)
    bits, colour = data[24], data[25]
    wanted = 8 * dtype.itemsize, _COLOUR_TYPES[channels]
    if (bits, colour) != wanted:
        raise FieldError(
            f"{name} is a {bits}-bit {_TYPE_NAMES.get(colour, 'unknown')} PNG; "
            f"{wanted[0]}-bit {_TYPE_NAMES[wanted[1]]} is needed; convert it"
        )
    check_pixels(height, width, name=name)
    pixels = _stored_pixels(data, channels)
    if pixels is not None:
        return pixels
    if png_holds_too_little(data):
        raise FieldError(
            f"{name} is damaged: its {len(data):,} bytes cannot hold {width:,} x {height:,} pixels"
        )
    with decoding(name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or _channels_of(pixels) != channels or pixels.dtype != dtype:
        raise FieldError(f"{name} cannot be decoded: the PNG is damaged")
    return pixels if channels == 1 else np.ascontiguousarray(pixels[..., ::-1])


def _stored_pixels(data: bytes, channels: int) -> np.ndarray | None:
    """The pixels of a stored, unfiltered PNG, sliced out; None for any other PNG."""
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    line = 1 + width * channels * bits // 8
    if (
        len(data) != stored_png_size(height, width, bits, channels)
        or data[37:43] != b"IDAT" + _ZLIB_STORED_HEADER
    ):
        return None
    parts, at, left = [], 43, height * line
    while left > 0:
        count = min(left, _STORED_BLOCK)
        if struct.unpack_from("<H", data, at + 1)[0] != count:
            return None
        parts.append(data[at + 5 : at + 5 + count])
        at, left = at + 5 + count, left - count
    lines = np.frombuffer(b"".join(parts), np.uint8).reshape(height, line)
    if lines[:, 0].any():
        return None
    return _samples(np.ascontiguousarray(lines[:, 1:]), bits, channels)


def _samples(rows: np.ndarray, bits: int, channels: int) -> np.ndarray:
    """Pixels of the bytes of unfiltered lines."""
    pixels = rows if bits == 8 else rows.view(">u2").astype(np.uint16)
    return pixels if channels == 1 else pixels.reshape(len(rows), -1, channels)


def decode_fast_png(data: bytes, *, name: str, dtype: np.dtype, channels: int = 1) -> np.ndarray:
    """As `decode_png`, half the time for a PNG of one IDAT whose lines are all filtered Up: zlib
    and one running sum, instead of a decoder's set-up. What is not laid out exactly so, or is
    damaged, is left to `decode_png`."""
    pixels = up_filtered(data, dtype, channels)
    if pixels is not None:
        return pixels
    return decode_png(data, name=name, dtype=dtype, channels=channels)


def up_filtered(data: bytes, dtype: np.dtype, channels: int = 1) -> np.ndarray | None:
    """The pixels of a whole PNG of that layout and type; None for any other."""
    if not data.startswith(_START) or len(data) < _BODY_AT or not data.endswith(_END):
        return None
    width, height, bits, colour, packing, filtering, lacing, checksum, num_bytes, kind = (
        _HEADER.unpack_from(data)
    )
    end = _BODY_AT + num_bytes
    if (
        (bits, colour) != (8 * dtype.itemsize, _COLOUR_TYPES[channels])
        or (packing, filtering, lacing) != (0, 0, 0)
        or kind != b"IDAT"
        or end + 4 + len(_END) != len(data)
        or checksum != zlib.crc32(data[12:29])
        or int.from_bytes(data[end : end + 4]) != zlib.crc32(data[37:end])
    ):
        return None
    line_bytes = 1 + width * channels * dtype.itemsize
    if png_holds_too_little(data) or height * width > MOST_PIXELS:
        return None
    stream = zlib.decompressobj()
    try:
        lines = stream.decompress(data[_BODY_AT:end], height * line_bytes + 1)
    except zlib.error:
        return None
    if not stream.eof or len(lines) != height * line_bytes or stream.unused_data:
        return None
    if lines[::line_bytes].count(_UP) != height:
        return None
    rows = np.frombuffer(lines, np.uint8).reshape(height, line_bytes)
    return _samples(np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8), bits, channels)
