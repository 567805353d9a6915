"""Many samples at once, from parsed blocks straight into the memory of a batch.

Members of one kind are copied or decoded for all rows by one call that holds no interpreter lock;
where there is no library to do that with JPEGs, they are decoded one by one. The surprise: this
path reports no error. Where anything is unusual it says so, and the caller goes row by row through
`decode_row`, which gives the same pixels or names what is damaged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg

from wdtrain import triple
from wdtrain.store import native, tar
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, member_bytes, member_shapes

_PNG_PREFIX_BYTES = 43
"""Signature, IHDR, and the head of the IDAT up to the first stored part."""


@dataclass(frozen=True)
class Target:
    """Where n rows go: overlay uint8 [n, h, w, 3], mask uint8 [n, h, w], depth [n, h, w] of the
    dataset's dtype, names uint8 [n, 100] (the name of each overlay's member)."""

    overlay: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    names: np.ndarray

    def rows(self, start: int, stop: int) -> Target:
        """Views of rows [start, stop)."""
        part = slice(start, stop)
        return Target(self.overlay[part], self.mask[part], self.depth[part], self.names[part])


class Gathered:
    """Rows of several blocks, in any order: `rows[i]` of `blocks[slots[i]]` is the i-th."""

    def __init__(
        self, blocks: Sequence[BlockIndex], slots: np.ndarray, rows: np.ndarray, manifest: Manifest
    ) -> None:
        self._blocks = list(blocks)  # hold the bytes that the addresses point into
        self._slots, self._manifest = slots, manifest
        self.is_raw = manifest.encoding == "raw"
        starts = np.empty((4, len(rows)), np.int64)
        self._sizes = np.empty((4, len(rows)), np.int64)
        bases = np.empty(len(rows), np.int64)
        for slot, block in enumerate(self._blocks):
            mine = np.flatnonzero(slots == slot)
            starts[:, mine] = block.starts[rows[mine]].T
            self._sizes[:, mine] = block.sizes[rows[mine]].T
            bases[mine] = native.address_of(block.data)
        self._starts = starts
        self._addresses = starts + bases
        self._copied = _copied_starts(self._addresses, self._sizes, manifest)

    def gather(self, start: int, stop: int, target: Target) -> bool:
        """All that needs no JPEG decoder: names, masks, depths, and raw overlays of rows
        [start, stop) are in `target`. False where one is unusual (some may be written)."""
        if native.LIBRARY is None:
            return False
        part, stored = slice(start, stop), (self._manifest.height, self._manifest.width)
        if target.mask.shape[1:] == stored:
            return self._gather(part, target)
        shape = (stop - start, *stored)
        overlay = np.empty((*shape, 3), np.uint8) if self.is_raw else target.overlay
        mask, depth = np.empty(shape, np.uint8), np.empty(shape, target.depth.dtype)
        if not self._gather(part, Target(overlay, mask, depth, target.names)):
            return False
        if self.is_raw:
            _resize(overlay, target.overlay, cv2.INTER_AREA)
        _resize(mask, target.mask, cv2.INTER_AREA)
        _resize(depth, target.depth, cv2.INTER_NEAREST_EXACT)
        return True

    def _gather(self, part: slice, target: Target) -> bool:
        """`gather` at the stored size."""
        if self.is_raw:
            arrays = (target.names, target.overlay, target.mask, target.depth)
            native.copy_rows(self._copied, part.start, arrays)
            return True
        native.copy_rows(self._copied, part.start, (target.names,))
        return all(
            self._slice_pngs(column, part, array) or self._decode_pngs(column, part, array)
            for column, array in ((1, target.mask), (2, target.depth))
        )

    def decode(self, start: int, stop: int, target: Target) -> bool:
        """The overlays of rows [start, stop) of an `image` dataset are in `target`. False where
        one is unusual."""
        part = slice(start, stop)
        return self._decode_at_once(part, target.overlay) or self._decode_singly(
            part, target.overlay
        )

    def _decode_at_once(self, part: slice, overlay: np.ndarray) -> bool:
        """By one call that holds no interpreter lock."""
        stored, size = (self._manifest.height, self._manifest.width), overlay.shape[1:3]
        scale, decoded = _dct_scale(stored, size)
        is_sized = decoded == size
        into = overlay if is_sized else np.empty((len(overlay), *decoded, 3), np.uint8)
        addresses, sizes = self._addresses[0, part], self._sizes[0, part]
        if not native.decode_jpegs(addresses, sizes, stored, scale, into):
            return False
        if not is_sized:
            _resize(into, overlay, cv2.INTER_AREA)
        return True

    def _decode_singly(self, part: slice, overlay: np.ndarray) -> bool:
        jpegs = zip(self._members(0, part), overlay, strict=True)
        stored = (self._manifest.height, self._manifest.width)
        decode, shape = simplejpeg.decode_jpeg, (*stored, 3)
        try:
            if overlay.shape[1:] != shape:
                return all(_decode_scaled(jpeg, row, stored) for jpeg, row in jpegs)
            return all(
                decode(jpeg, "RGB", strict=True, buffer=row).shape == shape for jpeg, row in jpegs
            )
        except ValueError:
            return False

    def _slice_pngs(self, column: int, part: slice, array: np.ndarray) -> bool:
        """Stored PNGs, as `.tar.zst` shards have them: copied out without a decoder."""
        addresses, sizes = self._addresses[column, part], self._sizes[column, part]
        prefix = _png_prefix(*array.shape[1:], array.dtype.str)
        is_sliced = native.slice_pngs(addresses, sizes, prefix, array)
        if is_sliced and array.itemsize == 2 and sys.byteorder == "little":
            array.byteswap(inplace=True)  # PNG is big-endian
        return is_sliced

    def _decode_pngs(self, column: int, part: slice, array: np.ndarray) -> bool:
        """Any other PNGs, as `.tar` shards have them."""
        try:
            for png, row in zip(self._members(column, part), array, strict=True):
                pixels = triple.decode_png(png, name="", dtype=array.dtype)
                if pixels.shape != row.shape:
                    return False
                row[...] = pixels
        except triple.TripleError:
            return False
        return True

    def _members(self, column: int, part: slice) -> Iterator[memoryview]:
        """The stored bytes of a member of each row."""
        views = [memoryview(block.data) for block in self._blocks]
        starts = self._starts[column, part]
        ends = (starts + self._sizes[column, part]).tolist()
        for slot, start, end in zip(self._slots[part].tolist(), starts.tolist(), ends, strict=True):
            yield views[slot][start:end]


def _copied_starts(starts: np.ndarray, sizes: np.ndarray, manifest: Manifest) -> np.ndarray:
    """int64 [1, n], or of raw samples [4, n]: where begins what is copied as it lies there, the
    name and the pixels; from the starts and sizes [4, n] of the members.

    The name is the start of the header before a member; pixels are its end, after that of `.npy`.
    """
    names = starts[:1] - tar.BLOCK
    if manifest.encoding != "raw":
        return names
    payloads = [[member_bytes(*of)] for of in member_shapes(manifest)]
    return np.concatenate([names, starts[:3] + sizes[:3] - payloads])


def copied_columns(block: BlockIndex) -> np.ndarray:
    """int64 [4]: where name, overlay, mask and depth begin in each sample of a raw block."""
    return _copied_starts(block.starts[:1].T, block.sizes[:1].T, block.manifest)[:, 0]


class MappedRows(Gathered):
    """Rows of raw samples that lie in mapped files, known by their addresses alone.

    For what was verified and looked into before: nothing is read, parsed or copied but the rows.
    """

    def __init__(self, addresses: np.ndarray, held: object, manifest: Manifest) -> None:
        """`addresses`: int64 [4, n] of names and pixels; `held` keeps the mappings alive."""
        self._copied, self._held, self._manifest, self.is_raw = addresses, held, manifest, True


def _dct_scale(stored: tuple[int, int], size: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """The smallest eighths at which a JPEG is at least of `size`, at most 8, and its size then."""
    for scale in range(1, 8):
        height, width = (-(-side * scale // 8) for side in stored)
        if height >= size[0] and width >= size[1]:
            return scale, (height, width)
    return 8, stored


def _decode_scaled(jpeg: memoryview, row: np.ndarray, stored: tuple[int, int]) -> bool:
    """A larger JPEG, decoded at a DCT scale and resized into `row` [h, w, 3]."""
    if triple.overlay_shape(jpeg) != stored:
        return False
    rgb = triple.decode_overlay(jpeg, at_least=row.shape[:2])
    _resize(rgb[None], row[None], cv2.INTER_AREA)
    return True


def _resize(pictures: np.ndarray, target: np.ndarray, interpolation: int) -> None:
    """As `triple.resize_triple_arrays` does each, into target [n, h, w] or [n, h, w, 3]."""
    height, width = target.shape[1:3]
    if pictures.shape[1:3] == (height, width):
        target[...] = pictures
        return
    for picture, row in zip(pictures, target, strict=True):
        cv2.resize(picture, (width, height), dst=row, interpolation=interpolation)


@lru_cache(maxsize=16)
def _png_prefix(height: int, width: int, dtype: str) -> bytes:
    """What every stored PNG of this size and dtype begins with."""
    plain = triple.encode_png(np.zeros((height, width), np.dtype(dtype)), stored=True)
    return plain[:_PNG_PREFIX_BYTES]
