"""Laws of the small graphics of text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.record.glyphs import (
    ASCII,
    UNICODE,
    History,
    duration,
    number,
    rate,
    share_columns,
    size,
)


@pytest.mark.parametrize("glyphs", [ASCII, UNICODE])
def test_a_sparkline_falls_as_its_values_fall(glyphs):
    line = glyphs.spark([math.exp(-step / 10) for step in range(80)], 8)
    assert list(line) == list(reversed(glyphs.levels))
    assert glyphs.spark([1.0, 1.0], 8) == glyphs.levels[0] * 2
    assert glyphs.spark([-1.0, 0.0, 1.0], 8)[0] == glyphs.levels[0]


def test_a_loss_that_is_not_finite_is_seen():
    assert UNICODE.spark([1.0, math.nan, 2.0], 8) == "▁!█"
    assert UNICODE.spark([math.nan], 8) == "!"
    assert UNICODE.spark([], 8) == ""


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 120))
def test_columns_of_shares_fill_the_width_exactly(shares, width):
    columns = share_columns(shares, width)
    assert sum(columns) == (width if sum(shares) > 0 else 0)
    assert all(abs(c - s / sum(shares) * width) <= 1 for c, s in zip(columns, shares, strict=True)
               if sum(shares) > 0)  # fmt: skip


@given(st.integers(1, 5000))
def test_a_history_keeps_the_mean_of_a_run_of_any_length_in_few_numbers(count):
    history = History()
    for value in range(count):
        history.add(float(value))
    stride = 1
    while count // stride > 511:
        stride *= 2
    kept = [sum(range(at, at + stride)) / stride for at in range(0, count - stride + 1, stride)]
    assert history.values == kept[: len(history.values)]
    assert 256 <= len(history.values) < 512 or stride == 1
    assert len(history.values) == len(kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (duration(7.2), "0:07"),
        (duration(751), "12:31"),
        (duration(11045), "3:04:05"),
        (duration(2 * 86400 + 5), "2d 0:00:05"),
        (duration(math.nan), "-"),
        (size(812 * 2**20), "812 MiB"),
        (size(11.2 * 2**30), "11.2 GiB"),
        (number(0.21345), "0.2135"),
        (number(12.345), "12.35"),
        (number(0.0), "0.0000"),
        (number(-3.14159), "-3.142"),
        (number(1e-6), "1.00e-06"),
        (number(math.nan), "nan"),
        (rate(34.25), "34.2"),
        (rate(1034.4), "1,034"),
    ],
)
def test_numbers_are_written_as_people_read_them(text, expected):
    assert text == expected
