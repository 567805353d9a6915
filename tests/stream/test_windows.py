"""Windows opened before their batch, and blocks loaded many at a time: nothing comes otherwise."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.readings import SETS, Case, How, Shelf, cases_with, open_rank, read_ranks, seen
from tests.stream.spoiling import spoil
from wdtrain.disk.failures import StoreError
from wdtrain.store import native
from wdtrain.store.manifest import Manifest
from wdtrain.store.shards import ShardReader
from wdtrain.stream import Order
from wdtrain.stream.order import WindowKey

law = settings(max_examples=30, deadline=None, derandomize=True)
Place = tuple[str, int]
"""A shard's name and the number of a block in it."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("windows"))


# ---------------------------------------------------------------------------- opened ahead


def count_reads(patch: pytest.MonkeyPatch) -> Counter[Place]:
    """How often each block is read from now on, one by one or many at once."""
    found: Counter[Place] = Counter()

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: ShardReader, index: int) -> Any:
            found[self.shard.name, index] += 1
            return method(self, index)

        return read

    for name in ("frame", "read_packed"):
        patch.setattr(ShardReader, name, counted(getattr(ShardReader, name)))
    return found


def reads_of_turns(data: Manifest, case: Case, how: How) -> Counter[Place]:
    """The same if each rank reads a block when it first needs it and keeps it as long as its
    window is open: what is shuffled as a whole for ever, what is not kept for a batch."""
    found: Counter[Place] = Counter()
    laid, names = Order(data, **case.order), [s.name for s in data.splits["train"].shards]
    size = how.chunks * case.chunk
    for rank in range(how.world):
        held: dict[int, tuple[WindowKey | None, set[int]]] = {}
        for first in range(0, case.stop, size):
            for piece in laid.pieces(first, min(first + size, case.stop)):
                if piece.lane % how.world != rank:
                    continue
                for key, at, rows in laid.fragments(piece):
                    before, blocks = held.get(key.lane, (None, set()))
                    if before != key and not laid.is_whole:
                        blocks = set()
                    new = set(laid.window_samples(key)[0][at : at + rows].tolist()) - blocks
                    shards, inside = laid.shard_block(np.array(sorted(new), np.int64))
                    places = zip(shards.tolist(), inside.tolist(), strict=True)
                    found.update((names[shard], block) for shard, block in places)
                    held[key.lane] = key, blocks | new
            if not laid.keeps_windows:
                held.clear()
    return found


@law
@given(drawn=cases_with(1), turns=st.integers(0, 3))
def test_blocks_loaded_early_are_read_no_more_often(
    packed: Shelf, drawn: tuple[Case, How], turns: int
) -> None:
    case, way = drawn
    data = packed(*case.made)
    how = How(way.world, way.threads, way.chunks + turns * case.lanes)  # several pieces of a lane
    with pytest.MonkeyPatch.context() as patch:
        found = count_reads(patch)
        came = seen(read_ranks(data, case, how))
        needed = reads_of_turns(data, case, how)
    assert came.keys() == set(range(case.stop))
    assert found <= needed
    if data.is_compressed:
        assert found == needed


@pytest.mark.parametrize("made", SETS[:3])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("shuffled", [20, 10**6])
def test_a_missing_shard_stops_the_run_in_the_batch_that_comes_to_it(
    packed: Shelf, made: Any, chunks: int, shuffled: int, tmp_path: Path
) -> None:
    case, size = Case(made, 2, 4, 3, 1, shuffled), 4 * chunks
    data = packed(*made)
    laid = Order(data, **case.order)
    for number, shard in enumerate(data.splits["train"].shards):
        folder = shutil.copytree(data.url, tmp_path / shard.name)
        (folder / shard.name).unlink()
        step = next(at for at in range(case.stop) if laid.locate(at)[0] == number) // size
        batches = open_rank(Manifest.load(str(folder)), case, How(1, 2, chunks), 0)
        assert len(list(islice(batches, step))) == step
        with pytest.raises(StoreError, match=f"{shard.name} is missing"):
            next(batches)


# ---------------------------------------------------------------------------- compiled or not

ABSENT = {"zstd": ["zstd"], "jpeg_calls": ["jpeg_calls"], "all": ["zstd", "jpeg_calls", "LIBRARY"]}


@contextmanager
def without(part: str) -> Iterator[None]:
    """As on a machine where this part of the compiled loops cannot be had."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ABSENT[part]:
            patch.setattr(native, name, None if name == "LIBRARY" else lambda: None)
        yield


@law
@given(drawn=cases_with(1), part=st.sampled_from(sorted(ABSENT)), size=st.sampled_from([None, 7]))
def test_with_and_without_the_compiled_part_the_same_batches_come(
    packed: Shelf, drawn: tuple[Case, How], part: str, size: int | None
) -> None:
    case, how = drawn
    data = packed(*case.made)
    ranks = read_ranks(data, case, how, size=size)
    with without(part):
        others = read_ranks(data, case, how, size=size)
    assert seen(ranks) == seen(others)
    for batch, other in zip(chain(*ranks), chain(*others), strict=True):
        assert (batch.cursor, batch.chunks) == (other.cursor, other.chunks)
        assert np.array_equal(batch.names, other.names)


@pytest.mark.parametrize("part", ABSENT)
def test_with_and_without_the_compiled_part_the_same_is_left_out_and_the_rest_is_right(
    packed: Shelf, part: str, tmp_path: Path
) -> None:
    case, how = Case(SETS[0], 2, 4, 2, 1), How(1, 2, 5)  # tasks of two and three pieces
    data = packed(*case.made)
    # Block 0, (0, 0), is the last of a task: what stands in the wrong place is not written over.
    bad = spoil(data, tmp_path / "bad", {(0, 0, 0), (2, 0, 0)}, {(0, 1, 2), (1, 2, 5)})
    here: dict[str, str] = {}
    there: dict[str, str] = {}
    rest = seen(read_ranks(bad, case, how, on_damage="skip", damaged=here))
    with without(part):
        other = seen(read_ranks(bad, case, how, on_damage="skip", damaged=there))
    assert rest == other
    assert rest.items() <= seen(read_ranks(data, case, how)).items()
    assert len(rest) == data.samples - 2 * data.samples_per_block - 2
    assert here == there
    assert len(here) == 4
