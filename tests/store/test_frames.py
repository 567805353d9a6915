"""A frame is inflated alone and verified; the seek table is the published format's."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store import frames
from wdtrain.store.buffers import Recycled

BLOCKS = st.lists(st.binary(max_size=3000), min_size=1, max_size=6)
LEVELS = (-7, -1, 1, 9)


def packed(blocks: list[bytes], level: int = 9) -> tuple[bytes, bytes]:
    """(frames, seek table) of these blocks."""
    compress = frames.FrameCompressor(level)
    parts = [compress(block) for block in blocks]
    entries = [
        (len(part), len(block), frames.frame_checksum(part))
        for part, block in zip(parts, blocks, strict=True)
    ]
    return b"".join(parts), frames.write_seek_table(entries)


@given(BLOCKS, st.sampled_from(LEVELS))
def test_each_block_comes_back_alone(blocks: list[bytes], level: int) -> None:
    data, table_bytes = packed(blocks, level)
    file_bytes = len(data) + len(table_bytes)
    assert len(table_bytes) == frames.seek_table_bytes(len(blocks))
    table = frames.read_seek_table(table_bytes, file_bytes=file_bytes)
    for block, offset, size, inflated, checksum in zip(
        blocks, table.offsets, table.packed, table.inflated, table.checksums, strict=True
    ):
        assert frames.inflate(data[offset : offset + size], size=int(inflated)) == block
        assert int(checksum) == xxhash.xxh64_intdigest(block) & 0xFFFFFFFF


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [1, 1 << 17, (1 << 17) + 1, 5_000_001])
def test_blocks_of_any_size_come_back_in_memory_that_was_used(size: int, level: int) -> None:
    rng, memory = np.random.default_rng(size), Recycled()
    for values in (256, 4, 1):
        block = rng.integers(0, values, size, np.uint8).tobytes()
        data = frames.inflate(frames.FrameCompressor(level)(block), size=size, memory=memory)
        assert data == block
        place = np.frombuffer(data, np.uint8).ctypes.data
        del data
        assert memory.take(size).ctypes.data == place


@pytest.mark.parametrize("memory", [None, Recycled()], ids=["its own memory", "given memory"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_frame_that_was_tampered_with_is_not_inflated(
    level: int, memory: Recycled | None
) -> None:
    block = np.random.default_rng(0).integers(0, 9, 3000, np.uint8).tobytes()
    frame = frames.FrameCompressor(level)(block)
    for at in (1, 2, 3, 4):
        other = bytearray(frame)
        other[-at] ^= 1
        with pytest.raises(frames.FrameError):
            frames.inflate(bytes(other), size=len(block), memory=memory)
    for size in (len(block) - 1, len(block) + 1):
        with pytest.raises(frames.FrameError, match=f"bytes inflated where {size} were packed"):
            frames.inflate(frame, size=size, memory=memory)
    assert frames.inflate(frame, size=len(block), memory=memory) == block


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5, 100])
def test_a_frame_that_is_cut_off_is_not_inflated(lost: int) -> None:
    block = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    frame = frames.FrameCompressor(1)(block)
    with pytest.raises(frames.FrameError):
        frames.inflate(frame[:-lost], size=len(block))


def test_a_frame_without_its_checksum_flag_is_not_inflated() -> None:
    block = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    frame = bytearray(frames.FrameCompressor(1)(block))
    frame[4] ^= 4  # the flag (RFC 8878, section 3.1.1.1.1)
    frame[1500] ^= 1
    with pytest.raises(frames.FrameError):
        frames.inflate(bytes(frame), size=len(block))


def test_the_seek_table_is_that_of_format_0_1_0() -> None:
    table = frames.write_seek_table([(10, 20, 0xDEADBEEF), (30, 40, 1)])
    body = struct.pack("<6I", 10, 20, 0xDEADBEEF, 30, 40, 1)
    expected = struct.pack("<II", 0x184D2A5E, 33) + body
    assert table == expected + struct.pack("<IBI", 2, 0x80, 0x8F92EAB1)


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_flipped_bit_never_inflates_to_other_bytes(block: bytes, data: st.DataObject) -> None:
    frame = bytearray(frames.FrameCompressor(9)(block))
    assert frames.inflate(bytes(frame), size=len(block)) == block
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
