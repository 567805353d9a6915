"""OpenEXR files of the plain sort are read to the bit; others are refused with what to do."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.fields import FieldError, declared, levels

KINDS = {"uint32": 0, "float16": 1, "float32": 2}
NONE, RLE, ZIPS, ZIP = 0, 1, 2, 3


def text(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def exr_of(
    channels: dict[str, np.ndarray], compression: int = ZIP, *, flags: int = 0, **more: Any
) -> bytes:
    """An OpenEXR file of channels [h, w]; more: `top`, `display`, `backwards`."""
    height, width = next(iter(channels.values())).shape
    top = more.get("top", 0)
    window = struct.pack("<4i", 5, top, 4 + width, top + height - 1)
    chlist = b"".join(
        text(name) + struct.pack("<IIII", KINDS[str(channels[name].dtype)], 0, 1, 1)
        for name in sorted(channels)
    )
    attributes = [
        ("channels", "chlist", chlist + b"\0"),
        ("compression", "compression", bytes([compression])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", more.get("display", window)),
    ]
    head = b"v/1\x01" + struct.pack("<I", 2 | flags)
    for name, kind, body in attributes:
        head += text(name, kind) + struct.pack("<I", len(body)) + body
    head += b"\0"
    step = 16 if compression == ZIP else 1
    blocks = []
    for y in range(0, height, step):
        raw = b"".join(
            channels[name][row].tobytes()
            for row in range(y, min(y + step, height))
            for name in sorted(channels)
        )
        packed = pack(raw, compression)
        blocks.append(struct.pack("<ii", y + top, len(packed)) + packed)
    order = range(len(blocks))[:: -1 if more.get("backwards") else 1]
    places, at, body = [0] * len(blocks), len(head) + 8 * len(blocks), b""
    for number in order:
        places[number] = at + len(body)
        body += blocks[number]
    return head + struct.pack(f"<{len(places)}Q", *places) + body


def pack(raw: bytes, compression: int) -> bytes:
    if compression == NONE:
        return raw
    split = np.frombuffer(raw[::2] + raw[1::2], np.uint8).astype(int)
    steps = split.copy()
    steps[1:] = split[1:] - split[:-1] + 128
    changed = steps.astype(np.uint8).tobytes()
    packed = runs(changed) if compression == RLE else zlib.compress(changed)
    return packed if len(packed) < len(raw) else raw


def runs(data: bytes) -> bytes:
    """Runs of 3 to 128, and what is between them."""
    out, at, plain = b"", 0, b""
    while at < len(data):
        count = 1
        while count < 128 and data[at : at + 1] == data[at + count : at + count + 1]:
            count += 1
        if count >= 3:
            out += (struct.pack("b", -len(plain)) + plain if plain else b"") + bytes([count - 1])
            out, plain, at = out + data[at : at + 1], b"", at + count
        else:
            plain, at = plain + data[at : at + 1], at + 1
            if len(plain) == 127:
                out, plain = out + struct.pack("b", -127) + plain, b""
    return out + (struct.pack("b", -len(plain)) + plain if plain else b"")


def soft(height: int, width: int, dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.integers(1, 900, (height, -(-width // 7))), 7, 1)[:, :width]
    return (steps / (100 if dtype != np.uint32 else 1)).astype(dtype)


@given(
    st.sampled_from([NONE, RLE, ZIPS, ZIP]),
    st.sampled_from([np.float16, np.float32, np.uint32]),
    st.integers(1, 40),
    st.integers(1, 50),
    st.booleans(),
    st.integers(-9, 9),
)
def test_lines_are_read_to_the_bit(
    compression: int, dtype: Any, height: int, width: int, backwards: bool, top: int
) -> None:
    depth = soft(height, width, dtype)
    channels = {"Z": depth, "A": soft(height, width, np.float16, 1)}
    data = exr_of(channels, compression, backwards=backwards, top=top)
    found = levels.read(data, file="x.exr")
    assert found.full == 0
    np.testing.assert_array_equal(found.values, depth)
    np.testing.assert_array_equal(
        levels.read(exr_of({"any": depth}, compression), file="x").values, depth
    )


def test_pythons_own_picture_is_read() -> None:
    """Written by another program: of the standard library's tests, where they are installed."""
    import test as standard

    folders = [Path(folder) for folder in standard.__path__]
    paths = [path for folder in folders for path in folder.rglob("python.exr")]
    if not paths:
        pytest.skip("the standard library's tests are not installed")
    data = bytearray(paths[0].read_bytes())
    with pytest.raises(FieldError, match=r"^x has the channels 'A, B, G, R', and none of them"):
        levels.read(bytes(data), file="x")
    data[data.index(b"R\0\x01\0")] = ord("Z")
    found = levels.read(bytes(data), file="x").values
    assert found.shape == (16, 16)
    red = np.asarray(levels.read(paths[0].with_suffix(".png").read_bytes(), file="x").rgb())[..., 0]
    assert np.corrcoef(found.ravel(), red.ravel().astype(float))[0, 1] > 0.95


def test_depth_of_a_renderer_comes_out_in_metres() -> None:
    depth = np.clip(soft(20, 30, np.float32), 0.6, 8)
    depth[:3] = np.inf
    field: Any = declared("depth", "depth", {"unit": "m"})
    grey = exr_of({"B": depth, "G": depth, "R": depth})
    for data in (exr_of({"View Layer.Depth.Z": depth, "R": depth}), exr_of({"Y": depth}), grey):
        got = field.decode(field.read(data, file="x"))
        assert np.isnan(got[:3]).all()
        np.testing.assert_allclose(got[3:], depth[3:], rtol=1e-4)


DEPTH = soft(20, 30, np.float32)
PLAIN = exr_of({"Z": DEPTH})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (exr_of({"Z": DEPTH}, flags=0x200), "of tiles, of deep data or of several parts"),
        (exr_of({"Z": DEPTH}, flags=0x1000), "of tiles, of deep data or of several parts"),
        (exr_of({"Z": DEPTH}, 4), "of compression PIZ; ZIP, ZIPS, RLE and none are read"),
        (exr_of({"Z": DEPTH}, 77), "of compression 77"),
        (exr_of({"R": DEPTH, "G": DEPTH + 1, "B": DEPTH}), "has the channels 'B, G, R'"),
        (exr_of({"Z": DEPTH, "depth": DEPTH}), "has the channels 'Z, depth'"),
        (exr_of({"Z": DEPTH}, display=bytes(16)), "cut out of a larger one"),
        (PLAIN[:200], "damaged"),
        (PLAIN[:-30], "is damaged"),
        (PLAIN[:40], "is damaged"),
        (PLAIN[:8], "is damaged"),
        (b"v/1\x01", "is damaged"),
    ],
)
def test_what_is_not_read_is_refused_with_what_to_do(data: bytes, said: str) -> None:
    with pytest.raises(FieldError, match=rf"^x\.exr .*{said}"):
        levels.read(data, file="x.exr")


def test_a_size_is_judged_by_the_head_alone() -> None:
    window = struct.pack("<4i", 5, 0, 34, 19)
    for large in ((0, 0, 16000, 16000), (0, 0, 1 << 30, 1 << 30), (5, 5, 2, 2)):
        data = PLAIN.replace(window, struct.pack("<4i", *large))
        with pytest.raises(FieldError, match=r"^x\.exr .*pixels"):
            levels.read(data, file="x.exr")


@given(st.sampled_from([NONE, RLE, ZIP]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))))
def test_whatever_is_damaged_is_refused_by_name(
    compression: int, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(exr_of({"Z": DEPTH}, compression))
    for place, value in changes:
        data[4 + int(place * (len(data) - 5))] = value
    try:
        assert levels.read(bytes(data), file="x.exr").values.ndim == 2
    except FieldError as error:
        assert str(error).startswith("x.exr")  # noqa: PT017
