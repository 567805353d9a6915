"""Rows of mapped raw shards, known by their addresses: each holds what it points into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.blocks import block_of, samples_of
from tests.stream.readings import Case, How, Shelf, read_ranks, seen, stored_keys
from tests.stream.spoiling import rewrite
from wdtrain.store import native
from wdtrain.stream import Order, windows
from wdtrain.stream.stages import Stages


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("mapped"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("open_at_once", [1, 3])
def test_more_shards_than_may_be_open_give_the_rows_of_the_order(
    packed: Shelf, threads: int, open_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, how = Case((180, 4, 9, "raw", "none"), 3, 6, 5, 4, 30), How(1, threads, 4)
    whole = seen(read_ranks(packed(*case.made), case, how))
    monkeypatch.setattr(windows, "MAX_SHARDS", open_at_once)
    assert seen(read_ranks(packed(*case.made), case, how)) == whole


def test_rows_hold_every_file_that_they_point_into_and_no_dropped_one_is_given_again(
    packed: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MAX_SHARDS", 2)
    case = Case((180, 4, 9, "raw", "none"), 3, 6, 5, 1, 16)
    data = packed(*case.made)
    order = Order(data, **case.order)
    blocks = windows.Blocks(data, order, Stages())
    known = 0
    for piece in order.pieces(0, 2 * case.stop):
        for key, at, rows in order.fragments(piece):
            first = blocks.open_window(key, {})
            blocks.load_all(first.wanted(0, key.stop - key.start), None)
            assert first.settle(at, rows)
            again = blocks.open_window(key, {})
            for window, places in ((first, slice(at, at + rows)), (again, slice(None))):
                if window is again and window.wanted(at, rows):
                    continue  # of blocks not seen yet, or of more shards than may be open
                known += window is again
                held = window.rows._held
                assert isinstance(held, list)
                data_of = [getattr(one, "data", one) for one in held]
                spans = [(native.address_of(file), len(file)) for file in data_of]
                for address in window.rows.addresses[:, places].ravel().tolist():
                    assert any(start <= address < start + size for start, size in spans)
    assert known


@pytest.mark.parametrize("extra", [700, 40_000])
def test_blocks_of_another_stride_give_their_own_rows_in_each_epoch(
    packed: Shelf, extra: int, tmp_path: Path
) -> None:
    case, how = Case((96, 8, 48, "raw", "none"), 2, 8, 0, 6, 40), How(1, 1, 2)
    data = packed(*case.made)

    def lengthen(shard: int, block: int, content: bytes) -> bytes:
        samples = samples_of(content, data)
        if (shard, block) in ((0, 1), (1, 4)):
            samples = [(k, m | {"json": m["json"] + b" " * extra}) for k, m in samples]
        return block_of(samples)

    other = rewrite(data, tmp_path / "other", lengthen)
    order = Order(other, **case.order)
    keys = stored_keys(other)
    found = seen(read_ranks(other, case, how))
    assert {p: row[0] for p, row in found.items()} == {
        p: keys[order.locate(p)] for p in range(case.stop)
    }
    pixels = dict(seen(read_ranks(data, case, how)).values())
    assert dict(found.values()) == pixels
    assert all(pixels[key] == crc for key, crc in found.values())
