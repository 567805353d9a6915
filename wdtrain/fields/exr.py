"""OpenEXR files of one picture by lines: a depth, as renderers write it.

Owns as much of the format (OpenEXR file layout, Academy Software Foundation) as such files need:
one part, scan lines, no compression, run lengths or zlib. Whatever else there is (tiles, deep or
several parts, lossy or wavelet compression) is refused with what to do.
The surprise: compressed lines are split into their even and their odd bytes, each a difference.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from wdtrain.fields.errors import FieldError, check_pixels, shown

EXR_MAGIC: Final = b"v/1\x01"
_TYPES: Final[dict[int, np.dtype]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_NONE, _RLE, _ZIPS, _ZIP = 0, 1, 2, 3
_LINES: Final = {_NONE: 1, _RLE: 1, _ZIPS: 1, _ZIP: 16}
"""Of a block, by the compression."""
_NAMES: Final = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_NOT_PLAIN: Final = 0x1A00
"""Flags of the version: tiles, deep data, several parts."""
_DEPTH: Final = re.compile(r"(.*\.)?(z|depth(\.[a-z])?)", re.IGNORECASE)
_ADVICE: Final = "save its depth as .npy (float32)"


class _Channel(NamedTuple):
    name: str
    dtype: np.dtype


class _Header(NamedTuple):
    channels: list[_Channel]
    compression: int
    height: int
    width: int
    top: int
    body: int
    """Where the table of offsets begins."""


def read_exr(data: bytes, *, file: str) -> np.ndarray:
    """float32 or uint32 [h, w] of the depth in an OpenEXR file: its only channel, the one that is
    called Z or depth, or the colours, where all are the same. FieldError names the file."""
    try:
        header = _read_header(data, file)
        lines = _lines_of(header, data, file)
        return _depth_of(header, lines, file)
    except (struct.error, ValueError, IndexError, zlib.error) as error:
        if isinstance(error, FieldError):
            raise
        raise FieldError(f"{file} cannot be decoded: the OpenEXR file is damaged") from error


def _read_header(data: bytes, file: str) -> _Header:
    (version,) = struct.unpack_from("<I", data, 4)
    if version & _NOT_PLAIN or version & 0xFF != 2:
        raise FieldError(
            f"{file} is an OpenEXR file of tiles, of deep data or of several parts, which are not "
            f"read here; {_ADVICE}"
        )
    found, at = {}, 8
    while data[at] != 0:
        name, at = _text(data, at)
        _, at = _text(data, at)
        (num_bytes,) = struct.unpack_from("<I", data, at)
        found[name] = data[at + 4 : at + 4 + num_bytes]
        at += 4 + num_bytes
    if not {"channels", "compression", "dataWindow"} <= set(found):
        raise ValueError("no picture")
    left, top, right, bottom = struct.unpack("<4i", found["dataWindow"])
    height, width = bottom - top + 1, right - left + 1
    check_pixels(height, width, name=file)
    if found.get("displayWindow", found["dataWindow"]) != found["dataWindow"]:
        raise FieldError(
            f"{file} is an OpenEXR file whose picture is cut out of a larger one; {_ADVICE}"
        )
    compression = found["compression"][0]
    if compression not in _LINES:
        name = _NAMES[compression] if compression < len(_NAMES) else str(compression)
        raise FieldError(
            f"{file} is an OpenEXR file of compression {name}; ZIP, ZIPS, RLE and none are read: "
            f"save it so, or {_ADVICE}"
        )
    channels = list(_channels(found["channels"]))
    return _Header(channels, compression, height, width, top, at + 1)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at, at + 256)
    return data[at:end].decode("latin-1"), end + 1


def _channels(body: bytes) -> Iterator[_Channel]:
    at = 0
    while body[at] != 0:
        name, at = _text(body, at)
        kind, across, down = struct.unpack_from("<I4xII", body, at)
        if kind not in _TYPES or (across, down) != (1, 1):
            raise ValueError("a channel of another size")
        yield _Channel(name, _TYPES[kind])
        at += 16


def _lines_of(header: _Header, data: bytes, file: str) -> np.ndarray:
    """uint8 [h, bytes of a line]: of each line its channels, one after the other."""
    line_bytes = header.width * sum(channel.dtype.itemsize for channel in header.channels)
    step = _LINES[header.compression]
    count = -(-header.height // step)
    if header.body + 8 * count + header.height * line_bytes // 1032 > len(data):
        raise FieldError(f"{file} is damaged: its bytes cannot hold the pixels of its head")
    lines = np.zeros((header.height, line_bytes), np.uint8)
    seen = np.zeros(count, bool)
    for start in struct.unpack_from(f"<{count}Q", data, header.body):
        y, num_bytes = struct.unpack_from("<ii", data, start)
        first = y - header.top
        rows = lines[first : first + step]
        packed = data[start + 8 : start + 8 + num_bytes]
        if first < 0 or first % step or not rows.size or len(packed) != num_bytes:
            raise ValueError("a block of other lines")
        rows[...] = _unpacked(packed, rows.size, header.compression).reshape(rows.shape)
        seen[first // step] = True
    if not seen.all():
        raise ValueError("a block is missing")
    return lines


def _unpacked(packed: bytes, size: int, compression: int) -> np.ndarray:
    """uint8 [size] of a block; one that would not have become smaller lies as it is."""
    if compression == _NONE or len(packed) == size:
        return np.frombuffer(packed, np.uint8, size)
    if compression == _RLE:
        found = _runs(packed, size)
    else:
        found = zlib.decompressobj().decompress(packed, size + 1)
    if len(found) != size:
        raise ValueError("a block of another size")
    steps = np.frombuffer(found, np.uint8).astype(np.int64)
    steps[1:] -= 128
    halves = steps.cumsum().astype(np.uint8)
    whole = np.empty(size, np.uint8)
    middle = (size + 1) // 2
    whole[::2], whole[1::2] = halves[:middle], halves[middle:]
    return whole


def _runs(packed: bytes, size: int) -> bytes:
    found, at = bytearray(), 0
    while at < len(packed) and len(found) <= size:
        (count,) = struct.unpack_from("<b", packed, at)
        if count < 0:
            found += packed[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            found += packed[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(found)


def _depth_of(header: _Header, lines: np.ndarray, file: str) -> np.ndarray:
    arrays, at = {}, 0
    for name, dtype in header.channels:
        num_bytes = header.width * dtype.itemsize
        values = np.ascontiguousarray(lines[:, at : at + num_bytes]).view(dtype)
        arrays[name] = values.astype(np.uint32 if dtype.kind == "u" else np.float32)
        at += num_bytes
    named = [name for name in arrays if _DEPTH.fullmatch(name)]
    colours = [arrays[name] for name in ("R", "G", "B") if name in arrays]
    if len(arrays) == 1 or len(named) == 1:
        return arrays[named[0]] if named else next(iter(arrays.values()))
    is_grey = all(np.array_equal(colours[0], one, equal_nan=True) for one in colours)
    if len(colours) == 3 and is_grey:
        return colours[0]
    raise FieldError(
        f"{file} has the channels {shown(', '.join(arrays))}, and none of them alone is called Z "
        f"or depth; {_ADVICE}"
    )
