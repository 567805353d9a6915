"""The windows in which samples are shuffled, and the blocks in them: read, inflated and parsed.

Owns the open files. Hands on windows, whose rows decode into a batch's memory. A window is open at
once; its blocks come as rows of them are asked for, so that the first batch waits for what it needs
and not for all that it is shuffled among. The surprise: what is damaged or missing stays in its
place in a window, and is judged only when a row of it is asked for, so that reading ahead finds
nothing that the run does not come to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wdtrain.disk.failures import DamagedBlock, DamagedSample, StoreError
from wdtrain.store import native
from wdtrain.store.buffers import KEPT, Recycled
from wdtrain.store.filling import MemberPlaces, RowBuffers, copied_columns
from wdtrain.store.foreign import open_shard
from wdtrain.store.loading import BlockLoader
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import AnyBlock, BlockIndex, decode_row, parse_block
from wdtrain.store.shards import Closable, ShardReader
from wdtrain.stream.order import Order, WindowKey
from wdtrain.stream.readahead import ReadAhead
from wdtrain.stream.stages import Stages

MAX_FILES = 256
"""Shards held open at once: far below the usual limit of 1,024 open files."""

MAX_SHARDS = 4096
"""The same where an open shard is no open file: a few kB of seek table, or a mapping."""


MAX_SPARE_BYTES = 64 * 2**20
"""Memory of blocks that is kept for the next ones, at most: when a window goes, as many blocks are
free as the next one needs."""


@dataclass(frozen=True)
class Damage:
    """A block or a sample that is not what was packed: "shard S, block B, sample KEY", and why."""

    where: str
    why: str


Loading = Future["AnyBlock | Damage"]
"""A block that is being loaded, or is; StoreError or OSError where it cannot be read."""


class Wanted(NamedTuple):
    """A block to be loaded for a window, and where it is waited for."""

    window: WindowKey
    number: int
    loading: Loading


class Window:
    """An open window: which row of which block comes at each place, and where those lie in memory
    whose blocks are loaded. `wanted` is for one thread, all else for any."""

    def __init__(
        self,
        key: WindowKey,
        places: tuple[np.ndarray, np.ndarray],
        blocks: Blocks,
        held: dict[int, Loading],
        known: MemberPlaces | None,
    ) -> None:
        """`places`: (block, row), int64 [m] each; `held`: by number, blocks that are loaded or are
        being loaded, perhaps also for others; `known`: where all rows lie, if none is needed."""
        self.key, self.places, self._blocks, self._held = key, places, blocks, held
        self._is_known = known is not None
        if known is None:
            self._index()
        else:
            self.rows = known

    def _index(self) -> None:
        """Which places each block has: blocks are identified by their slots, in order of their
        numbers. Rows have no place yet."""
        numbers, slots = np.unique(self.places[0], return_inverse=True)
        self._numbers, self._slots = numbers, slots.reshape(-1)
        self._by_slot = np.argsort(self._slots, kind="stable")
        self._bounds = np.searchsorted(self._slots[self._by_slot], np.arange(len(numbers) + 1))
        self._is_asked, self._is_settled = np.zeros((2, len(numbers)), bool)
        shape = (self._blocks.num_members, len(self._slots))
        self._kept: list[object] = []
        self.rows = MemberPlaces(np.zeros(shape, np.int64), np.zeros(shape, np.int64), self._kept)

    def wanted(self, at: int, rows: int) -> list[Wanted]:
        """The blocks of these places that nobody has asked for; they count as asked for then."""
        if self._is_known:
            return []
        slots = self._slots[at : at + rows]
        slots = slots[~self._is_asked[slots]]
        if not len(slots):
            return []
        self._is_asked[slots] = True
        numbers = [n for n in self._numbers[np.unique(slots)].tolist() if n not in self._held]
        wanted = [Wanted(self.key, number, Future()) for number in numbers]
        self._held.update((number, loading) for _, number, loading in wanted)
        return wanted

    def settle(self, at: int, rows: int) -> bool:
        """Waits for the blocks of these places; whether all rows of theirs lie in memory.

        StoreError for a shard that is missing or cannot be read: no damage to leave out.
        """
        if self._is_known:
            return True
        slots = self._slots[at : at + rows]
        slots = np.unique(slots[~self._is_settled[slots]])
        if not len(slots):
            return True
        found = [(slot, self._held[int(self._numbers[slot])].result()) for slot in slots.tolist()]
        whole = [(slot, block) for slot, block in found if isinstance(block, BlockIndex)]
        if native.LIBRARY is None:
            return False
        if whole:
            self._place(*zip(*whole, strict=True))
        return len(whole) == len(found)

    def _place(self, slots: Sequence[int], blocks: Sequence[BlockIndex]) -> None:
        """Where the rows of blocks lie is noted. Two threads may do the same at once."""
        parts = [self._by_slot[self._bounds[slot] : self._bounds[slot + 1]] for slot in slots]
        places = np.concatenate(parts)
        of_block = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        members = self._blocks.rows(blocks, of_block, self.places[1][places])
        self._kept.extend(blocks)
        self.rows.put(places, members)
        self._is_settled[list(slots)] = True

    def decode_one(self, place: int, target: RowBuffers, row: int) -> Damage | None:
        """The sample at a place is in row `row` of `target`; or what is wrong with it."""
        number = int(self.places[0][place])
        held = self._held.get(number)
        block = self._blocks.load(number) if held is None else held.result()
        if isinstance(block, Damage):
            return block
        inside = int(self.places[1][place])
        try:
            arrays = decode_row(block, inside, size=target.size, fields=target.arrays)
        except DamagedSample as error:
            return Damage(f"{self._blocks.where(number)}, sample {error.key}", error.why)
        for name, array in arrays.items():
            target.arrays[name][row] = array
        target.names[row] = np.frombuffer(block.name(inside), np.uint8)
        return None


class MappedShards:
    """Where the samples of raw shards lie in memory, of the blocks that were looked into.

    The samples of a raw block are of one size: so a sample's place in a mapped `.tar` is
    arithmetic, without an object for its block. Thread-safe.
    """

    def __init__(self, num_shards: int, num_members: int, order: Order) -> None:
        self._order, self._num_shards = order, num_shards
        self._lock = threading.Lock()
        self._seen = np.zeros(order.num_blocks, bool)
        # Of each block its address, stride and columns; pages of blocks not seen take no memory.
        self._places = np.zeros((2 + num_members, order.num_blocks), np.int64)
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

    def rows(self, numbers: np.ndarray, rows: np.ndarray) -> MemberPlaces | None:
        """Rows of these blocks, one number for each row, if all of them are noted."""
        with self._lock:
            if not self._seen[numbers].all():
                return None
            address, stride, *columns = self._places[:, numbers]
            shards = np.bincount(self._order.shard_block(numbers)[0], minlength=self._num_shards)
            held = [self._held[shard][0] for shard in np.flatnonzero(shards).tolist()]
        return MemberPlaces(np.stack(columns) + (address + rows * stride), None, held)


class Blocks:
    """The blocks of one split. Thread-safe; files stay open from one epoch to the next."""

    def __init__(self, manifest: Manifest, order: Order, stages: Stages) -> None:
        self.order = order
        self.is_remote = manifest.is_remote
        self.num_members = len(manifest.member_suffixes)
        self._manifest, self._stages = manifest, stages
        self._shards = manifest.splits[order.split].shards
        self._readers: dict[int, ShardReader] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()
        self._files: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._is_closed = False
        # A split that is shuffled as a whole gives nothing free.
        spare = 0 if order.is_whole else MAX_SPARE_BYTES // (order.block_rows * order.sample_bytes)
        self._memory = Recycled(kept=max(KEPT, spare))
        can_load = BlockLoader.can_load(manifest, is_remote=self.is_remote)
        self._loader = BlockLoader(manifest, self._memory) if can_load else None
        is_mapped = ShardReader.maps(manifest, manifest.url)
        self._max_open = MAX_SHARDS if self.is_remote or is_mapped else MAX_FILES
        is_mapped &= manifest.encoding == "raw" and native.LIBRARY is not None
        mapped = MappedShards(len(self._shards), self.num_members, order)
        self._mapped = mapped if is_mapped else None

    def open_window(self, key: WindowKey, held: dict[int, Loading]) -> Window:
        """The window of a key; its rows are known at once where all of it is mapped and was looked
        into before: then that is arithmetic."""
        places = self.order.window_samples(key)
        known = None if self._mapped is None else self._mapped.rows(*places)
        return Window(key, places, self, held, known)

    def rows(
        self, blocks: Sequence[BlockIndex], of_block: np.ndarray, rows: np.ndarray
    ) -> MemberPlaces:
        """Where rows of blocks lie: `rows[i]` of `blocks[of_block[i]]` is the i-th."""
        return MemberPlaces.of_blocks(blocks, of_block, rows, self._manifest)

    def load_all(self, wanted: Sequence[Wanted], ahead: ReadAhead | None) -> None:
        """Loads blocks; whoever waits for one gets it, or why it cannot be read."""
        waiting = list(reversed(wanted))
        try:
            usual = self._load_at_once([number for _, number, _ in wanted])
            while waiting:
                window, number, loading = waiting[-1]
                request = None if ahead is None else ahead.request(window, number)
                try:
                    block = usual.get(number) or self.load(number, request)
                except (StoreError, OSError) as error:
                    loading.set_exception(error)
                else:
                    loading.set_result(block)
                waiting.pop()
        except BaseException as error:  # given up, or a defect: it must reach those who wait
            for _, _, loading in waiting:
                loading.set_exception(error)
            raise

    def read(self, number: int) -> bytes | memoryview:
        """A block as stored in its shard; DamagedBlock or StoreError where it cannot be read."""
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
        loaded: dict[int, BlockIndex] = {}
        if self._loader is None:
            return loaded
        wanted: list[tuple[int, tuple[ShardReader, int]]] = []
        for number, shard, inside in zip(
            numbers,
            *(part.tolist() for part in self.order.shard_block(np.array(numbers))),
            strict=True,
        ):
            with suppress(StoreError):  # a shard that is missing: reported for its own blocks alone
                wanted.append((number, (self._reader(shard), inside)))
        while wanted:
            blocks, reading, inflating, parsing = self._loader.load([place for _, place in wanted])
            self._stages.add(read=reading, inflate=inflating, parse=parsing)
            loaded.update((n, block) for (n, _), block in zip(wanted, blocks, strict=False))
            wanted = wanted[len(blocks) + 1 :]  # past the one that is not as usual
        return loaded

    def load(
        self, number: int, request: Future[bytes | memoryview] | None = None
    ) -> AnyBlock | Damage:
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
        if self._mapped is not None and isinstance(block, BlockIndex):
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
                reader = open_shard(
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
