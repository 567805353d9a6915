"""Reading a picture that somebody brought, for every tool: whole and as viewers show it.

Owns what is read of a file's head before anything is decoded: its kind, size, and the turn that
EXIF asks for (JPEG, PNG, WebP and TIFF alike). Whatever a decoder throws becomes a FieldError, so
that one picture never ends the work on all others.
The surprise: the end of a JPEG is looked for, since phones put a video behind it, and since OpenCV
fills one that was cut off with grey and says nothing of it.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

import numpy as np

from wdtrain.fields.errors import FieldError, check_pixels
from wdtrain.fields.png import png_holds_too_little

PICTURE_KINDS: Final = ("JPEG", "PNG", "WebP", "TIFF", "BMP")
_ORIENTATION, _WIDTH, _HEIGHT = 274, 256, 257
_EXIF: Final = b"Exif\0\0"
_MULTI_PICTURE: Final = b"MPF\0"
_APP1, _APP2, _SCAN, _END = 0xE1, 0xE2, 0xDA, 0xD9
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JPEG_MOST_PER_BYTE: Final = 1 << 12
"""Pixels: a block of 8 x 8 takes a bit at least, or less where it is coded arithmetically."""


class Header(NamedTuple):
    """What a file's head says: kind, size as stored, EXIF's turn (1: none), colour channels of a
    JPEG (else 0)."""

    kind: str
    height: int
    width: int
    turn: int = 1
    channels: int = 0

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) as viewers show it."""
        return (self.width, self.height) if self.turn >= 5 else (self.height, self.width)


def read_picture_header(data: bytes, *, name: str) -> Header:
    """The head of a picture. FieldError, which names it, for what is none, or of more pixels than
    are read here, or than its bytes can hold."""
    for start, read in _READERS.items():
        if data.startswith(start):
            try:
                header = read(data)
            except (struct.error, IndexError, ValueError) as error:
                raise FieldError(f"{name} cannot be decoded: its head is damaged") from error
            check_pixels(header.height, header.width, name=name)
            if _holds_too_little(header, data):
                raise FieldError(
                    f"{name} is damaged: its {len(data):,} bytes cannot hold the {header.width} x "
                    f"{header.height} pixels of its head"
                )
            return header
    raise FieldError(f"{name} cannot be decoded: it is none of {', '.join(PICTURE_KINDS)}")


def turned_like(data: bytes, pixels: np.ndarray, *, name: str) -> np.ndarray:
    """The decoded pixels of a PNG, turned as its EXIF says."""
    return turned(pixels, read_picture_header(data, name=name).turn) if b"eXIf" in data else pixels


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    if turn == 1:
        return pixels
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    down, across = _FLIPS[turn]
    return np.ascontiguousarray(pixels[::down, ::across])


_FLIPS: Final = {
    2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)
}  # fmt: skip
"""By EXIF's orientation: the steps in which rows and columns are taken, of 5 to 8 transposed."""


def _holds_too_little(header: Header, data: bytes) -> bool:
    if header.kind == "JPEG":
        return header.height * header.width > _JPEG_MOST_PER_BYTE * len(data)
    if header.kind == "PNG":
        return png_holds_too_little(data)
    return False


# ---------------------------------------------------------------------------- JPEG


def plain_jpeg(data: bytes, *, name: str = "picture") -> bytes:
    """A JPEG's bytes without its EXIF and what lies behind its end: every reader sees the same.

    Pixels and colour profile stay; FieldError where its end is missing.
    """
    segments = _segments_or_none(data)
    end = None if segments is None else _end_behind(data, segments[-1][2])
    if segments is None or end is None:
        raise FieldError(f"{name} cannot be decoded: it is cut off")
    kept, at = [], 0
    for marker, start, stop in segments:
        if marker not in (_APP1, _APP2):
            continue
        if data.startswith(_EXIF if marker == _APP1 else _MULTI_PICTURE, start + 4):
            kept.append(data[at:start])
            at = stop
    return b"".join([*kept, data[at:end]]) if kept or end < len(data) else data


def jpeg_end(data: bytes) -> int | None:
    """Where the first picture of a JPEG file ends; None where it does not."""
    segments = _segments_or_none(data)
    return None if segments is None else _end_behind(data, segments[-1][2])


def _end_behind(data: bytes, at: int) -> int | None:
    """Where a picture ends whose first scan's data begin at `at`."""
    while found := _MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END:
            return at
        if marker not in _ALONE:
            if at + 2 > len(data):
                return None
            at += data[at] << 8 | data[at + 1]
    return None


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, stop) of a JPEG's segments up to its first scan, that one's head included.
    IndexError or ValueError where it has no scan. A plain loop: every picture packed comes here."""
    found, at = [], 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker where one belongs")
        while (marker := data[at + 1]) == 0xFF:
            at += 1
        if marker == _END:
            raise ValueError("a JPEG without a picture")
        if marker in _ALONE:
            at += 2
            continue
        stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
        found.append((marker, at, stop))
        if marker == _SCAN:
            return found
        at = stop


def _segments_or_none(data: bytes) -> list[tuple[int, int, int]] | None:
    """As `_segments`; None where it has no scan."""
    try:
        return _segments(data)
    except (IndexError, ValueError):
        return None


def _look_jpeg(data: bytes) -> Header:
    frame, turn = None, 1
    for marker, start, stop in _segments(data):
        if marker == _APP1 and data.startswith(_EXIF, start + 4):
            turn = _turn(data[start + 4 + len(_EXIF) : stop])
        elif marker in _FRAMES and frame is None:
            frame = struct.unpack_from(">HHB", data, start + 5)
    if frame is None:
        raise ValueError("no frame")
    return Header("JPEG", frame[0], frame[1], turn, frame[2])


# ---------------------------------------------------------------------------- the other kinds


def _look_png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    turn, at = 1, 8
    while at + 8 <= len(data):
        num_bytes, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            turn = _turn(data[at + 8 : at + 8 + num_bytes])
        at += 12 + num_bytes
    return Header("PNG", height, width, turn)


def _look_webp(data: bytes) -> Header:
    if data[8:12] != b"WEBP":
        raise ValueError("another RIFF file")
    size, turn, at = None, 1, 12
    while at + 8 <= len(data):
        kind, num_bytes = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + num_bytes]
        if kind == b"EXIF":
            turn = _turn(body.removeprefix(_EXIF))
        elif size is None:
            size = _webp_size(kind, body)
        at += 8 + num_bytes + num_bytes % 2
    if size is None:
        raise ValueError("no picture in it")
    return Header("WebP", *size, turn)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """(height, width) of a chunk that says it."""
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        return height, width
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", body, 1)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return None


def _look_tiff(data: bytes) -> Header:
    tags = _tags(data)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("no size")
    return Header("TIFF", tags[_HEIGHT], tags[_WIDTH], _orientation(tags))


def _look_bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", abs(height), abs(width))


def _turn(exif: bytes) -> int:
    """The orientation that EXIF data asks for; 1 where it says none that there is."""
    try:
        return _orientation(_tags(exif))
    except (struct.error, ValueError):
        return 1


def _orientation(tags: dict[int, int]) -> int:
    turn = tags.get(_ORIENTATION, 1)
    return turn if 1 <= turn <= 8 else 1


def _tags(data: bytes) -> dict[int, int]:
    """The whole numbers among the entries of a TIFF's first directory (TIFF 6.0, section 2)."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or struct.unpack_from(order + "H", data, 2)[0] != 42:
        raise ValueError("no TIFF")
    at = struct.unpack_from(order + "I", data, 4)[0]
    found = {}
    for entry in range(struct.unpack_from(order + "H", data, at)[0]):
        place = at + 2 + 12 * entry
        tag, kind = struct.unpack_from(order + "HH", data, place)
        if kind in (3, 4):
            form = order + ("H" if kind == 3 else "I")
            found[tag] = struct.unpack_from(form, data, place + 8)[0]
    return found


_READERS: Final = {
    b"\xff\xd8": _look_jpeg,
    b"\x89PNG\r\n\x1a\n": _look_png,
    b"RIFF": _look_webp,
    b"II*\0": _look_tiff,
    b"MM\0*": _look_tiff,
    b"BM": _look_bmp,
}
