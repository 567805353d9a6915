"""Reading the blocks of one shard: located by arithmetic, inflated alone, verified.

Hands on inflated blocks (runs of tar members) and nothing else; `samples.py` knows what is in
them. A reader may be shared by threads: it keeps no position. The surprise: a local `.tar` is
mapped, so its blocks are views that copy nothing, and are verified at the first touch alone.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import xxhash

from wdtrain.store import frames
from wdtrain.store.errors import DamagedBlock, StoreError
from wdtrain.store.files import is_url, open_file
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.mapped import MappedFile


class ShardReader:
    """The blocks of one shard of a dataset, at a path or URL."""

    def __init__(self, url: str, shard: Shard, manifest: Manifest) -> None:
        """Opens the shard and reads its seek table; StoreError if it is missing or cut off."""
        self.shard = shard
        self._samples_per_block = manifest.samples_per_block
        self._is_compressed = manifest.is_compressed
        self.num_blocks = -(-shard.samples // manifest.samples_per_block)
        self._verified: set[int] = set()
        is_mapped = not self._is_compressed and not is_url(url)
        try:
            self._file = MappedFile(url) if is_mapped else open_file(url)
        except FileNotFoundError as error:
            raise StoreError(
                f"shard {shard.name} is missing at {url}; fetch it again, or pack the dataset again"
            ) from error
        if self._file.num_bytes != shard.num_bytes:
            raise StoreError(
                f"shard {shard.name} holds {self._file.num_bytes:,} bytes, the manifest says "
                f"{shard.num_bytes:,}: it was cut off or replaced; fetch it again"
            )
        if self._is_compressed:
            self._table = self._read_table()
        elif len(shard.blocks) != self.num_blocks:
            raise StoreError(f"the manifest does not list the blocks of shard {shard.name}")

    def _read_table(self) -> frames.SeekTable:
        """The seek table: one frame a block, and one for the end of the archive."""
        size = frames.seek_table_bytes(self.num_blocks + 1)
        num_bytes = self._file.num_bytes
        try:
            tail = bytes(self._file.read(max(0, num_bytes - size), size))
            table = frames.read_seek_table(tail, file_bytes=num_bytes)
        except frames.FrameError as error:
            raise StoreError(f"shard {self.shard.name} cannot be read: {error}") from error
        return table

    def block_samples(self, index: int) -> int:
        """Samples in a block: the dataset's number, fewer in a shard's last."""
        self._check(index)
        return min(self._samples_per_block, self.shard.samples - index * self._samples_per_block)

    def read_block(self, index: int) -> bytes | memoryview:
        """The inflated bytes of a block: whole tar members of whole samples, verified."""
        return self.unpack(index, self.read_packed(index))

    def read_packed(self, index: int) -> bytes | memoryview:
        """A block as it lies in the file; StoreError or DamagedBlock where it cannot be read."""
        self._check(index)
        if self._is_compressed:
            return self._read(
                index, int(self._table.offsets[index]), int(self._table.packed[index])
            )
        block = self.shard.blocks[index]
        return self._read(index, block.offset, block.num_bytes)

    def unpack(self, index: int, packed: bytes | memoryview) -> bytes | memoryview:
        """A block's inflated bytes; DamagedBlock when a checksum does not fit.

        A zstd frame is verified each time, a `.tar` block when this reader first meets it.
        """
        if self._is_compressed:
            return self._inflate(index, packed)
        if index not in self._verified:
            if xxhash.xxh64_intdigest(packed) != self.shard.blocks[index].xxh64:
                raise DamagedBlock(self.shard.name, index, "its XXH64 is not the manifest's")
            self._verified.add(index)
        return packed

    def _inflate(self, index: int, frame: bytes | memoryview) -> bytes:
        try:
            data = frames.inflate(frame, size=int(self._table.inflated[index]))
        except frames.FrameError as error:
            raise DamagedBlock(self.shard.name, index, str(error)) from error
        if frames.frame_checksum(frame) != int(self._table.checksums[index]):
            raise DamagedBlock(self.shard.name, index, "its checksum is not the seek table's")
        return data

    def _read(self, index: int, offset: int, count: int) -> bytes | memoryview:
        try:
            data = self._file.read(offset, count)
        except OSError as error:
            raise StoreError(
                f"shard {self.shard.name}, block {index} cannot be read ({error}); no damage "
                "to leave out: mend the disk or the connection, and start again"
            ) from error
        if len(data) != count:
            raise DamagedBlock(self.shard.name, index, f"{len(data)} of {count} bytes were read")
        return data

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of shard {self.shard.name}, of {self.num_blocks}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
