"""A frame is inflated alone and verified; the seek table is the published format's."""

from __future__ import annotations

import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store import frames

BLOCKS = st.lists(st.binary(max_size=3000), min_size=1, max_size=6)


def packed(blocks: list[bytes]) -> tuple[bytes, bytes]:
    """(frames, seek table) of these blocks."""
    compress = frames.FrameCompressor(9)
    parts = [compress(block) for block in blocks]
    entries = [
        (len(part), len(block), frames.frame_checksum(part))
        for part, block in zip(parts, blocks, strict=True)
    ]
    return b"".join(parts), frames.write_seek_table(entries)


@given(BLOCKS)
def test_each_block_comes_back_alone(blocks: list[bytes]) -> None:
    data, table_bytes = packed(blocks)
    file_bytes = len(data) + len(table_bytes)
    assert len(table_bytes) == frames.seek_table_bytes(len(blocks))
    table = frames.read_seek_table(table_bytes, file_bytes=file_bytes)
    for block, offset, size, inflated, checksum in zip(
        blocks, table.offsets, table.packed, table.inflated, table.checksums, strict=True
    ):
        assert frames.inflate(data[offset : offset + size], size=int(inflated)) == block
        assert int(checksum) == xxhash.xxh64_intdigest(block) & 0xFFFFFFFF


def test_the_seek_table_is_that_of_format_0_1_0() -> None:
    table = frames.write_seek_table([(10, 20, 0xDEADBEEF), (30, 40, 1)])
    body = struct.pack("<6I", 10, 20, 0xDEADBEEF, 30, 40, 1)
    expected = struct.pack("<II", 0x184D2A5E, 33) + body
    assert table == expected + struct.pack("<IBI", 2, 0x80, 0x8F92EAB1)


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_flipped_bit_never_inflates_to_other_bytes(block: bytes, data: st.DataObject) -> None:
    frame = bytearray(frames.FrameCompressor(9)(block))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        got = frames.inflate(bytes(frame), size=len(block))
    except frames.FrameError:
        return
    assert got == block  # a reserved bit may be free to flip; the content may not


@pytest.mark.parametrize("cut", [0, 5, 20])
def test_refuses_a_table_that_is_cut_off(cut: int) -> None:
    data, table = packed([b"a", b"b"])
    with pytest.raises(frames.FrameError):
        frames.read_seek_table(table[:cut], file_bytes=len(data) + cut)


def test_refuses_a_table_that_does_not_fill_the_file() -> None:
    data, table = packed([b"a", b"b"])
    with pytest.raises(frames.FrameError, match="add up"):
        frames.read_seek_table(table, file_bytes=len(data) + len(table) + 1)
