"""Writing one shard: blocks to frames, members to blocks.

An `image` block is its samples' members laid end to end. A `raw` block is a fixed-stride array: the
JSON is padded to the shard's longest, which is known only at the end, so raw rows wait in a spool
(in memory up to 64 MB, then in an unnamed file beside the shard).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.fields.npy import encode_npy
from wdtrain.packing.prepare import PackedSample
from wdtrain.store import frames, tar

_SPOOL_BYTES: Final = 64 << 20


class ShardFile:
    """A shard under a temporary name: blocks in, and at the end its size, SHA-256 and blocks."""

    def __init__(self, path: Path, *, zstd_level: int | None) -> None:
        self._file = path.open("wb")
        self._compress = None if zstd_level is None else frames.FrameCompressor(zstd_level)
        self._sha256 = hashlib.sha256()
        self._frames: list[tuple[int, int, int]] = []
        self._num_bytes = 0
        self.blocks: list[list[int | str]] = []

    def add_block(self, data: bytes) -> None:
        """Appends one block: the members of whole samples."""
        if self._compress is None:
            self.blocks.append([len(data), f"{xxhash.xxh64_intdigest(data):016x}"])
            self._write(data)
        else:
            frame = self._compress(data)
            self._frames.append((len(frame), len(data), frames.frame_checksum(frame)))
            self._write(frame)

    def finish(self) -> tuple[int, str]:
        """(bytes, SHA-256 in hex) of the file, which is whole and on the disk."""
        if self._compress is None:
            self._write(tar.END_OF_ARCHIVE)
        else:
            self.add_block(tar.END_OF_ARCHIVE)
            self._write(frames.write_seek_table(self._frames))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._num_bytes, self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._num_bytes += len(data)

    def close(self) -> None:
        self._file.close()


class ImageBlocks:
    """Gathers samples into blocks of JPEG, PNG and JSON members; names: what follows their keys."""

    def __init__(self, names: list[bytes], *, samples_per_block: int) -> None:
        self._names, self._samples_per_block = names, samples_per_block
        self._samples: list[bytes] = []

    def add(self, sample: PackedSample) -> bytes | None:
        """Takes a sample; gives a block when one is full."""
        key = sample.key.encode()
        members = zip(self._names, [*sample.members, sample.meta], strict=True)
        self._samples.append(b"".join(tar.member(key + name, data) for name, data in members))
        return self._take() if len(self._samples) == self._samples_per_block else None

    def rest(self) -> Iterator[bytes]:
        """The last, short block, if there is one."""
        if self._samples:
            yield self._take()

    def _take(self) -> bytes:
        data = b"".join(self._samples)
        self._samples.clear()
        return data

    def close(self) -> None:
        """Nothing is held open."""


class RawBlocks:
    """Gathers the samples of a shard, then lays them out as arrays of one stride; names: what
    follows the keys of their members."""

    def __init__(self, names: list[bytes], *, samples_per_block: int, folder: Path) -> None:
        self._names, self._samples_per_block = names, samples_per_block
        self._spool: Any = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES, dir=str(folder))  # noqa: SIM115
        self._keys: list[bytes] = []
        self._metas: list[bytes] = []
        self._payload_bytes: list[int] = []
        self._npy_headers: list[bytes] = []

    def add(self, sample: PackedSample) -> None:
        """Takes a sample; its block comes from `rest`."""
        if not self._keys:
            self._payload_bytes = [array.nbytes for array in sample.arrays]
            self._npy_headers = [encode_npy(array)[: -array.nbytes] for array in sample.arrays]
        for array in sample.arrays:
            self._spool.write(array.data)
        self._keys.append(sample.key.encode())
        self._metas.append(sample.meta)

    def rest(self) -> Iterator[bytes]:
        """All blocks of the shard, in order."""
        self._spool.seek(0)
        for start in range(0, len(self._keys), self._samples_per_block):
            yield self._block(slice(start, start + self._samples_per_block))

    def _block(self, rows: slice) -> bytes:
        """One block, from the next rows of the spool."""
        keys, metas = self._keys[rows], self._metas[rows]
        row_bytes = sum(self._payload_bytes)
        spooled = np.frombuffer(self._spool.read(len(keys) * row_bytes), np.uint8)
        payload = spooled.reshape(len(keys), row_bytes)
        meta_bytes = max(len(meta) for meta in self._metas)
        sizes = [
            len(header) + count
            for header, count in zip(self._npy_headers, self._payload_bytes, strict=True)
        ] + [meta_bytes]
        block = np.zeros((len(keys), sum(tar.BLOCK + tar.padded(size) for size in sizes)), np.uint8)
        at = taken = 0
        for column, size in enumerate(sizes):
            _put(block, at, [tar.header(key + self._names[column], size) for key in keys])
            at += tar.BLOCK
            if column < len(self._npy_headers):
                _put(block, at, [self._npy_headers[column]] * len(keys))
                count = self._payload_bytes[column]
                block[:, at + size - count : at + size] = payload[:, taken : taken + count]
                taken += count
            else:
                _put(block, at, [meta.ljust(meta_bytes) for meta in metas])
            at += tar.padded(size)
        return block.tobytes()

    def close(self) -> None:
        self._spool.close()


def _put(block: np.ndarray, at: int, values: list[bytes]) -> None:
    """Writes one value of equal length into each row, from column `at`."""
    width = len(values[0])
    block[:, at : at + width] = np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)
