"""The compiled inner loops of `_rows.c`, `_blocks.c`, `_jpegs.c` and `_shrink.c`, through ctypes,
which releases the interpreter lock; and the libraries they call, which other packages brought.

`LIBRARY` is None where they were not built (no C compiler at installation, or a bare checkout).
Every caller then takes its Python path, and also whenever a function here says that it met
something unusual: that path alone knows what is wrong and names it.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import sys
import threading
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard

from wdtrain.fields import resize
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.store.tar import BLOCK

_POINTER = ctypes.c_void_p
_POINTERS = (_POINTER, _POINTER)
_COUNT = ctypes.c_int64

_JPEG_CALLS: Final = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_read_scanlines",
    "jpeg_finish_decompress",
    "jpeg_destroy_decompress",
)
"""What `_jpegs.c` calls of libjpeg-turbo, in its order."""

CODECS: Final = {"": 0, "jpeg": 1, "png": 2, "npy": 3}
"""As `_rows.h` counts them; a column without one is passed over."""

_ZSTD_CALLS: Final = (
    "ZSTD_DCtx_setParameter",
    "ZSTD_decompressDCtx",
    "ZSTD_isError",
    "ZSTD_findFrameCompressedSize",
)
"""What `_blocks.c` calls of zstd, in its order."""

_per_thread = threading.local()


class Members(ctypes.Structure):
    """What a sample's members are called and how they lie: `Members` of `_rows.h`."""

    _fields_ = (("suffixes", _POINTER), ("columns", _COUNT), ("payloads", _POINTER))

    @classmethod
    def of(cls, suffixes: Sequence[str], payloads: Sequence[int] | None) -> Members:
        names = _names(suffixes)
        ends = None if payloads is None else (_COUNT * len(payloads))(*payloads)
        members = cls(
            ctypes.cast(names, _POINTER),
            len(suffixes),
            ctypes.cast(ends, _POINTER) if ends else None,
        )
        members.held = names, ends
        return members


class Column(ctypes.Structure):
    """How one field of all samples is stored: `Column` of `_rows.h`."""

    _fields_ = (
        ("codec", _COUNT),
        ("line_bytes", _COUNT),
        ("value_bytes", _COUNT),
        ("prefix", ctypes.c_char_p),
        ("prefix_bytes", _COUNT),
        ("scale", _COUNT),
        ("decoded", _COUNT * 2),
    )


class Form(ctypes.Structure):
    """How samples are stored, as passed to the compiled part: `Form` of `_rows.h`."""

    _fields_ = (
        ("columns", ctypes.POINTER(Column)),
        ("count", _COUNT),
        ("height", _COUNT),
        ("width", _COUNT),
        ("is_raw", _COUNT),
        ("calls", _POINTER),
        ("zlib", _POINTER),
    )

    @classmethod
    def of(
        cls,
        columns: Sequence[Column],
        stored: tuple[int, int],
        *,
        is_raw: bool,
        calls: Any,
        zlib: Any,
    ) -> Form:
        """calls, zlib: of `jpeg_calls` and `zlib_calls`, or None."""
        table = (Column * len(columns))(*columns)
        addresses = [None if one is None else ctypes.addressof(one) for one in (calls, zlib)]
        form = cls(table, len(columns), *stored, is_raw, *addresses)
        form.held = table, columns, calls, zlib
        return form


def _load() -> ctypes.CDLL | None:
    if sys.maxsize < 2**63 - 1 or sys.byteorder != "little":
        return None  # addresses are handed over as int64, and PNG's pixels are swapped
    here = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = here / f"_rows{suffix}"
        if path.exists():
            try:
                return open_library(path)
            except AttributeError:  # built of an older source: as good as none
                return None
    return None


def open_library(path: Path) -> ctypes.CDLL:
    """The compiled loops in a file, with the types of their functions."""
    library = ctypes.CDLL(str(path))
    library.wd_index.argtypes = [_POINTER, _COUNT, _POINTER, _COUNT, _COUNT, *_POINTERS]
    library.wd_alike.argtypes = [_POINTER, *[_COUNT] * 3, *_POINTERS, _POINTER]
    library.wd_fill.argtypes = [ctypes.POINTER(Form), _POINTER, _COUNT, *_POINTERS]
    library.wd_decode_jpegs.argtypes = [_POINTER] * 4 + [_COUNT, _POINTER, _COUNT]
    library.wd_decode_jpegs.argtypes += _POINTERS
    library.wd_load.argtypes = [
        *_POINTERS,
        ctypes.POINTER(Members),
        _POINTER,
        _COUNT,
        _POINTER,
    ]
    covers = [_POINTER] * 2
    library.wd_shrink.argtypes = [_POINTER, *[_COUNT] * 4, *covers, *_POINTERS]
    library.wd_halve.argtypes = [_POINTER, *[_COUNT] * 4, _POINTER]
    library.wd_median.argtypes = [_POINTER, *[_COUNT] * 4, ctypes.c_int32, *covers, *_POINTERS]
    library.wd_median_of_four.argtypes = [_POINTER, *[_COUNT] * 4, ctypes.c_int32, *_POINTERS]
    library.wd_known_area.argtypes = [_POINTER, *[_COUNT] * 3, ctypes.c_uint8, *covers, *_POINTERS]
    library.wd_majority.argtypes = library.wd_median.argtypes
    for name in ("shrink", "halve", "median", "median_of_four", "known_area", "majority"):
        getattr(library, f"wd_{name}").restype = None
    for name in ("wd_index", "wd_alike", "wd_load", "wd_fill", "wd_decode_jpegs"):
        getattr(library, name).restype = _COUNT
    return library


LIBRARY: Final = _load()


def address_of(data: bytes | memoryview) -> int:
    """Where bytes lie in memory; good for as long as they are held."""
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address


def at(array: np.ndarray) -> int:
    """The address of a contiguous array; good for as long as it is held."""
    assert array.flags.c_contiguous
    address: int = array.__array_interface__["data"][0]
    return address


def _names(suffixes: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(suffixes))(*(f".{suffix}".encode() for suffix in suffixes))


def index_members(
    data: bytes | memoryview, suffixes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """int64 [samples, members] starts and sizes of a block of samples KEY.suffix, ...; None where
    it is anything else, or nothing was built."""
    if LIBRARY is None:
        return None
    columns = len(suffixes)
    room = len(data) // (BLOCK * columns) + 1
    starts, sizes = np.empty((2, room, columns), np.int64)
    names = _names(suffixes)
    address = address_of(data) if len(data) else 0
    samples = LIBRARY.wd_index(address, len(data), names, columns, room, at(starts), at(sizes))
    return None if samples < 0 else (starts[:samples], sizes[:samples])


def are_alike(
    data: bytes | memoryview,
    stride: int,
    starts: np.ndarray,
    sizes: np.ndarray,
    payloads: Sequence[int],
) -> bool:
    """Whether an indexed block's samples (int64 [n, members] starts and sizes) all lie alike,
    `stride` bytes apart, and their members begin alike: up to the last payloads[i] bytes of each,
    -1 for all. False also where nothing was built."""
    if LIBRARY is None or not len(starts):
        return False
    places = at(starts), at(sizes), (_COUNT * len(payloads))(*payloads)
    return bool(LIBRARY.wd_alike(address_of(data), len(starts), stride, len(payloads), *places))


def load(members: Members, blocks: Sequence[tuple[int, ...]]) -> tuple[int, float, float, float]:
    """Loads blocks (see `Block` of `_rows.h`). How many, fewer where the next one is unusual; and
    the seconds of reading, inflating and indexing."""
    library = zstd()
    assert LIBRARY is not None
    assert library is not None
    seconds = (ctypes.c_double * 3)()
    table = np.array(blocks, np.int64)
    done: int = LIBRARY.wd_load(
        library.calls, library.context(), members, at(table), len(blocks), seconds
    )
    return done, seconds[0], seconds[1], seconds[2]


def fill(
    form: Form, pieces: Sequence[tuple[int, int, int, int, int]], targets: Sequence[int]
) -> tuple[int, float, float]:
    """Fills pieces (addresses, sizes, stride, rows, at; see `Piece` of `_rows.h`) into the arrays
    of names and of each column that lie at `targets` (0: passed over). The pieces done, fewer where
    a row of the next one is unusual, and the seconds of gathering and of decoding."""
    assert LIBRARY is not None
    assert len(targets) == 1 + form.count, "other columns"
    seconds = (ctypes.c_double * 2)()
    table = np.array(pieces, np.int64)
    done: int = LIBRARY.wd_fill(
        form, at(table), len(pieces), (_POINTER * len(targets))(*targets), seconds
    )
    return done, seconds[0], seconds[1]


def decode_jpegs(
    calls: Any,
    sources: np.ndarray,
    sizes: np.ndarray,
    stored: tuple[int, int],
    scale: int,
    target: np.ndarray,
) -> bool:
    """target uint8 [n, h, w, 3] is filled with the RGB of n JPEGs of the stored (height, width),
    decoded at `scale` eighths; False where one is unusual. calls: of `jpeg_calls`."""
    assert LIBRARY is not None
    assert len(sources) == len(sizes) == len(target), "rows beyond the end"
    both = (_COUNT * 2)(*stored), scale, (_COUNT * 2)(*target.shape[1:3]), at(target)
    done = LIBRARY.wd_decode_jpegs(calls, at(sources), at(sizes), None, len(sources), *both)
    return bool(done == len(sources))


@cache
def jpeg_calls() -> Any:
    """The addresses of the libjpeg-turbo that Pillow has loaded; None where there is none of the
    interface that `_jpegs.c` knows, or it gives other pixels than `decode_jpeg`."""
    try:
        import PIL._imaging as imaging

        pillow = ctypes.CDLL(imaging.__file__)
        addresses = [ctypes.cast(getattr(pillow, name), _POINTER).value for name in _JPEG_CALLS]
    except (ImportError, AttributeError, OSError):
        return None
    calls = (_POINTER * len(addresses))(*addresses)
    return calls if _gives_the_same_pixels(calls) else None


def _gives_the_same_pixels(calls: Any) -> bool:
    if LIBRARY is None:
        return False
    stored = (40, 56)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).repeat(8, 0).repeat(8, 1)
    jpeg = encode_jpeg(pixels.astype(np.uint8))
    source, size = np.array([address_of(jpeg)]), np.array([len(jpeg)])
    for scale in (8, 4, 2):
        height, width = resize.scaled(stored, scale)
        expected = decode_jpeg(jpeg, at_least=(height, width))
        target = np.zeros((height, width, 3), np.uint8)
        is_done = decode_jpegs(calls, source, size, stored, scale, target[None])
        if not is_done or not np.array_equal(target, expected):
            return False
    return True


class Zstd:
    """A loaded zstd: the addresses of what `_blocks.c` calls, and contexts to decompress with."""

    def __init__(self, path: Path) -> None:
        """AttributeError or OSError where it is none."""
        self._library = ctypes.CDLL(str(path))
        addresses = [ctypes.cast(getattr(self._library, name), _POINTER) for name in _ZSTD_CALLS]
        self.calls = (_POINTER * len(addresses))(*(address.value for address in addresses))
        self._library.ZSTD_createDCtx.restype = _POINTER
        self._library.ZSTD_freeDCtx.argtypes = [_POINTER]

    def context(self) -> int:
        """This thread's own, freed when the thread ends."""
        if not hasattr(_per_thread, "context"):
            _per_thread.context = _Context(self._library)
        address: int = _per_thread.context.address
        return address


class _Context:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library, self.address = library, library.ZSTD_createDCtx()
        if not self.address:
            raise MemoryError("no memory for a zstd context")

    def __del__(self) -> None:
        self._library.ZSTD_freeDCtx(self.address)


@cache
def zstd() -> Zstd | None:
    """The zstd that the package `zstandard` brings for its second backend, since its first shows
    none; None where it cannot be had, or nothing was built."""
    if LIBRARY is None:
        return None
    for path in sorted(Path(zstandard.__file__).parent.glob("_cffi*")):
        try:
            return Zstd(path)
        except (AttributeError, OSError):
            continue
    return None


@cache
def zlib_calls() -> Any:
    """The addresses of `uncompress` and `crc32` of the zlib that Python itself uses; None where
    they are hidden."""
    names = [getattr(zlib, "__file__", None), None]
    for name in dict.fromkeys(names):
        try:
            library = ctypes.CDLL(name)
            calls = (library.uncompress, library.crc32)
            return (_POINTER * 2)(*(ctypes.cast(call, _POINTER).value for call in calls))
        except (AttributeError, OSError):
            continue
    return None
