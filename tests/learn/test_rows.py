from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.learn.cases import make_rows
from wdtrain.learn.rows import Rows, rows_of


def test_a_batch_is_cut_into_groups_that_know_their_epoch_and_place():
    pictures = torch.zeros(11, 3, 4, 4, dtype=torch.uint8)
    positions = np.array([96, 97, 98, 99, 128, 129, 130, 131, 132, 160, 161])
    batch = SimpleNamespace(
        fields={"overlay": pictures, "mask": pictures[:, :1]},
        keys=[str(position) for position in positions],
        chunks=[4, 5, 2],
        positions=positions,
        epochs=list(positions // 130),
        copy=lambda part, device: part,
    )
    rows = rows_of(batch, 4)
    assert rows.groups == [4, 4, 1, 2]
    assert rows.group_ids == [96, 128, 132, 160]
    assert rows.group_epochs == [0, 0, 1, 1]


def test_a_part_holds_its_groups_and_copies_nothing():
    rows = make_rows(10)
    part = rows.part(1, 3)
    assert part.keys == rows.keys[4:]
    assert part.groups == [4, 2]
    assert part.group_ids == rows.group_ids[1:]
    assert part["overlay"].data_ptr() == rows["overlay"][4:].data_ptr()


@given(groups=st.lists(st.integers(1, 5), max_size=12), data=st.data())
def test_places_of_groups_are_what_adding_them_up_gives(groups, data):
    first = data.draw(st.integers(0, len(groups)))
    last = data.draw(st.integers(first, len(groups)))
    count = sum(groups)
    pictures = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    starts = [sum(groups[:index]) for index in range(len(groups))]
    rows = Rows(
        fields={"overlay": pictures.expand(count, 3, 1, 1), "mask": pictures},
        keys=[str(row) for row in range(count)],
        epochs=[row // 3 for row in range(count)],
        groups=groups,
        group_ids=[10 * start for start in starts],
    )
    part = rows.part(first, last)
    expected = range(sum(groups[:first]), sum(groups[:last]))
    assert part["mask"].flatten().tolist() == list(expected)
    assert part.keys == [str(row) for row in expected]
    assert part.group_ids == [10 * start for start in starts[first:last]]
    assert rows.group_epochs == [start // 3 for start in starts]
    assert part.group_epochs == [start // 3 for start in starts[first:last]]


class Counted(list):
    """Counts how many of its items are handed out."""

    taken = 0

    def __iter__(self):
        for item in super().__iter__():
            Counted.taken += 1
            yield item

    def __getitem__(self, index):
        found = super().__getitem__(index)
        Counted.taken += len(found) if isinstance(index, slice) else 1
        return Counted(found) if isinstance(index, slice) else found


def test_groups_are_looked_at_a_few_times_however_many_there_are():
    count = 500
    nothing = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    rows = Rows(
        fields={"overlay": nothing}, keys=[""] * count, epochs=[0] * count,
        groups=Counted([1] * count), group_ids=list(range(count)),
    )  # fmt: skip
    Counted.taken = 0
    assert rows.group_epochs == [0] * count
    for index in range(count):
        assert rows.part(index, index + 1).group_epochs == [0]
    assert Counted.taken < 20 * count


def test_refuses_rows_that_disagree():
    rows = make_rows(8)
    with pytest.raises(ValueError, match="must tell of the same rows"):
        Rows(**{**vars(rows), "groups": [4, 3]})
