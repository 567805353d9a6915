"""Willem van Schaik's PngSuite: 26 of its pictures, and the damage that its broken ones have.

`pngsuite.zip` holds them with their licence, as pypng distributes them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fields.test_levels import by_pillow
from wdtrain.fields import FieldError, ImageField, levels

with zipfile.ZipFile(Path(__file__).parent / "pngsuite.zip") as _archive:
    SUITE = {name: _archive.read(name) for name in _archive.namelist() if name.endswith(".png")}
TRANSPARENT = {name for name in SUITE if name[4] in "46" or name[0] == "t"}
"""By their names: colour types with alpha, and those with a transparent colour."""
PLAIN, WHITE = ImageField("photo"), ImageField("photo", over="#ffffff")


def over_white(data: bytes) -> np.ndarray:
    """uint8 [h, w, 3] as Pillow lays a picture over white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    page.alpha_composite(picture)
    return np.asarray(page.convert("RGB"))


@pytest.mark.parametrize("name", sorted(set(SUITE) - TRANSPARENT))
def test_each_picture_is_read_as_pillow_reads_it(name: str) -> None:
    np.testing.assert_array_equal(PLAIN.read(SUITE[name], file=name), by_pillow(SUITE[name]))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", sorted(TRANSPARENT))
def test_each_transparent_picture_is_refused_or_lies_over_white_as_pillow_has_it(name: str) -> None:
    data = SUITE[name]
    with pytest.raises(FieldError, match=rf"{name} is transparent in parts.*over=#ffffff"):
        PLAIN.read(data, file=name)
    got = WHITE.read(data, file=name)
    if name != "tbbn1g04.png":
        np.testing.assert_array_equal(got, over_white(data))
        return
    # Pillow compares samples that it has widened to 8 bits with the colour as it is stored.
    found = levels.read(data, file=name)
    at = data.index(b"tRNS")
    is_clear = found.values == int.from_bytes(data[at + 4 : at + 6])
    assert is_clear.any()
    expected = np.where(is_clear, 255, found.values * 17)
    np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, 2))


def with_head(data: bytes, at: int, value: int) -> bytes:
    """Another byte in the header, whose checksum is right."""
    head = bytearray(data[12:29])
    head[4 + at] = value
    return data[:12] + bytes(head) + struct.pack(">I", zlib.crc32(head)) + data[33:]


GOOD = SUITE["basn0g08.png"]
_DATA = GOOD.index(b"IDAT") - 4
_DATA_BYTES = 12 + int.from_bytes(GOOD[_DATA : _DATA + 4])
_END_OF_DATA = _DATA + _DATA_BYTES
BROKEN = {
    "xs1: the first byte of the signature": b"\0" + GOOD[1:],
    "xs2: the second byte": GOOD[:1] + b"\0" + GOOD[2:],
    "xs4: the fourth byte": GOOD[:3] + b"\0" + GOOD[4:],
    "xs7: the seventh byte": GOOD[:6] + b" " + GOOD[7:],
    "xcr: carriage returns added": GOOD.replace(b"\n", b"\r\n"),
    "xlf: line feeds taken away": GOOD.replace(b"\r\n", b"\n"),
    "xc1: colour type 1": with_head(GOOD, 9, 1),
    "xc9: colour type 9": with_head(GOOD, 9, 9),
    "xd0: 0 bits": with_head(GOOD, 8, 0),
    "xd3: 3 bits": with_head(GOOD, 8, 3),
    "xd9: 99 bits": with_head(GOOD, 8, 99),
    "xhd: the header's checksum": GOOD[:29] + b"\0\0\0\0" + GOOD[33:],
    "xcs: the data's checksum": GOOD[: _END_OF_DATA - 4] + b"\0\0\0\0" + GOOD[_END_OF_DATA:],
    "xdt: no data": GOOD[:_DATA] + GOOD[_END_OF_DATA:],
}
"""What is wrong with the suite's own broken pictures, done to a whole one."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_refused_by_name(name: str) -> None:
    with pytest.raises(FieldError, match=r"^x\.png "):
        PLAIN.read(BROKEN[name], file="x.png")
