"""At another size, an edge is at one place in every field, of whichever kind."""

from __future__ import annotations

import numpy as np
import pytest

from tests.packing.test_edges import PAIRS
from wdtrain.fields import ClassesField, DepthField, Field, ImageField, MaskField

FIELDS: dict[str, tuple[Field, int, int, float]] = {
    "image": (ImageField("f"), 40, 220, 0.02),
    "mask": (MaskField("f"), 0, 255, 0.02),
    "mask that may be unknown": (MaskField("f", optional=True), 0, 255, 0.02),
    "mask beside what is unknown": (MaskField("f", optional=True), 255, 1, 0.5),
    "classes": (ClassesField("f", classes=9), 3, 7, 0.5),
    "classes beside what is ignored": (ClassesField("f", classes=9), 3, 255, 0.5),
    "depth": (DepthField("f"), 900, 40_000, 0.5),
    "depth beside what is unknown": (DepthField("f"), 900, 0, 0.5),
}
"""A field, two of its values, and by how many pixels one edge may move."""


def shift_of(field: Field, values: tuple[int, int], place: int, stored: int, size: int) -> float:
    """By how many new pixels an edge at `place` of a side has moved."""
    old = np.where(np.arange(stored) < place, *values).astype(field.dtype)
    array = np.repeat(old[None], 6, 0)
    array = array if field.channels == 1 else np.repeat(array[..., None], field.channels, 2)
    line = field.resize(array, (4, size))[1]
    line = line if field.channels == 1 else line[..., 0]
    share = (line.astype(float) - values[1]) / (values[0] - values[1])
    return float(share.sum() - place * size / stored)


@pytest.mark.parametrize("kind", FIELDS)
def test_edges_stay_where_they_are(kind: str) -> None:
    field, one, other, single = FIELDS[kind]
    for stored, size in PAIRS[::2]:
        places = range(max(1, stored // 2 - 32), min(stored, stored // 2 + 32))
        shifts = [
            shift_of(field, values, place, stored, size)
            for place in places
            for values in ((one, other), (other, one))
        ]
        assert abs(np.mean(shifts)) <= 0.02, (stored, size)
        assert np.abs(shifts).max() <= single + 1e-6, (stored, size)
