from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.learn.cases import make_rows
from wdtrain.learn.rows import Rows, rows_of


def test_a_batch_is_cut_into_groups_that_know_their_epoch_and_place():
    pictures = torch.zeros(11, 3, 4, 4, dtype=torch.uint8)
    positions = np.array([96, 97, 98, 99, 128, 129, 130, 131, 132, 160, 161])
    batch = SimpleNamespace(
        overlay=pictures,
        mask=pictures[:, :1],
        depth=pictures[:, :1],
        keys=[str(position) for position in positions],
        chunks=[4, 5, 2],
        positions=positions,
        epochs=list(positions // 130),
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
    assert part.overlay.data_ptr() == rows.overlay[4:].data_ptr()


def test_refuses_rows_that_disagree():
    rows = make_rows(8)
    with pytest.raises(ValueError, match="must tell of the same rows"):
        Rows(**{**vars(rows), "groups": [4, 3]})
