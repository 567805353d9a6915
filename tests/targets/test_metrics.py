"""Laws of the metrics' names, directions and ranks."""

from __future__ import annotations

import math

import pytest
import torch

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.targets.metrics import (
    METRIC_LABELS,
    ClassesSums,
    DepthSums,
    MaskSums,
    depth_metrics,
    is_higher_better,
    label,
    mask_metrics,
    rank_samples,
)

ONES = torch.ones(1, 1, 4, 4)


def test_every_metric_has_a_label_and_a_direction():
    masks, depths = MaskSums(), DepthSums(DepthFormat())
    masks.update(ONES, ONES)
    depths.update(ONES, ONES, ONES > 0)
    classes = ClassesSums(("wall", "mae"))
    classes.update(ONES.int(), ONES.int())
    results = (masks.result(), depths.result(), classes.result())
    names = {name for result in results for name in result if not name.startswith("iou/")}
    assert {name.rsplit("/", 1)[-1] for name in names} - {"images"} <= set(METRIC_LABELS)
    assert [is_higher_better(n) for n in ("iou", "aligned/delta1", "rmse_log")] == [1, 1, 0]
    assert label("aligned/foreground/rmse_log") == "RMSE log (aligned, foreground)"
    assert label("iou/mae") == "IoU (mae)"
    assert is_higher_better("iou/mae")


def test_metrics_of_a_batch_have_one_value_per_image():
    assert mask_metrics(ONES, ONES)["iou"].tolist() == [1.0]
    assert depth_metrics(DepthFormat(), ONES, ONES, ONES > 0)["absrel"].tolist() == [0.0]


@pytest.mark.parametrize(("higher", "best", "worst"), [(True, "e", "n"), (False, "a", "n")])
def test_samples_are_ranked_and_nan_is_the_worst(higher, best, worst):
    scores = [("a", 0.1), ("b", 0.2), ("n", math.nan), ("c", 0.3), ("d", 0.4), ("e", 0.5)]
    ranks = rank_samples(scores, higher_is_better=higher, count=2)
    assert ranks["best"][0][0] == best
    assert ranks["worst"][-1][0] == worst
    assert [key for key, _ in ranks["median"]] == (["c", "b"] if higher else ["c", "d"])


def test_ranks_do_not_depend_on_the_order_of_equal_scores():
    scores = [(key, 0.5) for key in "cab"]
    assert rank_samples(scores, higher_is_better=True) == rank_samples(
        scores[::-1], higher_is_better=True
    )
    assert rank_samples([], higher_is_better=True) == {"best": [], "median": [], "worst": []}
