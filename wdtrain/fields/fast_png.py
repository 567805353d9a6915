"""Greyscale PNGs at packing speed: the two layouts that this project itself writes.

`triple.py` reads and writes any greyscale PNG; here are the short ways through the same formats, to
the same pixels and bytes. What is not laid out exactly so, or is damaged, is left to `triple.py`.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np

from wdtrain import triple

_START: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_END: Final = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_HEADER: Final = struct.Struct(">16xIIBBBBBII4s")
_BODY_AT: Final = 41
_UP: Final = b"\x02"
_STORED_BLOCK: Final = 65535


def decode_fast_png(data: bytes, *, name: str, dtype: np.dtype) -> np.ndarray:
    """As `triple.decode_png`, half the time for a PNG of one IDAT whose lines are all filtered Up:
    zlib and one running sum, instead of a decoder's set-up."""
    pixels = _up_filtered(data, dtype)
    return triple.decode_png(data, name=name, dtype=dtype) if pixels is None else pixels


def _up_filtered(data: bytes, dtype: np.dtype) -> np.ndarray | None:
    """The pixels of a whole PNG of that layout and type; None for any other."""
    if not data.startswith(_START) or len(data) < _BODY_AT or not data.endswith(_END):
        return None
    width, height, bits, colour, packing, filtering, lacing, checksum, num_bytes, kind = (
        _HEADER.unpack_from(data)
    )
    end = _BODY_AT + num_bytes
    if (
        (bits, colour, packing, filtering, lacing) != (8 * dtype.itemsize, 0, 0, 0, 0)
        or kind != b"IDAT"
        or end + 4 + len(_END) != len(data)
        or checksum != zlib.crc32(data[12:29])
        or int.from_bytes(data[end : end + 4]) != zlib.crc32(data[37:end])
    ):
        return None
    line_bytes = 1 + width * dtype.itemsize
    if triple.png_holds_too_little(data) or height * width > triple.MOST_PIXELS:
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
    pixels = np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8)
    return pixels if dtype.itemsize == 1 else pixels.view(">u2").astype(np.uint16)


class StoredPng:
    """Writes stored PNGs of one geometry: the bytes of `triple.encode_png(stored=True)`, without
    laying out anew each time what is the same in all of them. Not shared by threads."""

    def __init__(self, height: int, width: int, dtype: np.dtype) -> None:
        self._geometry = (height, width, dtype)
        lines = np.zeros((height, 1 + width * dtype.itemsize), np.uint8)
        self._lines, self._pixels = lines, lines[:, 1:]
        self._is_one_block = lines.nbytes <= _STORED_BLOCK
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, 0, 0, 0, 0)
        block = struct.pack("<BHH", 1, *(lines.nbytes & 0xFFFF, ~lines.nbytes & 0xFFFF))
        body = b"IDAT\x78\x01" + block
        num_bytes = len(body) - 4 + lines.nbytes + 4
        self._body_checksum = zlib.crc32(body)
        checksum = struct.pack(">I", zlib.crc32(header))
        self._start = _START[:12] + header + checksum + struct.pack(">I", num_bytes) + body

    def encode(self, gray: np.ndarray) -> bytes:
        """The PNG of an array [height, width] of this geometry."""
        if (*gray.shape, gray.dtype) != self._geometry or not self._is_one_block:
            return triple.encode_png(gray, stored=True)
        self._pixels[:] = gray if gray.itemsize == 1 else gray.astype(">u2").view(np.uint8)
        data = self._lines.tobytes()
        adler = struct.pack(">I", zlib.adler32(data))
        checksum = zlib.crc32(adler, zlib.crc32(data, self._body_checksum))
        return b"".join((self._start, data, adler, struct.pack(">I", checksum), _END))
