"""Reading the blocks of one shard: located by arithmetic, inflated alone, verified.

Hands on inflated blocks (runs of tar members) and nothing else; `samples.py` knows what is in
them. A reader may be shared by threads: it keeps no position. The surprise: a local `.tar` is
mapped, so its blocks are views that copy nothing, and are verified at the first touch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import xxhash

from wdtrain.disk.failures import DamagedBlock, StoreError
from wdtrain.remote.access import LocalFile
from wdtrain.remote.urls import is_url, redacted
from wdtrain.store import frames
from wdtrain.store.buffers import Recycled
from wdtrain.store.limits import most_sample_bytes
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.mapped import MappedFile


class Closable(Protocol):
    """A file, as far as ending its use goes."""

    def close(self) -> None: ...


class Frame(NamedTuple):
    """A compressed block of a local file: bytes from `offset` of an open descriptor. checksum: of
    the seek table, or -1 if this block was verified before."""

    descriptor: int
    offset: int
    packed_bytes: int
    inflated_bytes: int
    checksum: int
    samples: int


class ShardReader:
    """The blocks of one shard of a dataset, at a path or URL."""

    def __init__(
        self,
        url: str,
        shard: Shard,
        manifest: Manifest,
        *,
        opened: Callable[[Closable], None] | None = None,
        memory: Recycled | None = None,
    ) -> None:
        """Opens the shard and reads its seek table; StoreError if it is missing or cut off.

        `opened` is given the file before anything is read of it: who closes it ends that, too.
        `memory`: where blocks are read and inflated to.
        """
        self.shard, self._manifest = shard, manifest
        self._samples_per_block = manifest.samples_per_block
        self._is_compressed = manifest.is_compressed
        self._most_sample_bytes = most_sample_bytes(
            manifest.height, manifest.width, manifest.fields.values()
        )
        self.num_blocks = -(-shard.samples // manifest.samples_per_block)
        self._verified: set[int] = set()
        # Bytes damaged on their way here, or where they were kept, are asked for as often as a
        # request that fails.
        self._tries = manifest.remote.access.tries if is_url(url) else 1
        self._memory = memory
        try:
            self._file = (
                MappedFile(url) if self.maps(manifest, url) else manifest.open_shard(shard, url)
            )
            if opened is not None:
                opened(self._file)
            if self._file.num_bytes != shard.num_bytes:
                raise StoreError(
                    f"shard {shard.name} holds {self._file.num_bytes:,} bytes, the manifest says "
                    f"{shard.num_bytes:,}: it was cut off or replaced; fetch it again"
                )
            self._read_places()
        except FileNotFoundError as error:
            place = redacted(url)
            raise StoreError(
                f"shard {shard.name} is missing at {place}; fetch it again, or pack the dataset "
                "again"
            ) from error

    @staticmethod
    def maps(manifest: Manifest, url: str) -> bool:
        """Whether a shard at this path or URL is shown as memory: its blocks are no copies."""
        return not manifest.is_compressed and not is_url(url) and manifest.index is None

    def _read_places(self) -> None:
        """It is known from here on where the blocks lie."""
        if self._is_compressed:
            self._table = self._read_table()
        elif len(self.shard.blocks) != self.num_blocks:
            raise StoreError(f"the manifest does not list the blocks of shard {self.shard.name}")

    def _read_table(self) -> frames.SeekTable:
        """The seek table: one frame a block, and one for the end of the archive."""
        size = frames.seek_table_bytes(self.num_blocks + 1)
        num_bytes = self._file.num_bytes
        last = frames.FrameError("it was not read")
        for _ in range(self._tries):
            try:
                return frames.read_seek_table(self._tail(size), file_bytes=num_bytes)
            except frames.FrameError as error:
                last = error
                self._file.forget(max(0, num_bytes - size), size)
        raise StoreError(f"shard {self.shard.name} cannot be read: {last}") from last

    def _tail(self, size: int) -> bytes:
        return bytes(self._file.read(max(0, self._file.num_bytes - size), size))

    def block_samples(self, index: int) -> int:
        """Samples in a block: the dataset's number, fewer in a shard's last."""
        self._check(index)
        return min(self._samples_per_block, self.shard.samples - index * self._samples_per_block)

    def read_block(self, index: int) -> bytes | memoryview:
        """The inflated bytes of a block: whole tar members of whole samples, verified."""
        return self.unpack(index, self.read_packed(index))

    def read_packed(self, index: int) -> bytes | memoryview:
        """A block as stored in the file; StoreError or DamagedBlock where it cannot be read."""
        self._check_size(index)
        return self._read(index, *self._extent(index))

    def frame(self, index: int) -> Frame:
        """The place of a compressed block in its local file, and its inflated size; DamagedBlock
        where that is more than a block may be."""
        self._check_size(index)
        assert isinstance(self._file, LocalFile), "only a local file has a descriptor"
        table = self._table
        return Frame(
            self._file.descriptor,
            int(table.offsets[index]),
            int(table.packed[index]),
            int(table.inflated[index]),
            -1 if index in self._verified else int(table.checksums[index]),
            self.block_samples(index),
        )

    def note_verified(self, index: int) -> None:
        """A block fits its checksum: it need not be verified again."""
        self._verified.add(index)

    def _extent(self, index: int) -> tuple[int, int]:
        """The place of a block in the file: offset and bytes."""
        if self._is_compressed:
            return int(self._table.offsets[index]), int(self._table.packed[index])
        block = self.shard.blocks[index]
        return block.offset, block.num_bytes

    def unpack(self, index: int, packed: bytes | memoryview) -> bytes | memoryview:
        """A block's inflated bytes; DamagedBlock when a checksum does not fit.

        A frame is verified here each time, a `.tar` block when this reader first meets it.
        """
        for _ in range(self._tries - 1):
            try:
                return self._unpacked(index, packed)
            except DamagedBlock:
                self._file.forget(*self._extent(index))
                packed = self.read_packed(index)
        return self._unpacked(index, packed)

    def _unpacked(self, index: int, packed: bytes | memoryview) -> bytes | memoryview:
        if self._is_compressed:
            return self._inflate(index, packed)
        if index not in self._verified:
            if xxhash.xxh64_intdigest(packed) != self.shard.blocks[index].xxh64:
                raise DamagedBlock(self.shard.name, index, "its XXH64 is not the manifest's")
            self._verified.add(index)
        return packed

    def _inflate(self, index: int, frame: bytes | memoryview) -> memoryview:
        size = int(self._table.inflated[index])
        try:
            data = frames.inflate(frame, size=size, memory=self._memory)
        except frames.FrameError as error:
            raise DamagedBlock(self.shard.name, index, str(error)) from error
        if frames.frame_checksum(frame) != int(self._table.checksums[index]):
            raise DamagedBlock(self.shard.name, index, "its checksum is not the seek table's")
        return data

    def _read(self, index: int, offset: int, count: int) -> bytes | memoryview:
        try:
            data = self._bytes(offset, count)
        except OSError as error:
            raise StoreError(
                f"shard {self.shard.name}, block {index} cannot be read ({error}); no damage "
                "to leave out: mend the disk or the connection, and start again"
            ) from error
        if len(data) != count:
            raise DamagedBlock(self.shard.name, index, f"{len(data)} of {count} bytes were read")
        return data

    def _bytes(self, offset: int, count: int) -> bytes | memoryview:
        if self._memory is None or not isinstance(self._file, LocalFile):
            return self._file.read(offset, count)
        data = self._memory.take(count).data
        return data[: self._file.read_into(offset, data)]

    def _check_size(self, index: int) -> None:
        """No block is larger than its samples may be: judged before memory is taken for it."""
        samples = self.block_samples(index)
        most = samples * self._most_sample_bytes
        packed = self._extent(index)[1]
        size = int(self._table.inflated[index]) if self._is_compressed else packed
        if size > most or packed > frames.most_packed_bytes(most):
            raise DamagedBlock(
                self.shard.name,
                index,
                f"it takes {packed:,} bytes and {size:,} inflated; {samples:,} samples of this "
                f"dataset take at most {most:,}",
            )

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of shard {self.shard.name}, of {self.num_blocks}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
