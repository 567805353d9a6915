"""Arrays as `.npy` (and `.npz`) bytes: our own, read strictly, and those that a person brings."""

from __future__ import annotations

import numpy as np

from wdtrain import triple


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
    return data.startswith((b"\x93NUMPY", b"PK\3\4"))


def read(data: bytes, *, file: str) -> np.ndarray:
    """The array of a person's `.npy` file, or the only one of a `.npz`. FieldError names it."""
    raise NotImplementedError
