"""zstd frames and their seek table: one frame a block, each inflated and checked alone.

The table is that of the zstd seekable format 0.1.0 (facebook/zstd, contrib/seekable_format): a
skippable frame at the end of the file, which every zstd reader passes over. Its checksum of a frame
is the low 32 bits of XXH64 of the inflated bytes, which a frame's own last four bytes already are.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash
import zstandard

from wdtrain.store.buffers import Recycled

_SKIPPABLE_MAGIC: Final = 0x184D2A5E
_SEEKABLE_MAGIC: Final = 0x8F92EAB1
_HAS_CHECKSUMS: Final = 0x80
HEADER_BYTES: Final = 8
FOOTER_BYTES: Final = 9
_ENTRY: Final = np.dtype([("packed", "<u4"), ("inflated", "<u4"), ("checksum", "<u4")])

_per_thread = threading.local()


class FrameError(ValueError):
    """A frame or seek table that is not what was written."""


@dataclass(frozen=True)
class SeekTable:
    """Where the frames of a file lie: int64 offsets and sizes, uint32 checksums, all [frames]."""

    offsets: np.ndarray
    packed: np.ndarray
    inflated: np.ndarray
    checksums: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)


class FrameCompressor:
    """Compresses blocks to frames that carry their size and checksum. Not shared by threads."""

    def __init__(self, level: int) -> None:
        self._compressor = zstandard.ZstdCompressor(
            level=level, write_checksum=True, write_content_size=True
        )

    def __call__(self, data: bytes) -> bytes:
        return self._compressor.compress(data)


def inflate(frame: bytes | memoryview, *, size: int, memory: Recycled | None = None) -> memoryview:
    """The `size` bytes of a frame, its checksum verified; FrameError otherwise. Thread-safe.

    `memory`: where they are laid, to be used again when they are dropped.
    """
    if not hasattr(_per_thread, "decompressor"):
        _per_thread.decompressor = zstandard.ZstdDecompressor()
    data = (np.empty(size, np.uint8) if memory is None else memory.take(size)).data
    try:
        reader = _per_thread.decompressor.stream_reader(frame)
        inflated = reader.readinto(data)
        inflated += len(reader.read(1))  # to the end of the frame, which is its checksum
    except zstandard.ZstdError as error:
        raise FrameError(str(error)) from error
    if inflated != size:
        raise FrameError(f"{inflated} bytes inflated where {size} were packed")
    # zstd does not miss a checksum that was cut off, once all content is there.
    if len(frame) < 4 or frame_checksum(frame) != xxhash.xxh64_intdigest(data) & 0xFFFFFFFF:
        raise FrameError("its bytes do not fit its checksum")
    return data


def most_packed_bytes(num_bytes: int) -> int:
    """What a frame of so many bytes takes at most: ZSTD_compressBound, and the frame's own."""
    return num_bytes + num_bytes // 256 + 1024


def frame_checksum(frame: bytes | memoryview) -> int:
    """The frame's own checksum: its last four bytes (RFC 8878, section 3.1.1)."""
    value: int = struct.unpack("<I", frame[-4:])[0]
    return value


def write_seek_table(entries: list[tuple[int, int, int]]) -> bytes:
    """The skippable frame of (packed bytes, inflated bytes, checksum) of each frame in order."""
    body = np.array(entries, _ENTRY).tobytes()
    footer = struct.pack("<IBI", len(entries), _HAS_CHECKSUMS, _SEEKABLE_MAGIC)
    return struct.pack("<II", _SKIPPABLE_MAGIC, len(body) + len(footer)) + body + footer


def seek_table_bytes(num_frames: int) -> int:
    """Size of the seek table of so many frames: exact, from the format."""
    return HEADER_BYTES + num_frames * _ENTRY.itemsize + FOOTER_BYTES


def read_seek_table(tail: bytes, *, file_bytes: int) -> SeekTable:
    """The seek table that a file of `file_bytes` ends with; `tail` is its last bytes, all of it.

    Checked against itself: magics, count, and that frames and table fill the file exactly.
    """
    if len(tail) < HEADER_BYTES + FOOTER_BYTES:
        raise FrameError("the seek table is cut off")
    count, descriptor, magic = struct.unpack("<IBI", tail[-FOOTER_BYTES:])
    if magic != _SEEKABLE_MAGIC or descriptor != _HAS_CHECKSUMS:
        raise FrameError("no seek table with checksums at the end of the file")
    size = seek_table_bytes(count)
    if len(tail) != size:
        raise FrameError(f"the seek table counts {count} frames where {len(tail)} bytes were read")
    if struct.unpack("<II", tail[:HEADER_BYTES]) != (_SKIPPABLE_MAGIC, size - HEADER_BYTES):
        raise FrameError("the seek table's frame header is damaged")
    table = np.frombuffer(tail, _ENTRY, count, HEADER_BYTES)
    packed = table["packed"].astype(np.int64)
    if int(packed.sum()) + size != file_bytes:
        raise FrameError("the seek table does not add up to the file's size")
    offsets = np.cumsum(packed) - packed
    return SeekTable(offsets, packed, table["inflated"].astype(np.int64), table["checksum"].copy())
