"""Arrays as `.npy` (and `.npz`) bytes: our own, read strictly, and those that a person brings."""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import Final

import numpy as np

from wdtrain.fields.errors import MOST_PIXELS, FieldError, decoding

MOST_BYTES: Final = 8 * MOST_PIXELS
"""Of a person's array; it is judged by its head, before it is made room for."""
_STORED_START: Final = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{ *'descr': *'(?P<dtype>[|<=]u[12])', *"
    rb"'fortran_order': *False, *"
    rb"'shape': *\((?P<shape>[0-9]{1,9}(?:, *[0-9]{1,9}){0,3}),? *\),? *\} *\n",
    re.DOTALL,
)
"""The head of the `.npy` arrays that are stored (format 1.0). numpy's own reader evaluates the
text, which fails in many ways, and makes room for whatever shape it names."""
_HEAD: Final = {
    b"descr": rb"['\"]([<>=|]?(?:b1|[iu][1248]|f(?:2|4|8|16)))['\"]",
    b"fortran_order": rb"(True|False)",
    b"shape": rb"\(([0-9, ]{0,80})\)",
}
"""What the head of a `.npy` array of numbers says, by name."""
_NPY, _NPZ = b"\x93NUMPY", b"PK\3\4"


def encode_npy(array: np.ndarray) -> bytes:
    """`.npy` bytes (NumPy format 1.0) of a C-contiguous array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_npy_header(data: bytes | memoryview) -> tuple[tuple[int, ...], np.dtype, int] | None:
    """(shape, dtype, bytes of the header) of a `.npy` array of codes in C order; None for others,
    whose numbers or order no stored array has."""
    found = _STORED_START.match(data)
    if found is None or found.end() != 10 + int.from_bytes(found["size"], "little"):
        return None
    shape = tuple(int(side) for side in found["shape"].split(b","))
    return shape, np.dtype(found["dtype"].decode()), found.end()


def decode_npy(data: bytes | memoryview, *, name: str) -> np.ndarray:
    """The array of `.npy` bytes that were stored, a view of them. Pickle is never decoded."""
    header = read_npy_header(data)
    if header is None:
        raise FieldError(f"{name} is not a readable .npy array (of uint8 or uint16, in C order)")
    shape, dtype, start = header
    wanted, found = math.prod(shape) * dtype.itemsize, len(data) - start
    if wanted != found:
        raise FieldError(
            f"{name} is a .npy array {shape} of {wanted:,} bytes, and {found:,} follow its header"
        )
    return np.ndarray(shape, dtype, data, start)


def is_npy(data: bytes) -> bool:
    """Whether a file holds `.npy` or `.npz`."""
    return data.startswith((_NPY, _NPZ))


def read_npy(data: bytes, *, file: str) -> np.ndarray:
    """The array of numbers of a person's `.npy` file, or the only one of a `.npz`. FieldError names
    the file. Pickle is never decoded."""
    if data.startswith(_NPZ):
        data = _only_member(data, file)
    shape, dtype, in_columns, start = _read_head(data, file)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data) - start:
        raise FieldError(
            f"{file} is a .npy array {list(shape)} of {wanted:,} bytes, and "
            f"{len(data) - start:,} follow its header: it is cut off or damaged"
        )
    array: np.ndarray = np.frombuffer(data, dtype, offset=start)
    array = array.reshape(shape, order="F" if in_columns else "C")
    return array.astype(array.dtype.newbyteorder("="))


def _read_head(data: bytes, file: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Shape, dtype, whether the first index runs fastest, and where the values begin. numpy's own
    reader evaluates the text, which several threads at once cannot do (CPython 3.11)."""
    width = 2 if data[6:7] == b"\x01" else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    text = data[8 + width : start]
    found = {
        name: re.search(rb"['\"]%b['\"]\s*:\s*%b" % (name, value), text)
        for name, value in _HEAD.items()
    }
    descr, order, shape = found.values()
    kind = re.search(rb"['\"]descr['\"]\s*:\s*(['\"][^'\"]*['\"]|\[.*\])", text)
    if kind is not None and descr is None:
        dtype = kind[1].decode("latin-1").strip("'\"")[:40]
        dtype = "object" if dtype == "|O" else dtype
        raise FieldError(f"{file} is an array of {dtype}; numbers are needed")
    if descr is None or order is None or shape is None or len(data) < start:
        raise FieldError(f"{file} cannot be decoded (its head is no .npy header)")
    dtype = np.dtype(descr[1].decode())
    sides = tuple(int(side) for side in shape[1].split(b",") if side.strip())
    return sides, dtype, order[1] == b"True", start


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
