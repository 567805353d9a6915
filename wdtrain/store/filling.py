"""Many samples at once, from parsed blocks straight into the memory of a batch.

One compiled call fills many rows and holds no interpreter lock meanwhile. Columns that it does not
know (of another libjpeg, or of a kind that decodes by itself) are decoded here, member by member.
The surprise: this path reports no error. Where anything is unusual it says so, and the caller goes
row by row through `decode_row`, which gives the same pixels or names what is damaged.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from wdtrain.fields import Codec, Field, FieldError, ImageField, resize
from wdtrain.fields.npy import encode_npy
from wdtrain.fields.png import encode_png
from wdtrain.fields.resize import Size
from wdtrain.store import native, tar
from wdtrain.store.buffers import Recycled
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import (
    BlockIndex,
    check_member,
    decode_member,
    member_bytes,
    member_shapes,
)
from wdtrain.store.shrink import Resizer

_PNG_PREFIX_BYTES: Final = 43
"""Signature, IHDR, and the head of the IDAT up to the first stored part."""


@dataclass(frozen=True)
class RowBuffers:
    """Where n rows go: by field, uint8 or uint16 [n, h, w] or [n, h, w, channels], all of one
    (h, w); and names uint8 [n, 100], of the first member of each sample. What the buffers do not
    have of a dataset's fields is not decoded."""

    arrays: Mapping[str, np.ndarray]
    names: np.ndarray

    def rows(self, start: int, stop: int) -> RowBuffers:
        """Views of rows [start, stop)."""
        part = slice(start, stop)
        return RowBuffers(
            {name: array[part] for name, array in self.arrays.items()}, self.names[part]
        )

    @property
    def size(self) -> Size:
        """(height, width) of the rows."""
        height, width = next(iter(self.arrays.values())).shape[1:3]
        return height, width

    @cached_property
    def addresses(self) -> dict[str, int]:
        """Where the arrays lie, by field."""
        return {name: native.at(array) for name, array in self.arrays.items()}


class MemberPlaces:
    """Where the members of many rows lie in memory, in the order in which a window has them.

    addresses: int64 [1 + fields, n]; of encoded samples those of their members, with the sizes
    int64 [1 + fields, n]; of raw ones those of the name, and of the pixels of each field.
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


class _Column:
    """How one field's members become rows at a size."""

    def __init__(self, field: Field, manifest: Manifest, size: Size) -> None:
        stored = manifest.height, manifest.width
        self.field, self._manifest, self._stored = field, manifest, stored
        self._size, self._memory = size, Recycled()
        self.codec = field.codec(manifest.encoding)
        is_jpeg = self.codec == "jpeg"
        self._scale = resize.jpeg_scale(stored, size) if is_jpeg else resize.EIGHTHS
        self._decoded = resize.scaled(stored, self._scale)
        eighths = stored[0] * self._scale, stored[1] * self._scale
        self.is_sized = eighths == (size[0] * resize.EIGHTHS, size[1] * resize.EIGHTHS)
        self._resizer = Resizer(self._decoded, size, eighths=eighths)

    @cached_property
    def has_known_codec(self) -> bool:
        """Whether the compiled part decodes as the field does, which may have its own way."""
        own = type(self.field).decode_member not in (Field.decode_member, ImageField.decode_member)
        if self.codec != "jpeg":
            return not own
        return not own and self.field.channels == 3 and self.field.resizing.loop == "area"

    def compiled(self, codec: Codec | None) -> native.Column:
        """As passed to the compiled part; None: it skips this column."""
        shape, value_bytes = self.field.shape(*self._stored), self.field.dtype.itemsize
        prefix = b""
        if codec in ("png", "npy"):
            prefix = _prefix(codec, shape, self.field.dtype.str)
        line_bytes = math.prod(shape[1:]) * value_bytes
        return native.Column(
            native.CODECS[codec or ""],
            line_bytes,
            value_bytes,
            prefix,
            len(prefix),
            self._scale,
            self._decoded,
        )

    def scratch(self, rows: int) -> np.ndarray:
        """Room for rows as they are decoded, before they are brought to their size."""
        shape = (rows, *self.field.shape(*self._decoded))
        num_bytes = member_bytes(shape, self.field.dtype)
        return self._memory.take(num_bytes).view(self.field.dtype).reshape(shape)

    def bring(self, decoded: np.ndarray, into: np.ndarray) -> None:
        """Rows as they were decoded are at their size in `into`."""
        self._resizer.resize(self.field, decoded, into)

    def decode(self, members: Iterator[bytes], into: np.ndarray) -> bool:
        """The members, one by one, are in `into`; False where one is unusual."""
        try:
            for member, row in zip(members, into, strict=True):
                check_member(member, self.field, self._manifest)
                row[...] = decode_member(member, self.field, self._manifest, self._size)
        except FieldError:
            return False
        return True


class Filler:
    """Fills rows of batches at one (height, width) with the samples of one dataset: the `fields` of
    that name, in their order, or all."""

    def __init__(
        self, manifest: Manifest, size: Size, *, fields: Sequence[str] | None = None
    ) -> None:
        wanted = manifest.fields if fields is None else fields
        self._columns = {
            name: _Column(field, manifest, size)
            for name, field in manifest.fields.items()
            if name in wanted
        }
        is_raw = manifest.encoding == "raw"
        # PNGs of a `.tar` are deflated; those of a `.tar.zst` lie there pixel by pixel.
        is_deflated = not is_raw and not manifest.is_compressed
        calls = None if is_raw else native.jpeg_calls()
        zlib = native.zlib_calls() if is_deflated else None
        lacking = {"jpeg": not calls, "png": is_deflated and not zlib, "npy": False}
        self._single = {
            name: column
            for name, column in self._columns.items()
            if not is_raw and (lacking[column.codec] or not column.has_known_codec)
        }
        self._places = {name: at for at, name in enumerate(manifest.fields)}
        compiled = [self._compiled(field, manifest, size) for field in manifest.fields.values()]
        self._form = native.Form.of(
            compiled,
            (manifest.height, manifest.width),
            is_raw=is_raw,
            calls=calls,
            zlib=zlib,
        )
        self._is_at_once = not self._single and all(
            column.is_sized for column in self._columns.values()
        )

    def _compiled(self, field: Field, manifest: Manifest, size: Size) -> native.Column:
        column = self._columns.get(field.name)
        if column is None or field.name in self._single:
            return _Column(field, manifest, size).compiled(None)
        return column.compiled(column.codec)

    def fill(self, parts: Sequence[WindowSlice], target: RowBuffers) -> Filled:
        """The parts in turn, until a row of one is unusual (some of that one may be written)."""
        assert all(part.at + part.rows <= len(target.names) for part in parts), "beyond the end"
        if self._is_at_once:
            pieces = [part.window.piece(*part[1:]) for part in parts]
            return Filled(*self._fill(pieces, target.names, target.addresses))
        gathering = decoding = 0.0
        for done, part in enumerate(parts):
            filled = self._fill_part(part, target.rows(part.at, part.at + part.rows))
            gathering, decoding = gathering + filled.gathering, decoding + filled.decoding
            if not filled.parts:
                return Filled(done, gathering, decoding)
        return Filled(len(parts), gathering, decoding)

    def _fill(
        self, pieces: Sequence[Any], names: np.ndarray, addresses: Mapping[str, int]
    ) -> tuple[int, float, float]:
        targets = [native.at(names), *(addresses.get(name, 0) for name in self._places)]
        return native.fill(self._form, pieces, targets)

    def _fill_part(self, part: WindowSlice, into: RowBuffers) -> Filled:
        """One part, as stored or decoded at a DCT scale, and from there to the size wanted."""
        scratch: dict[str, np.ndarray] = {}
        addresses: dict[str, int] = {}
        for name, column in self._columns.items():
            if name not in self._single:
                if not column.is_sized:
                    scratch[name] = column.scratch(part.rows)
                addresses[name] = native.at(scratch.get(name, into.arrays[name]))
        piece = part.window.piece(part.start, part.rows, 0)
        done, gathering, decoding = self._fill([piece], into.names, addresses)
        started = time.perf_counter()
        if done:
            for name, array in scratch.items():
                self._columns[name].bring(array, into.arrays[name])
        rows = slice(part.start, part.start + part.rows)
        for name, column in self._single.items():
            members = part.window.members(self._places[name], rows)
            done = done and column.decode(members, into.arrays[name])
        return Filled(int(done), gathering, decoding + time.perf_counter() - started)


def _copied_starts(starts: np.ndarray, sizes: np.ndarray, manifest: Manifest) -> np.ndarray:
    """int64 [1 + fields, n]: where in raw samples begins what is copied as it is, the name
    and the pixels; from the starts and sizes [members, n].

    The name is the start of the header before a member; pixels are its end, after that of `.npy`.
    """
    payloads = [[member_bytes(*of)] for of in member_shapes(manifest)]
    return np.concatenate([starts[:1] - tar.BLOCK, starts[:-1] + sizes[:-1] - payloads])


def copied_columns(block: BlockIndex) -> np.ndarray:
    """int64 [1 + fields]: where the name and each field's pixels begin in each sample of a raw
    block."""
    return _copied_starts(block.starts[:1].T, block.sizes[:1].T, block.manifest)[:, 0]


@lru_cache(maxsize=64)
def _prefix(codec: Codec, shape: tuple[int, ...], dtype: str) -> bytes:
    """What every stored PNG, or every `.npy` array, of this shape and dtype begins with."""
    plain = np.zeros(shape, np.dtype(dtype))
    if codec == "npy":
        return encode_npy(plain)[: -plain.nbytes]
    return encode_png(plain, stored=True)[:_PNG_PREFIX_BYTES]
