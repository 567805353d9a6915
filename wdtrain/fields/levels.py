"""A person's picture as the numbers that are in it: greys, palette indices, colours, alpha.

Owns what decoders hide: the indices of a palette, samples of 1, 2 or 4 bits, which colour a PNG
calls transparent. What these numbers mean is for the kinds to say.
The surprise: a PNG is decoded without its palette and its ancillary chunks, as the greys or colours
that its samples are; libpng then has nothing left to convert.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, Image, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin

from wdtrain.fields import exr, pictures
from wdtrain.fields.errors import FieldError, check_pixels, decoding

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_TO_RGB: Final = {_RGB: cv2.COLOR_BGR2RGB, _RGBA: cv2.COLOR_BGRA2RGBA}
_NEUTRAL: Final = 12
"""A JPEG whose channels differ by no more is a grey picture: coded colours of grey are exact."""
_OPENERS: Final[dict[str, Callable[[io.BytesIO], Image.Image]]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
"""Pillow's readers by themselves: `Image.open` has a limit of its own, which is the process's."""

_PFM: Final = re.compile(
    rb"(?P<kind>P[fF])\s+(?P<width>\d{1,9})\s+(?P<height>\d{1,9})\s+"
    rb"(?P<scale>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d{1,3})?)[ \t]*\r?\n"
)


class Levels(NamedTuple):
    """The numbers of a picture, turned as viewers show it.

    values: [h, w] greys or palette indices, or [h, w, 3] RGB: uint8 or uint16, where `full` is the
    value of white; int32 or float32, where `full` is 0. palette: uint8 [n, 3] RGB. alpha: [h, w],
    None where there is none, of the same range (beside a palette: 0..255). is_exact: whether the
    numbers are those that were written; a JPEG's are not.
    """

    values: np.ndarray
    full: int
    alpha: np.ndarray | None = None
    palette: np.ndarray | None = None
    is_exact: bool = True

    @property
    def is_opaque(self) -> bool:
        """Whether nothing is transparent."""
        return self.alpha is None or bool((self.alpha == self._full_alpha).all())

    @property
    def _full_alpha(self) -> int:
        return self.full if self.palette is None else 255

    def alpha_bytes(self) -> np.ndarray | None:
        """Alpha as uint8 0..255; None where there is none."""
        return None if self.alpha is None else bytes_of(self.alpha, self._full_alpha)

    @property
    def is_grey(self) -> bool:
        """Whether there is one number a pixel, and it is no index."""
        return self.values.ndim == 2 and self.palette is None

    def greys(self) -> Levels | None:
        """The same as greys, where all of its colours are grey; else None."""
        if self.is_grey:
            return self
        colours = self.values if self.palette is None else self.palette[np.unique(self.values)]
        spread = 0 if self.is_exact else _NEUTRAL
        if (colours.max(-1).astype(np.int32) - colours.min(-1) > spread).any():
            return None
        if self.palette is None:
            return self._replace(values=np.ascontiguousarray(self.values[..., 1]))
        values = np.ascontiguousarray(self.palette[self.values, 1])
        return self._replace(values=values, full=255, palette=None)

    def rgb(self) -> np.ndarray | None:
        """uint8 [h, w, 3] RGB, without regard to alpha; None for numbers that have no range."""
        if self.palette is not None:
            return np.ascontiguousarray(self.palette[self.values])
        if self.full == 0:
            return None
        values = bytes_of(self.values, self.full)
        return values if values.ndim == 3 else np.repeat(values[..., None], 3, 2)

    def colours(self, *, file: str) -> np.ndarray:
        """As `rgb`; FieldError, which names the file, for numbers that have no range."""
        rgb = self.rgb()
        if rgb is None:
            raise FieldError(
                f"{file} holds {self.values.dtype} values, whose range nothing says; save the "
                "picture with 8 or 16 bits a channel"
            )
        return rgb


def bytes_of(values: np.ndarray, full: int) -> np.ndarray:
    """Values 0..full as uint8 0..255; of 16 bits the upper eight, as decoders take them."""
    if full == 65535:
        return (values >> 8).astype(np.uint8)
    return values if full == 255 else (values * np.uint8(255 // full)).astype(np.uint8)


def read(data: bytes, *, file: str) -> Levels:
    """The numbers of a picture's bytes. FieldError, which names the file, for what is none."""
    if data[:2] in (b"Pf", b"PF"):
        return Levels(_read_pfm(data, file), 0)
    if data.startswith(exr.EXR_MAGIC):
        return Levels(exr.read_exr(data, file=file), 0)
    header = pictures.read_picture_header(data, name=file)
    if header.kind == "PNG":
        return _turned(_read_png(data, file), header.turn)
    if header.kind == "JPEG":
        return _turned(_read_jpeg(data, header.channels, file), header.turn)
    found = _read_by_pillow(data, header.kind, file)
    # Pillow turns a TIFF by itself.
    return found if header.kind == "TIFF" else _turned(found, header.turn)


def _turned(found: Levels, turn: int) -> Levels:
    if turn == 1:
        return found
    alpha = None if found.alpha is None else pictures.turned(found.alpha, turn)
    return found._replace(values=pictures.turned(found.values, turn), alpha=alpha)


def read_rgb(data: bytes, *, name: str) -> np.ndarray:
    """uint8 [h, w, 3] RGB of a picture, turned as viewers show it; alpha is left out."""
    return read(data, file=name).colours(file=name)


# ---------------------------------------------------------------------------- PNG


def _read_png(data: bytes, file: str) -> Levels:
    bits, colour = data[24], data[25]
    if colour not in _CHANNELS or bits not in (1, 2, 4, 8, 16) or data[12:16] != b"IHDR":
        raise FieldError(f"{file} cannot be decoded: a PNG of {bits} bits, colour type {colour}")
    chunks = dict(_palette_chunks(data, file))
    values = _samples(data, file)
    full = (1 << bits) - 1
    if bits < 8:
        values = values // np.uint8(255 // full)
    palette = alpha = None
    if colour == _PALETTE:
        palette = _palette(chunks.get(b"PLTE", b""), int(values.max()), file)
    elif colour in (_GREY_ALPHA, _RGBA):
        values, alpha = values[..., : _CHANNELS[colour] - 1], values[..., -1]
        values = values[..., 0] if colour == _GREY_ALPHA else values
    if b"tRNS" in chunks and alpha is None:
        alpha = _transparency(chunks[b"tRNS"], values, colour, full)
    return Levels(values, full, alpha, palette)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop of the body) of a PNG's chunks up to its end; fewer of a damaged one."""
    at = 8
    while at + 12 <= len(data):
        num_bytes, name = struct.unpack_from(">I4s", data, at)
        yield name, at + 8, at + 8 + num_bytes
        at += 12 + num_bytes


def _palette_chunks(data: bytes, file: str) -> Iterator[tuple[bytes, bytes]]:
    """The bodies of palette and transparency, their checksums compared."""
    for name, start, stop in _chunks(data):
        if name in (b"PLTE", b"tRNS"):
            body = data[start:stop]
            if data[stop : stop + 4] != struct.pack(">I", zlib.crc32(name + body)):
                raise FieldError(f"{file} cannot be decoded: its {name.decode()} chunk is damaged")
            yield name, body


def _samples(data: bytes, file: str) -> np.ndarray:
    """The samples of a PNG: [h, w] or [h, w, 2 to 4], those of fewer than 8 bits scaled to 8."""
    colour = data[25]
    head = data[12:25] + bytes([_GREY if colour == _PALETTE else colour]) + data[26:29]
    parts = [data[:12], head, struct.pack(">I", zlib.crc32(head))]
    if data[29:33] != struct.pack(">I", zlib.crc32(data[12:29])):
        raise FieldError(f"{file} cannot be decoded: its head is damaged")
    parts += [
        data[start - 8 : stop + 4]
        for name, start, stop in _chunks(data)
        if name in (b"IDAT", b"IEND")
    ]
    with decoding(file):
        pixels = cv2.imdecode(
            np.frombuffer(b"".join(parts), np.uint8),
            cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    if pixels is None:
        raise FieldError(f"{file} cannot be decoded: it is damaged or cut off")
    if colour == _GREY_ALPHA:
        return np.ascontiguousarray(pixels[..., 2:])
    if colour in (_RGB, _RGBA):
        return np.asarray(cv2.cvtColor(pixels, _TO_RGB[colour]))
    return np.asarray(pixels)


def _palette(body: bytes, largest: int, file: str) -> np.ndarray:
    palette = np.frombuffer(body[: len(body) // 3 * 3], np.uint8).reshape(-1, 3)
    if largest >= len(palette):
        raise FieldError(
            f"{file} is damaged: it has a palette of {len(palette)} colours and an index {largest}"
        )
    return palette


def _transparency(body: bytes, values: np.ndarray, colour: int, full: int) -> np.ndarray:
    """Alpha of what the tRNS chunk says (PNG, third edition, 11.3.1.1)."""
    if colour == _PALETTE:
        table = np.full(256, 255, np.uint8)
        table[: min(len(body), 256)] = np.frombuffer(body[:256], np.uint8)
        return np.ascontiguousarray(table[values])
    count = 1 if colour == _GREY else 3
    wanted = np.frombuffer(body[: 2 * count].ljust(2 * count, b"\0"), ">u2") & full
    same = values == wanted if colour == _GREY else (values == wanted).all(-1)
    return np.where(same, 0, full).astype(values.dtype)


# ---------------------------------------------------------------------------- the other formats


def _read_jpeg(data: bytes, channels: int, file: str) -> Levels:
    if pictures.jpeg_end(data) is None:
        raise FieldError(f"{file} cannot be decoded: it is cut off; fetch it again")
    if channels not in (1, 3):
        return _read_by_pillow(data, "JPEG", file)._replace(is_exact=False)
    with decoding(file):
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=True)
    return Levels(pixels[..., 0] if channels == 1 else pixels, 255, is_exact=False)


def _read_by_pillow(data: bytes, kind: str, file: str) -> Levels:
    with decoding(file, advice=f"; save it as PNG, if it is a whole {kind}"):
        picture = _OPENERS[kind](io.BytesIO(data))
        picture.load()
        is_exact = kind in ("BMP", "TIFF") or b"VP8L" in data[:4096]
        found = _of_pillow(picture)._replace(is_exact=is_exact)
    check_pixels(*found.values.shape[:2], name=file)
    return found


def _of_pillow(picture: Image.Image) -> Levels:
    mode = picture.mode
    if mode == "1":
        return Levels(np.asarray(picture).astype(np.uint8), 1)
    if mode.startswith("I;16"):
        return Levels(np.asarray(picture).astype(np.uint16), 65535)
    if mode in ("I", "F"):
        return Levels(np.asarray(picture), 0)
    if mode == "P" and picture.palette is not None and picture.palette.mode == "RGB":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return Levels(np.asarray(picture), 255, palette=_filled(palette))
    if mode == "L":
        return Levels(np.asarray(picture), 255)
    if mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        rgba = np.asarray(picture.convert("RGBA"))
        rgb, alpha = (np.ascontiguousarray(part) for part in (rgba[..., :3], rgba[..., 3]))
        return Levels(rgb, 255, alpha)
    return Levels(np.asarray(picture.convert("RGB")), 255)


def _filled(palette: np.ndarray) -> np.ndarray:
    """256 colours: Pillow shows indices beyond a palette as black."""
    return np.concatenate([palette, np.zeros((256 - len(palette), 3), np.uint8)])


def _read_pfm(data: bytes, file: str) -> np.ndarray:
    """float32 [h, w] of a grey PFM: rows from the bottom up, a negative scale for little-endian
    (Debevec)."""
    found = _PFM.match(data)
    if found is None:
        raise FieldError(f"{file} cannot be decoded: the head of the PFM is damaged")
    if found["kind"] == b"PF":
        raise FieldError(f"{file} is a PFM of three channels; one (Pf) is needed")
    width, height, scale = int(found["width"]), int(found["height"]), float(found["scale"])
    check_pixels(height, width, name=file)
    body = data[found.end() :]
    if len(body) != 4 * height * width or scale == 0:
        raise FieldError(
            f"{file} is damaged: {len(body):,} bytes follow the head of a PFM of {width} x {height}"
        )
    rows = np.frombuffer(body, "<f4" if scale < 0 else ">f4").reshape(height, width)
    return np.ascontiguousarray(rows[::-1], np.float32)
