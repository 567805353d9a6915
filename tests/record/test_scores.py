"""What a split scores: samples of which nothing is known count nowhere."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from wdtrain.fields import DepthFormat, triple_of
from wdtrain.record.scores import Baselines, SplitScores
from wdtrain.targets import target_of

_, MASK, DEPTH = triple_of(DepthFormat())
TASKS = {
    field.name: SimpleNamespace(input="overlay", target=target_of(field)) for field in (MASK, DEPTH)
}


def batch(*depths: int, first: int = 0) -> SimpleNamespace:
    """A sample of one depth code each, with the same mask in the same colours."""
    mask = torch.zeros(len(depths), 1, 8, 8, dtype=torch.uint8)
    mask[:, :, 2:6, 2:6] = 255
    return SimpleNamespace(
        fields={
            "overlay": mask.expand(-1, 3, -1, -1).contiguous(),
            "mask": mask,
            "depth": torch.tensor(depths, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8),
        },
        keys=[f"s{first + index}" for index in range(len(depths))],
        cursor=SimpleNamespace(position=first + len(depths)),
    )


class Stream:
    size = (8, 8)

    def __iter__(self):
        return iter([batch(100, 180)])


def scored(*batches: SimpleNamespace) -> SplitScores:
    baselines = Baselines()
    baselines.fit(Stream(), lambda numbers: numbers, TASKS.values())
    scores = SplitScores("val", TASKS, target_of(MASK))
    for one in batches:
        unit = torch.full((len(one.keys), 1, 8, 8), 0.5)
        known = (one.fields["depth"] > 0).flatten(1).any(1)
        losses = {"mask": torch.ones(len(known)), "depth": torch.where(known, 2.0, 0.0)}
        scores.update({task: (unit, loss) for task, loss in losses.items()}, one, baselines)
    scores.reduce(lambda numbers: numbers)
    return scores


def test_the_mean_loss_is_over_the_samples_that_have_a_known_pixel():
    scores = scored(batch(0, 100, 0), batch(150, 0, first=3))
    assert scores.tasks["depth"].loss == pytest.approx(2.0)
    assert scores.tasks["mask"].loss == pytest.approx(1.0)


def test_samples_without_depth_are_among_neither_the_best_nor_the_worst():
    scores = scored(batch(0, 100, 0), batch(150, 0, first=3))
    for shown in scores.tasks["depth"].ranking.result().values():
        assert sorted(key for key, _ in shown) == ["s1", "s3"]
    assert scores.tasks["mask"].ranking.count == 5


def test_a_task_that_could_not_be_scored_takes_nothing_from_the_skill_of_the_others():
    whole, without = scored(batch(100, 150)), scored(batch(0, 0))
    assert whole.tasks["depth"].is_scored
    assert not without.tasks["depth"].is_scored
    assert math.isnan(without.tasks["depth"].loss)
    assert without.skill() == without.tasks["mask"].skill()
    assert math.isfinite(whole.skill())
