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
from wdtrain.store import native
from wdtrain.store.errors import StoreError
from wdtrain.store.manifest import Manifest
from wdtrain.store.shards import ShardReader
from wdtrain.stream import Order, order
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


def reads_of_turns(data: Manifest, case: Case, batch_size: int) -> Counter[Place]:
    """The same if each window is opened in its turn and the lane's one before it is at hand: what
    is as small as a chunk is not kept, so that a chunk cut by a batch's end is read again."""
    found: Counter[Place] = Counter()
    laid, names = Order(data, **case.order), [s.name for s in data.splits["train"].shards]
    last: dict[int, tuple[WindowKey, set[int]]] = {}
    for first in range(0, case.stop, batch_size):
        for piece in laid.pieces(first, min(first + batch_size, case.stop)):
            key = laid.window_of(piece)
            before, held = last.get(piece.lane, (None, set()))
            if key == before:
                continue
            needed = set(laid.window_samples(key)[0].tolist())
            same_epoch = before is not None and before.epoch == key.epoch
            missing = np.array(sorted(needed - held if same_epoch else needed), np.int64)
            for shard, inside in zip(*laid.shard_block(missing), strict=True):
                found[names[shard], int(inside)] += 1
            if laid.window_rows > laid.chunk:
                last[piece.lane] = key, needed
    return found


@law
@given(drawn=cases_with(1), turns=st.integers(0, 3), window=st.sampled_from([0, 1, 4]))
def test_windows_opened_early_read_each_block_no_more_often(
    packed: Shelf, drawn: tuple[Case, How], turns: int, window: int
) -> None:
    case, way = drawn
    data = packed(*case.made)
    how = How(way.world, way.threads, way.chunks + turns * case.lanes)  # several pieces of a lane
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "MAX_WINDOW", window)
        found = count_reads(patch)
        came = seen(read_ranks(data, case, how))
        needed = reads_of_turns(data, case, how.chunks * case.chunk)
    assert came.keys() == set(range(case.stop))
    assert found <= needed
    if data.is_compressed:
        assert found == needed


@pytest.mark.parametrize("made", SETS[:3])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_missing_shard_stops_the_run_in_the_batch_that_comes_to_its_window(
    packed: Shelf, made: Any, chunks: int, tmp_path: Path
) -> None:
    case, size = Case(made, 2, 4, 3, 1), 4 * chunks
    data = packed(*made)
    laid = Order(data, **case.order)
    for number, shard in enumerate(data.splits["train"].shards):
        folder = shutil.copytree(data.url, tmp_path / shard.name)
        (folder / shard.name).unlink()
        step = min(
            piece.position // size
            for piece in laid.pieces(0, case.stop)
            if number in laid.shard_block(laid.window_samples(laid.window_of(piece))[0])[0]
        )
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
    bad = spoil(data, tmp_path / "bad", {(0, 1, 0), (2, 0, 0)}, {(0, 0, 2), (1, 2, 5)})
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
