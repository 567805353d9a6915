from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.learn.groups import groups_of_chunks, keyed, plan_few_sizes, plan_micro_batches

sizes = st.lists(st.integers(1, 9), max_size=20)


@pytest.mark.parametrize("planner", [plan_micro_batches, plan_few_sizes])
@given(groups=sizes, micro_batch=st.integers(1, 30))
def test_a_micro_batch_is_made_of_whole_groups_and_none_is_left_out(planner, groups, micro_batch):
    plan = planner(groups, micro_batch)
    assert [index for first, last in plan for index in range(first, last)] == list(
        range(len(groups))
    )
    for first, last in plan:
        assert last - first == 1 or sum(groups[first:last]) <= micro_batch


@pytest.mark.parametrize(
    ("micro_batch", "split"), [(24, [24]), (12, [12, 12]), (8, [8, 8, 8]), (16, [16, 8])]
)
def test_splits_24_as_asked(micro_batch, split):
    plan = plan_micro_batches([4] * 6, micro_batch)
    assert [4 * (last - first) for first, last in plan] == split


@given(shares=st.lists(st.integers(0, 300), max_size=9), most=st.integers(1, 100), data=st.data())
def test_shares_of_any_length_come_in_few_sizes_for_a_compiler(shares, most, data):
    seen = set()
    for share in shares:
        groups = [32] * share
        if data.draw(st.booleans()):
            groups.insert(data.draw(st.integers(0, share)), 17)  # the end of an epoch
        for first, last in plan_few_sizes(groups, 32 * most):
            assert len(set(groups[first:last])) == 1
            seen.add(tuple(groups[first:last]))
    halvings = {(32,) * (most >> times) for times in range(most.bit_length())}
    assert seen <= halvings | {(17,)}


@given(chunks=sizes, norm_group=st.integers(1, 9))
def test_groups_never_cross_a_chunk(chunks, norm_group):
    groups = groups_of_chunks(chunks, norm_group)
    borders = {sum(groups[: index + 1]) for index in range(len(groups))}
    assert max(groups, default=0) <= norm_group
    assert {sum(chunks[: index + 1]) for index in range(len(chunks))} <= borders


def test_refuses_an_empty_group():
    with pytest.raises(ValueError, match="norm_group is 0"):
        groups_of_chunks([4], 0)


def test_a_key_depends_on_every_part_and_its_borders():
    keys = [keyed(1, 2), keyed(2, 1), keyed(12), keyed("1", 2), keyed("12"), keyed(1, 2, "")]
    assert len(set(keys)) == len(keys)
