"""The laws of the stream over drawn datasets, worlds, threads, batches and positions.

Datasets of a few dozen samples are packed once; what is drawn is how they are read. All that a
stream hands on is compared, keys, places and pixels, with one plain reading, and that one with the
shards as Python's own tarfile sees them.
"""

from __future__ import annotations

import tempfile
import tracemalloc
import zlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws import check_each_once
from tests.stream.readings import (
    SHUFFLED,
    SIDE,
    Case,
    How,
    Place,
    Shelf,
    cases_with,
    open_rank,
    read_ranks,
    seen,
    stored_keys,
)
from tests.stream.spoiling import spoil
from wdtrain.store import frames
from wdtrain.store.loading import BlockLoader, Loaded
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Cursor, Order

law = settings(max_examples=30, deadline=None, derandomize=True)
"""Drawn alike on every machine, so that what is green here is green there."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("laws"))


# ---------------------------------------------------------------------------- the order of a job


@law
@given(drawn=cases_with(1))
def test_each_sample_comes_exactly_once_in_every_epoch_over_all_ranks(
    packed: Shelf, drawn: tuple[Case, How]
) -> None:
    case, how = drawn
    data = packed(*case.made)
    came = seen(read_ranks(data, case, how))
    assert came.keys() == set(range(case.stop))
    for epoch in range(case.epochs):
        first = epoch * data.samples
        keys = [came[position][0] for position in range(first, first + data.samples)]
        check_each_once(keys, stored_keys(data).values())


@law
@given(drawn=cases_with(1))
def test_what_comes_at_a_position_is_what_locate_says(
    packed: Shelf, drawn: tuple[Case, How]
) -> None:
    case, how = drawn
    data = packed(*case.made)
    stored, order = stored_keys(data), Order(data, **case.order)
    for position, (key, _) in seen(read_ranks(data, case, how)).items():
        assert stored[order.locate(position)] == key


@law
@given(drawn=cases_with(1), at=st.floats(0, 1))
def test_all_ranks_take_the_same_steps_with_the_same_cursors(
    packed: Shelf, drawn: tuple[Case, How], at: float
) -> None:
    case, how = drawn
    start, batch_size = round(at * case.stop), how.chunks * case.chunk
    ranks = read_ranks(packed(*case.made), case, how, start=start)
    cursors = [[batch.cursor.dumps() for batch in batches] for batches in ranks]
    assert all(own == cursors[0] for own in cursors)
    assert all(len(cursor) < 200 for cursor in cursors[0])
    # Steps begin at multiples of the batch size, wherever the job was stopped before.
    ends = [*range((start // batch_size + 1) * batch_size, case.stop, batch_size), case.stop]
    wanted = ends if start < case.stop else []
    assert [Cursor.loads(cursor).position for cursor in cursors[0]] == wanted


@law
@given(drawn=cases_with(2))
def test_the_order_depends_on_neither_world_nor_threads_nor_batch_size(
    packed: Shelf, drawn: tuple[Case, How, How]
) -> None:
    case, how, other = drawn
    data = packed(*case.made)
    assert seen(read_ranks(data, case, how)) == seen(read_ranks(data, case, other))


@law
@given(drawn=cases_with(1))
def test_a_chunk_of_positions_lies_on_one_rank_and_in_one_piece(
    packed: Shelf, drawn: tuple[Case, How]
) -> None:
    case, how = drawn
    data = packed(*case.made)
    rank_of: dict[tuple[int, int], int] = {}
    for rank, batches in enumerate(read_ranks(data, case, how)):
        for batch in batches:
            epochs, inside = np.divmod(batch.positions, data.samples)
            at = 0
            for rows in batch.chunks:
                piece = slice(at, at + rows)
                assert (np.diff(batch.positions[piece]) == 1).all()
                numbers = inside[piece] // case.chunk
                assert len(set(numbers)) == len(set(epochs[piece])) == 1
                place = (int(epochs[at]), int(numbers[0]))
                assert rank_of.setdefault(place, rank) == rank
                assert place[1] % case.lanes % how.world == rank
                at += rows
            assert at == len(batch)


# ---------------------------------------------------------------------------- going on


@law
@given(drawn=cases_with(2), at=st.floats(0, 1))
def test_resumed_at_any_position_under_another_world_the_rest_comes(
    packed: Shelf, drawn: tuple[Case, How, How], at: float
) -> None:
    case, how, other = drawn
    data, position = packed(*case.made), round(at * case.stop)
    whole = seen(read_ranks(data, case, how))
    rest = seen(read_ranks(data, case, other, start=position))
    assert rest == {place: row for place, row in whole.items() if place >= position}


@law
@given(drawn=cases_with(2), taken=st.integers(1, 9), is_endless=st.booleans())
def test_the_cursor_is_that_of_what_was_taken_however_much_is_prepared(
    packed: Shelf, drawn: tuple[Case, How, How], taken: int, is_endless: bool
) -> None:
    case, how, other = drawn
    data = packed(*case.made)
    epochs = None if is_endless else case.epochs
    ranks = []
    for rank in range(how.world):
        batches = open_rank(data, case, how, rank, epochs=epochs)
        ranks.append(list(islice(batches, taken)))
        batches.close()  # type: ignore[attr-defined]
    before = seen(ranks)
    cursors = {batches[-1].cursor.dumps() for batches in ranks}
    assert len(cursors) == 1
    cursor = Cursor.loads(cursors.pop())
    assert before.keys() == set(range(cursor.position))
    whole = replace(case, epochs=cursor.epoch + 2)
    after = seen(read_ranks(data, whole, other, cursor=cursor))
    assert before | after == seen(read_ranks(data, whole, other))
    assert not before.keys() & after.keys()


@law
@given(drawn=cases_with(1), kept=st.sampled_from(["tensor", "array", "row", "names"]))
def test_what_was_handed_on_is_never_written_to_again(
    packed: Shelf, drawn: tuple[Case, How], kept: str
) -> None:
    case, how = drawn
    for rank in range(how.world):
        held: list[Any] = []
        sums: list[int] = []
        for batch in open_rank(packed(*case.made), case, how, rank):
            # The batch itself goes; what is held is a tensor, an array, a view of a row, the names.
            parts: list[Any] = [*batch.fields.values()]
            if kept != "tensor":
                parts = [batch.names] if kept == "names" else [part.numpy() for part in parts]
            held += [part[:1] for part in parts] if kept == "row" else parts
            del batch, parts
            sums += [zlib.crc32(np.asarray(part).tobytes()) for part in held[len(sums) :]]
        assert [zlib.crc32(np.asarray(part).tobytes()) for part in held] == sums


# ---------------------------------------------------------------------------- what it costs

MANY = (1024, 8, 256, "image", "zstd:1")


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every block that is inflated from now on, one by one or many at once."""
    sizes: list[int] = []
    inflate, load = frames.inflate, BlockLoader.load

    def counted(frame: Any, *, size: int, **more: Any) -> Any:
        sizes.append(size)
        return inflate(frame, size=size, **more)

    def counted_load(self: BlockLoader, wanted: Any) -> Loaded:
        loaded = load(self, wanted)
        sizes.extend(len(block.data) for block in loaded.blocks)
        return loaded

    monkeypatch.setattr(frames, "inflate", counted)
    monkeypatch.setattr(BlockLoader, "load", counted_load)
    return sizes


@pytest.mark.parametrize(("lanes", "world"), [(1, 1), (3, 1), (5, 3)])
def test_each_block_is_read_once_an_epoch_for_each_lane_that_it_lies_in(
    packed: Shelf, inflated: list[int], lanes: int, world: int
) -> None:
    data, case = packed(*MANY), Case(MANY, lanes, 5, 1, 2, 200)  # lanes that end inside a block
    read_ranks(data, case, How(world, 2, 4))
    num_blocks = -(-data.samples // data.samples_per_block)
    assert num_blocks * 2 <= len(inflated) <= (num_blocks + lanes) * 2


@pytest.mark.parametrize("world", [1, 3])
def test_a_split_that_is_shuffled_as_a_whole_is_read_once_by_each_rank(
    packed: Shelf, inflated: list[int], world: int
) -> None:
    data, case = packed(*MANY), Case(MANY, 5, 5, 1, 3)
    ranks = read_ranks(data, case, How(world, 2, 4))
    num_blocks = -(-data.samples // data.samples_per_block)
    assert len(inflated) == num_blocks * world  # kept from one epoch to the next
    assert seen(ranks).keys() == set(range(case.stop))


def test_the_first_batch_waits_for_the_blocks_that_it_needs_and_no_others(
    packed: Shelf, inflated: list[int]
) -> None:
    data, case = packed(*MANY), Case(MANY, 4, 8, 1, 1)
    batches = open_rank(data, case, How(1, 1, 1), 0)
    next(batches)
    assert len(inflated) <= 8 * 5  # of 8 rows, and of the batches that are prepared
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("shuffled", [200, 10**6])
def test_a_resume_reads_the_windows_under_its_cursor_and_replays_nothing(
    packed: Shelf, inflated: list[int], at: float, shuffled: int
) -> None:
    data, case = packed(*MANY), Case(MANY, 3, 5, 1, 1, shuffled)
    start = round(at * MANY[0])
    read_ranks(data, case, How(1, 2, 4), start=start)
    num_blocks = data.samples // data.samples_per_block
    rest = (data.samples - start) // data.samples_per_block
    # What its windows hold is shuffled among rows that came before.
    open_blocks = num_blocks - rest if shuffled > MANY[0] else shuffled // 8 + 2 * case.lanes
    assert rest <= len(inflated) <= rest + open_blocks


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shuffled", [8, 70, 140])
def test_what_is_held_at_once_is_bounded_by_the_memory_for_shuffling(
    packed: Shelf, inflated: list[int], lanes: int, threads: int, shuffled: int
) -> None:
    data, case = packed(*MANY), Case(MANY, lanes, 8, 1, 1, shuffled)
    order = Order(data, **case.order)
    assert not order.is_whole
    # Windows; those that follow them in the batches prepared; a lane's ends; what lies spare.
    window_blocks = -(-shuffled // (8 * lanes))
    blocks_held = lanes * (window_blocks + 1) + min(lanes, 3) * (window_blocks + 1) + 8
    list(open_rank(data, case, How(1, threads, 2), 0))  # what is made once is made now
    block_bytes = max(inflated) * 9 / 8  # memory is taken so that the next block fits, too
    tracemalloc.start()
    for batch in open_rank(data, case, How(1, threads, 2), 0):
        del batch
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches_bytes = 5 * 16 * SIDE * SIDE * 5
    overhead_bytes = 400_000  # the pool, the frames being inflated, member tables, Python
    allowed = blocks_held * block_bytes + batches_bytes + overhead_bytes
    assert allowed < 0.65 * sum(inflated) / 2  # so that holding everything would be seen
    assert peak_bytes < allowed


# ---------------------------------------------------------------------------- damage

DAMAGED = [
    (45, 16, 13, "image", "none"),
    (61, 7, 20, "image", "zstd:1"),
    (96, 8, 32, "raw", "zstd:1"),
]


@st.composite
def damages(draw: st.DrawFn) -> tuple[Any, ...]:
    """A case, two ways to read it, the places spoiled, and a position to resume at."""
    lanes, chunk = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    made = draw(st.sampled_from(DAMAGED))
    rest = draw(st.integers(0, 99)), draw(st.integers(1, 2)), draw(SHUFFLED)
    case = Case(made, lanes, chunk, *rest)
    way = st.builds(
        How,
        world=st.integers(1, min(4, lanes)),
        threads=st.integers(1, 3),
        chunks=st.integers(1, 9),
    )
    rows = st.sets(st.integers(0, made[0] - 1), max_size=3)
    samples = rows if made[3] == "image" else st.just(set())  # raw ones are pixels as they are
    start = draw(st.integers(0, case.stop))
    return case, draw(way), draw(way), draw(rows), draw(samples), start


def spoiled_places(data: Manifest, blocks: set[int], samples: set[int]) -> tuple[set[Place], ...]:
    """The places of samples by number, those to spoil with their block and those alone."""
    places = sorted(stored_keys(data))
    return {places[number] for number in blocks}, {places[number] for number in samples}


@law
@given(drawn=damages())
def test_what_is_left_out_follows_from_the_bytes_alone(
    packed: Shelf, drawn: tuple[Any, ...]
) -> None:
    case, how, other, *numbers, start = drawn
    data = packed(*case.made)
    blocks, samples = spoiled_places(data, *numbers)
    lost_blocks = {place[:2] for place in blocks}
    order, stored = Order(data, **case.order), stored_keys(data)
    kept = {
        position: row
        for position, row in seen(read_ranks(data, case, how)).items()
        if (place := order.locate(position))[:2] not in lost_blocks and place not in samples
    }
    names = [shard.name for shard in data.splits["train"].shards]
    ledger = {f"shard {names[shard]}, block {block}" for shard, block in lost_blocks} | {
        f"shard {names[place[0]]}, block {place[1]}, sample {stored[place]}"
        for place in samples
        if place[:2] not in lost_blocks
    }
    with tempfile.TemporaryDirectory() as folder:
        bad = spoil(data, Path(folder) / "bad", blocks, samples)
        for way, first in ((how, 0), (other, start)):
            damaged: dict[str, str] = {}
            skip = {"on_damage": "skip", "damaged": damaged, "start": first}
            came = read_ranks(bad, case, way, **skip)
            assert seen(came) == {at: row for at, row in kept.items() if at >= first}
            assert damaged.keys() == ledger if first == 0 else damaged.keys() <= ledger
            for batch in (batch for batches in came for batch in batches):
                assert sum(batch.chunks) == len(batch)


@law
@given(drawn=damages())
def test_fatal_damage_stops_the_ranks_that_meet_it_by_name_and_no_other(
    packed: Shelf, drawn: tuple[Any, ...]
) -> None:
    case, how, _, *numbers, start = drawn
    data = packed(*case.made)
    blocks, samples = spoiled_places(data, *numbers)
    lost_blocks = {place[:2] for place in blocks}
    order, names = Order(data, **case.order), [s.name for s in data.splits["train"].shards]
    with tempfile.TemporaryDirectory() as folder:
        bad = spoil(data, Path(folder) / "bad", blocks, samples)
        for rank in range(how.world):
            mine = [
                position
                for piece in order.pieces(start, case.stop)
                if piece.lane % how.world == rank
                for position in range(piece.position, piece.position + piece.rows)
            ]
            placed = {position: order.locate(position) for position in mine}
            met = {
                position: f"shard {names[shard]}, block {block}"
                for position, (shard, block, row) in placed.items()
                if (shard, block) in lost_blocks or (shard, block, row) in samples
            }
            batches = open_rank(bad, case, how, rank, start=start)
            if not met:
                assert len(seen([list(batches)])) == len(mine)
                continue
            size = how.chunks * case.chunk
            step = min(met) // size  # what is opened or decoded ahead is judged in its own turn
            whole = list(islice(batches, step - start // size))
            assert len(seen([whole])) == sum(position // size < step for position in mine)
            with pytest.raises(ValueError, match="is damaged") as found:
                next(batches)
            places = {place for position, place in met.items() if position // size == step}
            assert any(place in str(found.value) for place in places)
