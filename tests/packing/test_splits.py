"""The deal: every sample once, no part on both sides, shards found without a table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.disks import Disks
from wdtrain.fields.source import SPLITS
from wdtrain.packing import splits
from wdtrain.packing.splits import Deal, Holdout, make_splitter

SOURCES = st.builds(
    Disks,
    count=st.integers(1, 400),
    backgrounds=st.integers(1, 12),
    cutouts=st.integers(1, 12),
    knows_parts=st.booleans(),
)
HOLDOUTS = st.builds(
    Holdout,
    backgrounds=st.floats(0, 0.5),
    cutouts=st.floats(0, 0.5),
    pairs=st.floats(0, 0.5),
    samples=st.floats(0, 0.5),
)


def dealt(source: Disks, holdout: Holdout, seed: int = 0) -> dict[str, np.ndarray]:
    deal = Deal(source, make_splitter(source, holdout, seed), seed)
    return {
        name: deal.rows(source, name, 0, deal.samples(name))
        for name in SPLITS
        if deal.samples(name)
    }


@given(source=SOURCES, holdout=HOLDOUTS, seed=st.integers(0, 99))
def test_every_sample_is_dealt_exactly_once(source: Disks, holdout: Holdout, seed: int) -> None:
    rows = np.concatenate(list(dealt(source, holdout, seed).values()))
    assert np.array_equal(np.sort(rows), np.arange(len(source)))


@given(source=SOURCES, holdout=HOLDOUTS, seed=st.integers(0, 99))
def test_no_part_and_no_pair_is_on_both_sides(source: Disks, holdout: Holdout, seed: int) -> None:
    source = dataclasses.replace(source, knows_parts=True)
    parts = {name: source.parts(rows) for name, rows in dealt(source, holdout, seed).items()}
    new_backgrounds = {"val-new-seen", "val-new-new"}
    new_cutouts = {"val-seen-new", "val-new-new"}
    for name, (backgrounds, cutouts) in parts.items():
        for other, (other_backgrounds, other_cutouts) in parts.items():
            if (name in new_backgrounds) != (other in new_backgrounds):
                assert not set(backgrounds.tolist()) & set(other_backgrounds.tolist())
            if (name in new_cutouts) != (other in new_cutouts):
                assert not set(cutouts.tolist()) & set(other_cutouts.tolist())
            if name != other:
                pairs = set(zip(backgrounds.tolist(), cutouts.tolist(), strict=True))
                others = zip(other_backgrounds.tolist(), other_cutouts.tolist(), strict=True)
                assert not pairs & set(others)


@given(source=SOURCES, step=st.integers(7, 90), chunk=st.integers(16, 90))
@settings(max_examples=40)
def test_shards_are_the_parts_of_the_whole_deal(source: Disks, step: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "CHUNK", chunk)
        deal = Deal(source, make_splitter(source, Holdout(), 3), 3)
        for name in SPLITS:
            samples = deal.samples(name)
            whole = deal.rows(source, name, 0, samples) if samples else np.empty(0, np.int64)
            for start in range(0, samples, step):
                stop = min(start + step, samples)
                assert np.array_equal(deal.rows(source, name, start, stop), whole[start:stop])


def test_holds_out_the_share_of_parts_and_at_least_one() -> None:
    for parts, expected in ((2, 1), (10, 1), (40, 4)):
        source = Disks(count=parts * parts, backgrounds=parts, cutouts=parts)
        rows = dealt(source, Holdout())
        held = np.unique(source.parts(rows["val-new-new"])[0])
        assert len(held) == expected


def test_samples_of_unknown_parts_are_held_out_as_val() -> None:
    rows = dealt(Disks(count=1000, knows_parts=False), Holdout(samples=0.1))
    assert {name: len(indices) for name, indices in rows.items()} == {"train": 900, "val": 100}


def test_neighbours_of_the_source_are_dealt_apart() -> None:
    rows = dealt(Disks(count=4000, knows_parts=False), Holdout(samples=0))["train"]
    block = rows[:64]
    assert np.ptp(block) > 3000, "a block draws from all of the source"
    assert np.abs(np.diff(np.sort(block))).max() < 600
    assert not np.array_equal(
        rows, dealt(Disks(count=4000, knows_parts=False), Holdout(samples=0), 1)["train"]
    )


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_refuses_shares_that_leave_nothing(share: float) -> None:
    with pytest.raises(ValueError, match="held-out pairs"):
        Holdout(pairs=share)


def test_memory_of_a_deal_does_not_grow_with_the_samples() -> None:
    import tracemalloc

    peaks = []
    for count in (200_000, 2_000_000):
        tracemalloc.start()
        source = Disks(count=count, backgrounds=100, cutouts=100)
        deal = Deal(source, make_splitter(source, Holdout(), 0), 0)
        deal.rows(source, "train", 8192, 16384)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05
