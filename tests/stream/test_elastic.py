"""Elastic resume: stopped anywhere and gone on with by another number of ranks, a job reads on in
the order that it would have had, simulated in one process and with processes that are killed.

Real ranks are forked from a server that has imported the stream once, since importing torch sixteen
times would cost more than all else here.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.noise import NoiseSource
from tests.stream.layouts import SAMPLE_BYTES, fake_manifest
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Batch, Cursor, Order, open_stream
from wdtrain.stream.order import Piece

law = settings(max_examples=25, deadline=None, derandomize=True)

ORDER: dict[str, Any] = {
    "split": "train",
    "seed": 11,
    "lanes": 9,
    "chunk": 4,
    "shuffle_bytes": 150 * (12 * 12 * 5 + 4096),
}
EPOCHS = 2
WORLDS = (8, 3, 5)
WAIT_SECONDS = 120
Line = tuple[int, str]
"""A position and the key that came there."""
Place = tuple[int, int, int]
"""Shard, block, row."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    target = tmp_path_factory.mktemp("packed") / "data"
    return pack(NoiseSource(330, 12), target, processes=1, shard_samples=90, samples_per_block=8)


@pytest.fixture(scope="module")
def uninterrupted(data: Manifest) -> list[Line]:
    """What one rank reads that is never stopped."""
    return lines_of(open_stream(data, **ORDER, batch_size=40, epochs=EPOCHS))


def lines_of(batches: Any) -> list[Line]:
    return [line for batch in batches for line in lines_of_batch(batch)]


def lines_of_batch(batch: Batch) -> list[Line]:
    return list(zip(batch.positions.tolist(), batch.keys, strict=True))


# ---------------------------------------------------------------------------- in one process

phases = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 15), st.integers(0, 9)), min_size=1, max_size=5
)
"""Worlds one after the other, each with its chunks a batch and the batches until it is stopped."""


@law
@given(stops=phases)
@example(stops=[(8, 8, 3), (3, 12, 4), (5, 10, 99)])
def test_a_job_stopped_at_any_batch_goes_on_in_its_order_under_any_world(
    data: Manifest, uninterrupted: list[Line], stops: list[tuple[int, int, int]]
) -> None:
    came: list[Line] = []
    saved: str | None = None
    for world, chunks, taken in [*stops, (1, 8, 10**6)]:
        start = None if saved is None else Cursor.loads(saved)
        how = {**ORDER, "batch_size": chunks * ORDER["chunk"], "epochs": EPOCHS, "cursor": start}
        ranks: list[list[Batch]] = []
        for rank in range(world):
            batches = iter(open_stream(data, **how, rank=rank, world=world, threads=1))
            ranks.append(list(islice(batches, taken)))
            batches.close()  # type: ignore[attr-defined]
        came += sorted(line for batches in ranks for line in lines_of(batches))
        cursors = {batches[-1].cursor.dumps() for batches in ranks if batches}
        assert len(cursors) <= 1, "ranks disagree on where the job is"
        saved = cursors.pop() if cursors else saved
    assert came == uninterrupted


@law
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    block=st.integers(1, 40),
    lanes=st.integers(8, 40),
    chunk=st.integers(1, 16),
    shuffled=st.integers(1, 1600),
    stops=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 9)), min_size=1, max_size=6),
)
def test_a_job_of_a_simulated_dataset_visits_the_same_places_in_the_same_order(
    sizes: list[int],
    block: int,
    lanes: int,
    chunk: int,
    shuffled: int,
    stops: list[tuple[int, int]],
) -> None:
    how = {"seed": 3, "lanes": lanes, "chunk": chunk, "shuffle_bytes": shuffled * SAMPLE_BYTES}
    order = Order(fake_manifest(sizes, block), "train", **how)
    at = Cursor.at(order, 0)
    came: list[tuple[int, Place]] = []
    for world, chunks in stops:
        stop = (at.position // (chunks * chunk) + 1) * chunks * chunk
        pieces = list(order.pieces(at.position, stop))
        for rank in range(world):
            mine = [piece for piece in pieces if piece.lane % world == rank]
            came += [place for piece in mine for place in places_of(order, piece)]
        at = Cursor.loads(Cursor.at(order, stop).dumps())
    assert sorted(came) == [(position, order.locate(position)) for position in range(at.position)]


def places_of(order: Order, piece: Piece) -> list[tuple[int, Place]]:
    """Each position of a piece with its place, found as the reader does: through its window."""
    places: list[Place] = []
    for fragment in order.fragments(piece):
        blocks, row = order.samples_of(fragment)
        shards, inside = order.shard_block(blocks)
        places += zip(shards.tolist(), inside.tolist(), row.tolist(), strict=True)
    return list(enumerate(places, piece.position))


# ---------------------------------------------------------------------------- as processes


def run_rank(url: str, how: dict[str, Any], saved: str | None, log: str, hold: int) -> None:
    """One rank of a job: a line a batch into its log; after line `hold` it waits to be killed, with
    batches prepared ahead."""
    cursor = None if saved is None else Cursor.loads(saved)
    stream = open_stream(url, **how, cursor=cursor, epochs=EPOCHS, threads=1)
    with Path(log).open("w") as file:
        for number, batch in enumerate(stream, 1):
            line = {"lines": lines_of_batch(batch), "cursor": batch.cursor.dumps()}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if number == hold:
                signal.pause()


def run_job(
    url: str, world: int, batch_size: int, saved: str | None, folder: Path, *, steps: int | None
) -> tuple[list[list[Any]], list[int | None]]:
    """By rank, the lines of a job's logs, and how each rank ended: killed once all have taken so
    many steps, some a few more, or at the end of the stream."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    logs = [folder / f"{world}-{rank}.jsonl" for rank in range(world)]
    how = {**ORDER, "batch_size": batch_size, "world": world}
    ranks = []
    for rank, log in enumerate(logs):
        hold = 0 if steps is None else steps + rank % 3
        arguments = (url, how | {"rank": rank}, saved, str(log), hold)
        ranks.append(context.Process(target=run_rank, args=arguments, daemon=True))
        ranks[-1].start()
    if steps is not None:
        wait_for_lines(logs, [steps + rank % 3 for rank in range(world)])
        for process in ranks:
            process.kill()
    for process in ranks:
        process.join(WAIT_SECONDS)
    found = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    return found, [process.exitcode for process in ranks]


def wait_for_lines(logs: Sequence[Path], wanted: Sequence[int]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(
        not log.exists() or log.read_bytes().count(b"\n") < lines
        for log, lines in zip(logs, wanted, strict=True)
    ):
        assert time.monotonic() < deadline, "the ranks did not come so far"
        time.sleep(0.02)


def test_ranks_killed_8_then_3_then_5_read_on_in_the_uninterrupted_order(
    data: Manifest, uninterrupted: list[Line], tmp_path: Path
) -> None:
    saved: str | None = None
    came: list[Any] = []
    for world, batch_size, steps in zip(WORLDS, (32, 48, 20), (6, 3, None), strict=True):
        logs, ends = run_job(data.url, world, batch_size, saved, tmp_path, steps=steps)
        assert ends == [-signal.SIGKILL if steps else 0] * world
        # The checkpoint is of the step that all have taken; what a rank took beyond it is dropped.
        committed = [lines[:steps] for lines in logs]
        last = {lines[-1]["cursor"] for lines in committed}
        assert len(last) == 1, "ranks disagree on where the job is"
        saved = last.pop()
        came += sorted(row for lines in committed for line in lines for row in line["lines"])
        position = Cursor.loads(saved).position
        assert [tuple(row) for row in came] == uninterrupted[:position]
    assert len(came) == len(uninterrupted) == EPOCHS * Order(data, **ORDER).samples
