"""Arrays as `.npy` (and `.npz`) bytes: our own, read strictly, and those that a person brings."""

from __future__ import annotations

import io
import zipfile
from typing import Final

import numpy as np

from wdtrain import triple
from wdtrain.fields.errors import FieldError, decoding

MOST_BYTES: Final = 1 << 32
"""Of a person's array; it is judged by its head, before it is made room for."""
_NPY, _NPZ = b"\x93NUMPY", b"PK\3\4"


def encode(array: np.ndarray) -> bytes:
    """`.npy` bytes (NumPy format 1.0) of a C-contiguous array."""
    return triple.encode_npy(array)


def read_header(data: bytes | memoryview) -> tuple[tuple[int, ...], np.dtype, int] | None:
    """(shape, dtype, bytes of the header) of a `.npy` array of codes in C order, else None."""
    return triple.read_npy_header(data)


def decode(data: bytes | memoryview, *, name: str) -> np.ndarray:
    """The array of `.npy` bytes that were stored, a view of them. Pickle is never decoded."""
    return triple.decode_npy(data, name=name)


def is_array(data: bytes) -> bool:
    """Whether a file holds `.npy` or `.npz`."""
    return data.startswith((_NPY, _NPZ))


def read(data: bytes, *, file: str) -> np.ndarray:
    """The array of numbers of a person's `.npy` file, or the only one of a `.npz`. FieldError names
    the file. Pickle is never decoded."""
    if data.startswith(_NPZ):
        data = _only_member(data, file)
    with decoding(file):
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_head = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_head(stream)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise FieldError(f"{file} is an array of {dtype}; numbers are needed")
        wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if wanted != len(data) - stream.tell():
            raise FieldError(
                f"{file} is a .npy array {list(shape)} of {wanted:,} bytes, and "
                f"{len(data) - stream.tell():,} follow its header: it is cut off or damaged"
            )
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _only_member(data: bytes, file: str) -> bytes:
    """The `.npy` bytes of the only array of a `.npz`."""
    with decoding(file), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) != 1:
            names = ", ".join(info.filename.removesuffix(".npy") for info in members[:6]) or "none"
            raise FieldError(
                f"{file} holds {len(members)} arrays ({names}); one is needed: save it by itself "
                "as .npy"
            )
        if members[0].file_size > MOST_BYTES:
            raise FieldError(
                f"{file} holds an array of {members[0].file_size:,} bytes; up to {MOST_BYTES:,} "
                "are read"
            )
        return archive.read(members[0])
