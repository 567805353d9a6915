"""Many samples at once, from parsed blocks straight into the memory of a batch.

One compiled call fills many rows and holds no interpreter lock meanwhile. Where it does not know
the members (PNGs of `.tar` shards, another libjpeg), they are decoded here, kind by kind. The
surprise: this path reports no error. Where anything is unusual it says so, and the caller goes row
by row through `decode_row`, which gives the same pixels or names what is damaged.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np
import simplejpeg

from wdtrain.fields import resize
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import decode_jpeg_scaled, jpeg_shape
from wdtrain.fields.png import decode_png, encode_png, png_shape
from wdtrain.store import native, tar
from wdtrain.store.buffers import Recycled
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, member_bytes, member_shapes
from wdtrain.store.shrink import Resizer

_UINT8: Final = np.dtype(np.uint8)
_PNG_PREFIX_BYTES: Final = 43
"""Signature, IHDR, and the head of the IDAT up to the first stored part."""


@dataclass(frozen=True)
class RowBuffers:
    """Where n rows go: overlay uint8 [n, h, w, 3], mask uint8 [n, h, w], depth [n, h, w] of the
    dataset's dtype, names uint8 [n, 100] (the name of each overlay's member)."""

    overlay: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    names: np.ndarray

    def rows(self, start: int, stop: int) -> RowBuffers:
        """Views of rows [start, stop)."""
        part = slice(start, stop)
        return RowBuffers(self.overlay[part], self.mask[part], self.depth[part], self.names[part])

    @cached_property
    def addresses(self) -> tuple[int, int, int, int]:
        """Where names, overlay, mask and depth lie."""
        arrays = self.names, self.overlay, self.mask, self.depth
        return (
            native.at(arrays[0]),
            native.at(arrays[1]),
            native.at(arrays[2]),
            native.at(arrays[3]),
        )


class MemberPlaces:
    """Where the members of many rows lie in memory, in the order in which a window has them.

    addresses: int64 [4, n]; of encoded samples those of overlay, mask, depth and meta, with their
    sizes int64 [4, n]; of raw ones those of the name and the pixels of overlay, mask, depth.
    """

    def __init__(self, addresses: np.ndarray, sizes: np.ndarray | None, held: object) -> None:
        """`held` keeps what the addresses point into."""
        self.addresses, self.sizes, self._held = addresses, sizes, held
        self._first = native.at(addresses)
        self._first_size = 0 if sizes is None else native.at(sizes)

    @classmethod
    def of_blocks(
        cls, blocks: Sequence[BlockIndex], slots: np.ndarray, rows: np.ndarray, manifest: Manifest
    ) -> MemberPlaces:
        """Rows of several blocks, in any order: `rows[i]` of `blocks[slots[i]]` is the i-th."""
        firsts = np.cumsum([0, *(block.num_samples for block in blocks)])
        places = firsts[slots] + rows
        bases = np.array([native.address_of(block.data) for block in blocks], np.int64)
        starts = np.concatenate([block.starts for block in blocks])[places].T + bases[slots]
        sizes = np.concatenate([block.sizes for block in blocks])[places].T.copy()
        if manifest.encoding == "raw":
            starts = _copied_starts(starts, sizes, manifest)
        return cls(np.ascontiguousarray(starts), sizes, list(blocks))

    def put(self, places: np.ndarray, rows: MemberPlaces) -> None:
        """Rows at these places lie where `rows` says; who calls holds what they point into."""
        assert self.sizes is not None, "rows without sizes are all known"
        self.addresses[:, places], self.sizes[:, places] = rows.addresses, rows.sizes

    def piece(self, start: int, rows: int, at: int) -> tuple[int, int, int, int, int]:
        """Rows [start, start + rows), to go to a batch's rows from `at` on, for `native.fill`."""
        count = self.addresses.shape[1]
        assert 0 <= start <= start + rows <= count, "rows beyond the end"
        return self._first + 8 * start, self._first_size + 8 * start, count, rows, at

    def members(self, column: int, part: slice) -> Iterator[bytes]:
        """The stored bytes of an encoded member of each row."""
        assert self.sizes is not None, "of these rows only addresses are known"
        addresses, sizes = self.addresses[column, part].tolist(), self.sizes[column, part].tolist()
        return map(ctypes.string_at, addresses, sizes)

    def names(self, part: slice) -> Iterator[bytes]:
        """The 100 bytes of each overlay's name: the start of the header before it."""
        for address in self.addresses[0, part].tolist():
            yield ctypes.string_at(address - tar.BLOCK, tar.MAX_NAME)


class WindowSlice(NamedTuple):
    """Rows [start, start + rows) of a window, which go to a batch's rows from `at` on."""

    window: MemberPlaces
    start: int
    rows: int
    at: int


class Filled(NamedTuple):
    """Parts that were filled, and the seconds spent on gathering and on decoding JPEGs, to which
    bringing pictures to another size counts."""

    parts: int
    gathering: float
    decoding: float


class Filler:
    """Fills rows of batches at one (height, width) with the samples of one dataset."""

    def __init__(self, manifest: Manifest, size: tuple[int, int]) -> None:
        stored = manifest.height, manifest.width
        self._stored, self._size = stored, size
        self._depth_dtype = manifest.depth.dtype
        self._memory = Recycled()
        self._from_stored = Resizer(stored, size)
        is_raw = manifest.encoding == "raw"
        self._larger_is_nearer = manifest.depth.larger_is_nearer
        self._scale = resize.EIGHTHS if is_raw else resize.jpeg_scale(stored, size)
        self._decoded = resize.scaled(stored, self._scale)
        eighths = stored[0] * self._scale, stored[1] * self._scale
        self._from_decoded = Resizer(self._decoded, size, eighths=eighths)
        self._is_sized = eighths == (size[0] * resize.EIGHTHS, size[1] * resize.EIGHTHS)
        calls = None if is_raw else native.jpeg_calls()
        # PNGs of a `.tar` are deflated; those of a `.tar.zst` lie there pixel by pixel.
        is_deflated = not is_raw and not manifest.is_compressed
        zlib = native.zlib_calls() if is_deflated else None
        self._is_compiled = is_raw or (calls is not None and is_deflated == (zlib is not None))
        self._form = native.Form(
            None if calls is None else ctypes.addressof(calls),
            *stored,
            self._depth_dtype.itemsize,
            self._scale,
            self._decoded,
            _png_prefix(*stored, "|u1"),
            _png_prefix(*stored, self._depth_dtype.str),
            None if zlib is None else ctypes.addressof(zlib),
        )

    def fill(self, parts: Sequence[WindowSlice], target: RowBuffers) -> Filled:
        """The parts in turn, until a row of one is unusual (some of that one may be written)."""
        assert all(part.at + part.rows <= len(target.names) for part in parts), "beyond the end"
        if self._is_compiled and self._size == self._stored:
            pieces = [part.window.piece(*part[1:]) for part in parts]
            return Filled(*native.fill(self._form, pieces, target.addresses))
        gathering = decoding = 0.0
        fill = self._fill_scaled if self._is_compiled else self._fill_by_kind
        for done, part in enumerate(parts):
            filled = fill(part, target.rows(part.at, part.at + part.rows))
            gathering, decoding = gathering + filled.gathering, decoding + filled.decoding
            if not filled.parts:
                return Filled(done, gathering, decoding)
        return Filled(len(parts), gathering, decoding)

    def _fill_scaled(self, part: WindowSlice, into: RowBuffers) -> Filled:
        """One part, as stored or decoded at a DCT scale, and from there to the size wanted."""
        scratch = RowBuffers(
            self._scratch(part.rows, *self._decoded, 3),
            self._scratch(part.rows, *self._stored),
            self._scratch(part.rows, *self._stored, dtype=self._depth_dtype),
            into.names,
        )
        piece = part.window.piece(part.start, part.rows, 0)
        done, gathering, decoding = native.fill(self._form, [piece], scratch.addresses)
        started = time.perf_counter()
        if done:
            self._from_decoded.shrink(scratch.overlay, into.overlay)
            self._from_stored.shrink(scratch.mask, into.mask)
            self._medians(scratch.depth, into.depth)
        return Filled(done, gathering, decoding + time.perf_counter() - started)

    def _medians(self, codes: np.ndarray, target: np.ndarray) -> None:
        self._from_stored.medians(codes, target, larger_is_nearer=self._larger_is_nearer)

    def _scratch(self, *shape: int, dtype: np.dtype = _UINT8) -> np.ndarray:
        return self._memory.take(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def _fill_by_kind(self, part: WindowSlice, into: RowBuffers) -> Filled:
        """One part of encoded samples by the decoders of `triple`, all of a kind together."""
        begun = time.perf_counter()
        rows = slice(part.start, part.start + part.rows)
        for name, row in zip(part.window.names(rows), into.names, strict=True):
            row[:] = np.frombuffer(name, np.uint8)
        masks, depths = (part.window.members(column, rows) for column in (1, 2))
        is_whole = self._decode_pngs(masks, into.mask, self._from_stored.shrink)
        is_whole = is_whole and self._decode_pngs(depths, into.depth, self._medians)
        gathered = time.perf_counter()
        is_whole = is_whole and self._decode_jpegs(part.window, rows, into.overlay)
        return Filled(int(is_whole), gathered - begun, time.perf_counter() - gathered)

    def _decode_pngs(
        self,
        pngs: Iterator[bytes],
        into: np.ndarray,
        bring: Callable[[np.ndarray, np.ndarray], None],
    ) -> bool:
        """The pixels are brought to the size of `into`."""
        try:
            for png, row in zip(pngs, into, strict=True):
                if png_shape(png, name="") != self._stored:
                    return False
                pixels = decode_png(png, name="", dtype=into.dtype)
                bring(pixels[None], row[None])
        except FieldError:
            return False
        return True

    def _decode_jpegs(self, window: MemberPlaces, rows: slice, into: np.ndarray) -> bool:
        assert window.sizes is not None
        pixels = into if self._is_sized else self._scratch(len(into), *self._decoded, 3)
        places = window.addresses[0, rows], window.sizes[0, rows]
        if not native.decode_jpegs(*places, self._stored, self._scale, pixels):
            return self._decode_jpegs_singly(window.members(0, rows), into)
        if not self._is_sized:
            self._from_decoded.shrink(pixels, into)
        return True

    def _decode_jpegs_singly(self, jpegs: Iterator[bytes], into: np.ndarray) -> bool:
        shape = (*self._stored, 3)
        try:
            for jpeg, row in zip(jpegs, into, strict=True):
                if row.shape == shape:
                    if simplejpeg.decode_jpeg(jpeg, "RGB", strict=True, buffer=row).shape != shape:
                        return False
                elif jpeg_shape(jpeg) != self._stored:
                    return False
                else:
                    rgb, _ = decode_jpeg_scaled(jpeg, self._size)
                    self._from_decoded.shrink(rgb[None], row[None])
        except ValueError:
            return False
        return True


def _copied_starts(starts: np.ndarray, sizes: np.ndarray, manifest: Manifest) -> np.ndarray:
    """int64 [4, n]: where in raw samples begins what is copied as it lies there, the name and the
    pixels; from the starts and sizes [4, n] of the members.

    The name is the start of the header before a member; pixels are its end, after that of `.npy`.
    """
    payloads = [[member_bytes(*of)] for of in member_shapes(manifest)]
    return np.concatenate([starts[:1] - tar.BLOCK, starts[:3] + sizes[:3] - payloads])


def copied_columns(block: BlockIndex) -> np.ndarray:
    """int64 [4]: where name, overlay, mask and depth begin in each sample of a raw block."""
    return _copied_starts(block.starts[:1].T, block.sizes[:1].T, block.manifest)[:, 0]


@lru_cache(maxsize=16)
def _png_prefix(height: int, width: int, dtype: str) -> bytes:
    """What every stored PNG of this size and dtype begins with."""
    plain = encode_png(np.zeros((height, width), np.dtype(dtype)), stored=True)
    return plain[:_PNG_PREFIX_BYTES]
