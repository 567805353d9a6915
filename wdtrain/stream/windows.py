"""Opening windows: the blocks of a lane that are shuffled together, read, inflated and parsed.

Owns the open files. Hands on windows, whose rows decode into a batch's memory. The surprise: what
is damaged stays in its place in a window, and is judged only when a row of it is asked for, so
that reading ahead finds nothing that the run does not come to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from wdtrain.store import native
from wdtrain.store.errors import DamagedBlock, DamagedSample, StoreError
from wdtrain.store.files import is_url
from wdtrain.store.loading import BlockLoader
from wdtrain.store.manifest import Manifest
from wdtrain.store.memory import Recycled
from wdtrain.store.rows import Rows, Target, copied_columns
from wdtrain.store.samples import BlockIndex, decode_row, parse_block
from wdtrain.store.shards import Closable, ShardReader
from wdtrain.store.tar import BLOCK, MAX_NAME
from wdtrain.stream.order import Order, WindowKey
from wdtrain.stream.readahead import ReadAhead
from wdtrain.stream.stages import Stages

MAX_FILES = 256
"""Shards held open at once: far below the usual limit of 1,024 open files."""

MAX_SHARDS = 4096
"""The same where an open shard is no open file: a few kB of seek table, or a mapping."""


@dataclass(frozen=True)
class Damage:
    """A block or a sample that is not what was packed: "shard S, block B, sample KEY", and why."""

    where: str
    why: str


@dataclass(frozen=True)
class Window:
    """An open window: its blocks by number, and which row of which block comes at each place.
    `rows`: where they lie in memory; None where not all of them do, or nothing was compiled."""

    blocks: dict[int, BlockIndex | Damage]
    places: tuple[np.ndarray, np.ndarray]
    where: Callable[[int], str]
    rows: Rows | None

    def decode_one(self, place: int, target: Target, row: int) -> Damage | None:
        """The sample at a place is in row `row` of `target`; or what is wrong with it."""
        number = int(self.places[0][place])
        block = self.blocks[number]
        if isinstance(block, Damage):
            return block
        inside = int(self.places[1][place])
        size = (target.mask.shape[1], target.mask.shape[2])
        try:
            arrays = decode_row(block, inside, size=size)
        except DamagedSample as error:
            return Damage(f"{self.where(number)}, sample {error.key}", error.why)
        target.overlay[row], target.mask[row], target.depth[row] = arrays
        start = int(block.starts[inside, 0]) - BLOCK
        target.names[row] = np.frombuffer(block.data, np.uint8, MAX_NAME, start)
        return None


class MappedShards:
    """Where the samples of raw shards lie in memory, of the blocks that were looked into.

    The samples of a raw block are of one size: so a sample's place in a mapped `.tar` is
    arithmetic, without an object for its block. Thread-safe.
    """

    def __init__(self, num_shards: int, order: Order) -> None:
        self._order, self._num_shards = order, num_shards
        self._lock = threading.Lock()
        self._seen = np.zeros(order.num_blocks, bool)
        # Of each block its address, stride and columns; pages of blocks not seen take no memory.
        self._places = np.zeros((6, order.num_blocks), np.int64)
        self._held: dict[int, tuple[object, list[int]]] = {}  # by shard: its mapping, those seen

    def note(self, shard: int, number: int, block: BlockIndex) -> None:
        """This block is verified and holds what the manifest says; its file stays mapped."""
        mapping = memoryview(block.data).obj
        place = (native.address_of(block.data), len(block.data) // block.num_samples)
        with self._lock:
            if shard in self._held and self._held[shard][0] is not mapping:
                self._forget(shard)  # opened again, somewhere else
            if self._seen[number]:
                return
            self._held.setdefault(shard, (mapping, []))[1].append(number)
            self._places[:, number] = *place, *copied_columns(block)
            self._seen[number] = True

    def forget(self, shard: int) -> None:
        """The mapping of a shard goes, once no rows refer to it."""
        with self._lock:
            self._forget(shard)

    def _forget(self, shard: int) -> None:
        _, numbers = self._held.pop(shard, (None, []))
        self._seen[numbers] = False

    def rows(self, numbers: np.ndarray, rows: np.ndarray) -> Rows | None:
        """Rows of these blocks, one number for each row, if all of them are noted."""
        with self._lock:
            if not self._seen[numbers].all():
                return None
            address, stride, *columns = self._places[:, numbers]
            shards = np.bincount(self._order.shard_block(numbers)[0], minlength=self._num_shards)
            held = [self._held[shard][0] for shard in np.flatnonzero(shards).tolist()]
        return Rows(np.stack(columns) + (address + rows * stride), None, held)


class Blocks:
    """The blocks of one split. Thread-safe; files stay open from one epoch to the next."""

    def __init__(self, manifest: Manifest, order: Order, stages: Stages) -> None:
        self.order = order
        self.is_remote = is_url(manifest.url)
        self._manifest, self._stages = manifest, stages
        self._shards = manifest.splits[order.split].shards
        self._readers: dict[int, ShardReader] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()
        self._files: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._is_closed = False
        self._memory = Recycled()
        can_load = BlockLoader.can_load(manifest, is_remote=self.is_remote)
        self._loader = BlockLoader(manifest, self._memory) if can_load else None
        is_mapped = ShardReader.maps(manifest, manifest.url)
        self._max_open = MAX_SHARDS if self.is_remote or is_mapped else MAX_FILES
        is_mapped &= manifest.encoding == "raw" and native.LIBRARY is not None
        self._mapped = MappedShards(len(self._shards), order) if is_mapped else None

    def known_window(self, key: WindowKey) -> Window | None:
        """The window of a key, where that is arithmetic alone: all of it is mapped and was looked
        into before."""
        if self._mapped is None:
            return None
        blocks, rows = self.order.window_samples(key)
        mapped = self._mapped.rows(blocks, rows)
        return None if mapped is None else Window({}, (blocks, rows), self.where, mapped)

    def open_window(
        self, key: WindowKey, before: Future[Window] | None, ahead: ReadAhead | None
    ) -> Window:
        """The window of a key. Blocks that it shares with the lane's window before are taken over.

        StoreError for a shard that is missing or cannot be read: no damage to leave out.
        """
        blocks, rows = self.order.window_samples(key)
        held = before.result().blocks if before is not None else {}
        numbers = np.unique(blocks)
        missing = [number for number in numbers.tolist() if number not in held]
        usual = self._load_at_once(missing) if self._loader is not None else {}
        loaded: dict[int, BlockIndex | Damage] = {}
        for number in numbers.tolist():
            block = held.get(number) or usual.get(number)
            if block is None:
                request = None if ahead is None else ahead.request(key, number)
                block = self._load(number, request)
            loaded[number] = block
        whole = [block for block in loaded.values() if isinstance(block, BlockIndex)]
        lie = None
        if len(whole) == len(loaded) and native.LIBRARY is not None:
            lie = Rows.of_blocks(whole, np.searchsorted(numbers, blocks), rows, self._manifest)
        return Window(loaded, (blocks, rows), self.where, lie)

    def read(self, number: int) -> bytes | memoryview:
        """A block as it lies in its shard; DamagedBlock or StoreError where it cannot be read."""
        shard, inside = self._place(number)
        return self._reader(shard).read_packed(inside)

    def close(self) -> None:
        """No file is open any more; a read that waits for a remote one ends with an error."""
        with self._lock:
            self._is_closed = True
            files = list(self._files)
            self._readers.clear()
        for file in files:
            file.close()

    def reopen(self) -> None:
        """Files may be opened again."""
        self._is_closed = False

    def _opened(self, file: Closable) -> None:
        with self._lock:
            if not self._is_closed:
                self._files.add(file)
                return
        file.close()
        raise StoreError("the stream was left before this shard was opened")

    def where(self, number: int) -> str:
        """A block's place in words."""
        shard, inside = self._place(number)
        return f"shard {self._shards[shard].name}, block {inside}"

    def _load_at_once(self, numbers: list[int]) -> dict[int, BlockIndex]:
        """Those of the blocks in which nothing is unusual."""
        assert self._loader is not None
        loaded: dict[int, BlockIndex] = {}
        shards, inside = self.order.shard_block(np.array(numbers, np.int64))
        readers = [self._reader(shard) for shard in shards.tolist()]
        wanted = list(zip(numbers, zip(readers, inside.tolist(), strict=True), strict=True))
        while wanted:
            blocks, reading, inflating, parsing = self._loader.load([place for _, place in wanted])
            self._stages.add(read=reading, inflate=inflating, parse=parsing)
            loaded.update((n, block) for (n, _), block in zip(wanted, blocks, strict=False))
            wanted = wanted[len(blocks) + 1 :]  # past the one that is not as usual
        return loaded

    def _load(self, number: int, request: Future[bytes | memoryview] | None) -> BlockIndex | Damage:
        """A block, read, inflated, checked and parsed; or what is wrong with it."""
        shard, inside = self._place(number)
        try:
            with self._stages.timed("read"):
                reader = self._reader(shard)
                packed = reader.read_packed(inside) if request is None else request.result()
            with self._stages.timed("inflate"):
                data = reader.unpack(inside, packed)
        except DamagedBlock as error:
            return Damage(self.where(number), error.why)
        try:
            with self._stages.timed("parse"):
                block = parse_block(data, self._manifest)
        except StoreError as error:
            sample = f", sample {error.key}" if isinstance(error, DamagedSample) else ""
            return Damage(self.where(number) + sample, getattr(error, "why", str(error)))
        packed_samples = reader.block_samples(inside)
        if block.num_samples != packed_samples:
            why = f"{block.num_samples} samples where {packed_samples} were packed"
            return Damage(self.where(number), why)
        if self._mapped is not None:
            self._mapped.note(shard, number, block)
        return block

    def _place(self, number: int) -> tuple[int, int]:
        shards, inside = self.order.shard_block(np.array([number]))
        return int(shards[0]), int(inside[0])

    def _reader(self, shard: int) -> ShardReader:
        """The open shard; only those who want the same one wait while it is opened."""
        with self._lock:
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:
            reader = self._readers.get(shard)
            if reader is None:
                entry = self._shards[shard]
                url = self._manifest.shard_url(entry)
                reader = ShardReader(
                    url, entry, self._manifest, opened=self._opened, memory=self._memory
                )
                with self._lock:
                    # One that is dropped closes itself when the last read of it has ended.
                    while len(self._readers) >= self._max_open:
                        dropped = next(iter(self._readers))
                        del self._readers[dropped]
                        if self._mapped is not None:
                            self._mapped.forget(dropped)
                    self._readers[shard] = reader
            return reader
