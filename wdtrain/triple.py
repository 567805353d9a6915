"""What a triple is: an overlay (the input picture), its mask and its depth.

Owns the member names, the dtypes, the depth kinds with their arithmetic, and the encoding of one
member to bytes and back. Every room may import this module; it imports no room.
The surprise: PNGs inside a compressed shard are *stored* (zlib level 0, filter 0), so that zstd
compresses them across samples and a reader slices pixels out without a decoder.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from wdtrain import resize
from wdtrain.sourcefiles import read_json

FOREGROUND = 128
"""A mask on disk is alpha 0..255; foreground is from here up."""

IMAGE_MEMBERS = {
    "overlay": "overlay.jpg",
    "mask": "mask.png",
    "depth": "depth.png",
    "meta": "json",
}
RAW_MEMBERS = {"overlay": "overlay.npy", "mask": "mask.npy", "depth": "depth.npy", "meta": "json"}

DepthKind = Literal["metric", "geometric", "inverse", "relative"]
Number = Any
"""A float, a numpy array or a tensor: the arithmetic below reads the same on all three."""

MOST_PIXELS = 1 << 28
"""A picture may have so many; it is judged by its head, before anything is decoded."""

_SHOWN_ERROR = 120
_DEFLATE_MOST = 1032
"""Times that deflated bytes may grow, at most (zlib's own figure)."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ZLIB_STORED_HEADER = b"\x78\x01"
_STORED_BLOCK = 65535
_IHDR = b"\0\0\0\rIHDR"
_PNG_HEADER_BYTES = 33

_NPY_START = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{ *'descr': *'(?P<dtype>[|<=]u[12])', *"
    rb"'fortran_order': *False, *"
    rb"'shape': *\((?P<shape>[0-9]{1,9}(?:, *[0-9]{1,9}){0,3}),? *\),? *\} *\n",
    re.DOTALL,
)
"""The head of the `.npy` arrays that a triple has (format 1.0). numpy's own reader evaluates the
text, which fails in many ways, and makes room for whatever shape it names."""


class TripleError(ValueError):
    """A triple that cannot be used: the message says what was found and why it cannot work."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder throws inside is a TripleError that names the picture."""
    try:
        yield
    except TripleError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:_SHOWN_ERROR] or type(error).__name__
        raise TripleError(f"{name} cannot be decoded ({line})") from error


def check_pixels(height: int, width: int, *, name: str) -> None:
    """TripleError for a picture without pixels, or of more than are read here."""
    if height < 1 or width < 1:
        raise TripleError(f"{name} is {width} x {height} pixels; it holds no picture")
    if height * width > MOST_PIXELS:
        raise TripleError(
            f"{name} is {width:,} x {height:,} pixels; pictures of up to {MOST_PIXELS:,} are read; "
            "make it smaller"
        )


@dataclass(frozen=True, kw_only=True)
class DepthFormat:
    """How a depth map is written as codes: its kind, its limits in metres, its bits (8 or 16).

    Code 0 means unknown and is not trained on. Codes 1..max map linearly onto unit values 0..1.
    `metric` and `geometric`: unit = log(Z / near_m) / log(far_m / near_m), clipped to 0..1.
    `inverse` and `relative`: unit is the (clipped) value itself.
    """

    kind: DepthKind = "metric"
    near_m: float = 0.5
    far_m: float = 20.0
    bits: int = 8

    def __post_init__(self) -> None:
        if self.kind not in ("metric", "geometric", "inverse", "relative"):
            raise TripleError(
                f"depth.kind is {self.kind!r}; it must be metric, geometric, inverse or relative"
            )
        if self.bits not in (8, 16):
            raise TripleError(f"depth.bits is {self.bits}; depth is stored in 8 or 16 bits")
        if not 0 < self.near_m < self.far_m:
            raise TripleError(
                f"depth limits are {self.near_m} m to {self.far_m} m; near must be above 0 and "
                "below far"
            )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def max_code(self) -> int:
        return 255 if self.bits == 8 else 65535

    @property
    def is_logarithmic(self) -> bool:
        return self.kind in ("metric", "geometric")

    @property
    def larger_is_nearer(self) -> bool:
        """Of two codes; relative depth is taken to grow with distance, as it is drawn."""
        return self.kind == "inverse"

    @property
    def log_range(self) -> float:
        """log(far_m / near_m): one unit of a logarithmic depth, in natural log units."""
        return math.log(self.far_m / self.near_m)

    def encode(self, depth: np.ndarray) -> np.ndarray:
        """Codes of a float depth map [h, w]: metres if logarithmic, else values in 0..1.

        What is not finite, or not positive where a logarithm is taken, becomes 0 (unknown).
        """
        known = np.isfinite(depth)
        if self.is_logarithmic:
            known &= depth > 0
            safe = np.where(known, depth, self.near_m)
            unit = np.log(safe / self.near_m) / self.log_range
        else:
            unit = np.where(known, depth, 0.0)
        codes = 1 + np.rint(np.clip(unit, 0.0, 1.0) * (self.max_code - 1))
        return np.where(known, codes, 0).astype(self.dtype)

    def to_unit(self, codes: Number) -> Number:
        """Unit depth 0..1 of float codes (array or tensor); code 0 gives a value just below 0."""
        return (codes - 1) / (self.max_code - 1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 [h, w] in metres (logarithmic kinds) or unit values; unknown is NaN."""
        unit = self.to_unit(codes.astype(np.float64))
        value = self.near_m * np.exp(unit * self.log_range) if self.is_logarithmic else unit
        return np.where(codes == 0, np.nan, value).astype(np.float32)

    def unit_after_zoom(self, unit: Number, log_zoom: Number) -> Number:
        """Unit depth after the picture was magnified by exp(log_zoom) (Eigen et al. 2014).

        Magnified by s, a thing looks as if it stood s times nearer: logarithmic depth is shifted by
        log s, inverse depth multiplied by s, relative depth has no scale and is left.
        """
        if self.is_logarithmic:
            return unit - log_zoom / self.log_range
        if self.kind == "inverse":
            zoom = np.exp(log_zoom) if isinstance(log_zoom, np.ndarray | float) else log_zoom.exp()
            return unit * zoom
        return unit

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "near_m": self.near_m,
            "far_m": self.far_m,
            "bits": self.bits,
        }


# ---------------------------------------------------------------------------- overlay: JPEG


def encode_overlay(rgb: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of a uint8 [h, w, 3] RGB picture, 4:2:0 chroma."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return data


def overlay_shape(data: bytes | memoryview) -> tuple[int, int]:
    """(height, width) of a JPEG as it is stored, from its header."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise TripleError(f"overlay is not a readable JPEG ({error})") from error
    check_pixels(height, width, name="overlay")
    return int(height), int(width)


def decode_overlay(
    data: bytes | memoryview,
    *,
    at_least: tuple[int, int] | None = None,
    name: str = "overlay",
) -> np.ndarray:
    """uint8 [h, w, 3] RGB of a JPEG; `at_least` (height, width) allows DCT-scaled decoding, whose
    last row and column may lie in the picture only in part (see `resize.py`)."""
    height, width = at_least or (0, 0)
    with decoding(name):
        rgb: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, strict=True
        )
    return rgb


def decode_scaled(
    data: bytes | memoryview, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """A JPEG decoded at the fewest eighths that still cover `size` (height, width): uint8 [h, w, 3]
    RGB, and how many eighths of its pixels the picture is high and wide."""
    stored = overlay_shape(data)
    scale = resize.jpeg_scale(stored, size)
    at_least = resize.scaled(stored, scale) if scale < resize.EIGHTHS else None
    rgb = decode_overlay(data, at_least=at_least)
    return rgb, (stored[0] * scale, stored[1] * scale)


# ---------------------------------------------------------------------------- mask, depth: PNG


def encode_png(gray: np.ndarray, *, stored: bool = False) -> bytes:
    """Greyscale PNG of a uint8 or uint16 [h, w] array; `stored`: zlib level 0, filter 0.

    Otherwise filter Up and zlib level 6. Format: PNG specification, third edition (W3C).
    """
    height, width = gray.shape
    bits = gray.dtype.itemsize * 8
    rows = gray.astype(">u2" if bits == 16 else np.uint8).view(np.uint8).reshape(height, -1)
    lines = np.zeros((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 1:] = rows
    if not stored:
        lines[:, 0] = 2
        lines[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = _zlib_stored(lines.tobytes()) if stored else zlib.compress(lines.tobytes(), 6)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _zlib_stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, 1951), laid out by us so that it can be sliced."""
    blocks = [_ZLIB_STORED_HEADER]
    for start in range(0, max(len(data), 1), _STORED_BLOCK):
        part = data[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(data)
        blocks += [struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF), part]
    return b"".join([*blocks, struct.pack(">I", zlib.adler32(data))])


def stored_png_size(height: int, width: int, bits: int) -> int:
    """Bytes of a stored PNG of this geometry: exact, from the format."""
    line_bytes = height * (1 + width * bits // 8)
    return 8 + 25 + (12 + 2 + 5 * max(1, -(-line_bytes // _STORED_BLOCK)) + line_bytes + 4) + 12


def png_shape(data: bytes | memoryview, *, name: str) -> tuple[int, int]:
    """(height, width) of a PNG, from its header, before anything is decoded or made room for."""
    head = bytes(data[:_PNG_HEADER_BYTES])
    if len(head) < _PNG_HEADER_BYTES or not head.startswith(_PNG_SIGNATURE + _IHDR):
        raise TripleError(f"{name} is not a PNG")
    width, height = struct.unpack_from(">II", head, 16)
    return height, width


def png_holds_too_little(data: bytes) -> bool:
    """Whether a PNG's bytes are fewer than its pixels can have been deflated to."""
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    line_bytes = 1 + width * bits * {2: 3, 4: 2, 6: 4}.get(colour, 1) // 8
    return bool(height * line_bytes > _DEFLATE_MOST * len(data))


def decode_png(data: bytes | memoryview, *, name: str, dtype: np.dtype) -> np.ndarray:
    """uint8 or uint16 [h, w] of a greyscale PNG of exactly this dtype.

    A palette, colour or alpha picture, or one of another depth, is refused by `name`: converting
    it silently would change what its values mean.
    """
    data = bytes(data)
    png_shape(data, name=name)
    bits, colour = data[24], data[25]
    if colour != 0 or bits != dtype.itemsize * 8:
        kinds = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale+alpha", 6: "RGBA"}
        raise TripleError(
            f"{name} is a {bits}-bit {kinds.get(colour, 'unknown')} PNG; "
            f"{dtype.itemsize * 8}-bit greyscale is needed; convert it"
        )
    width, height = struct.unpack_from(">II", data, 16)
    check_pixels(height, width, name=name)
    pixels = _stored_pixels(data)
    if pixels is None and png_holds_too_little(data):
        raise TripleError(
            f"{name} is damaged: its {len(data):,} bytes cannot hold {width:,} x {height:,} pixels"
        )
    if pixels is None:
        with decoding(name):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2 or pixels.dtype != dtype:
        raise TripleError(f"{name} cannot be decoded: the PNG is damaged")
    return pixels


def _stored_pixels(data: bytes) -> np.ndarray | None:
    """The pixels of a stored, unfiltered greyscale PNG, sliced out; None for any other PNG."""
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    line = 1 + width * bits // 8
    if (
        len(data) != stored_png_size(height, width, bits)
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
    pixels = np.ascontiguousarray(lines[:, 1:])
    return pixels if bits == 8 else pixels.view(">u2").astype(np.uint16)


# ---------------------------------------------------------------------------- raw: npy; json


def encode_npy(array: np.ndarray) -> bytes:
    """`.npy` bytes (NumPy format 1.0) of a C-contiguous array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_npy_header(data: bytes | memoryview) -> tuple[tuple[int, ...], np.dtype, int] | None:
    """(shape, dtype, bytes of the header) of a `.npy` array of codes in C order; None for others,
    whose numbers or order no triple has."""
    found = _NPY_START.match(data)
    if found is None or found.end() != 10 + int.from_bytes(found["size"], "little"):
        return None
    shape = tuple(int(side) for side in found["shape"].split(b","))
    return shape, np.dtype(found["dtype"].decode()), found.end()


def decode_npy(data: bytes | memoryview, *, name: str) -> np.ndarray:
    """The array of `.npy` bytes, a view of them. Pickle is never decoded."""
    header = read_npy_header(data)
    if header is None:
        raise TripleError(f"{name} is not a readable .npy array (of uint8 or uint16, in C order)")
    shape, dtype, start = header
    wanted, found = math.prod(shape) * dtype.itemsize, len(data) - start
    if wanted != found:
        raise TripleError(
            f"{name} is a .npy array {shape} of {wanted:,} bytes, and {found:,} follow its header"
        )
    return np.ndarray(shape, dtype, data, start)


def encode_meta(meta: dict[str, Any], *, pad_to: int = 0) -> bytes:
    """Canonical JSON, padded with spaces up to `pad_to` bytes; TripleError for what JSON has no
    word for, NaN and infinity among it."""
    try:
        text = json.dumps(
            meta, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise TripleError(f"json cannot be written ({error})") from error
    return text.encode().ljust(pad_to)


def decode_meta(data: bytes | memoryview) -> dict[str, Any]:
    """The object that JSON bytes hold. Numbers that JSON does not know (`NaN`, `Infinity`, which
    Python writes, and those beyond a float) become None; a name that stands twice is refused."""
    try:
        meta = read_json(bytes(data))
    except ValueError as error:
        raise TripleError(f"json is not readable ({error})") from error
    if not isinstance(meta, dict):
        raise TripleError(f"json holds a {type(meta).__name__}; an object is needed")
    return meta


# ---------------------------------------------------------------------------- size


def resize_triple_arrays(
    overlay: np.ndarray,
    mask: np.ndarray,
    depth: np.ndarray,
    *,
    height: int,
    width: int,
    larger_is_nearer: bool = False,
    eighths: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays at another size, edge on edge: overlay and mask by area, depth by the median
    of its area, of two middle ones the nearer.

    larger_is_nearer: of the depth's kind. eighths: the overlay's extent in eighths of its pixels,
    where it was decoded at a fraction of its size.
    """
    size = (height, width)
    return (
        resize.area(overlay, size, eighths=eighths),
        resize.area(mask, size),
        resize.median(depth, size, larger_is_nearer=larger_is_nearer),
    )
