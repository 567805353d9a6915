"""The best, the middle and the worst: exact over any ranks, in memory that does not grow."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.fields import DepthFormat, triple_of
from wdtrain.record.ranking import Ranking
from wdtrain.record.report import outcome, write_report
from wdtrain.record.scores import Baselines, SplitScores
from wdtrain.targets import target_of
from wdtrain.targets.metrics import rank_samples

SCORES = st.one_of(st.floats(0, 1), st.just(float("nan")), st.sampled_from([0.25, 0.5]))


def shared(rankings: list[Ranking]) -> list[dict[str, list[tuple[str, float]]]]:
    """What each rank has after they told one another."""
    told = [(r.count, r._best, r._worst, r._drawn) for r in rankings]
    for ranking in rankings:
        ranking.gather(lambda mine: told)
    return [ranking.result() for ranking in rankings]


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(SCORES, max_size=60),
    higher=st.booleans(),
    world=st.integers(1, 3),
    cuts=st.integers(1, 9),
)
def test_it_is_the_ranking_of_all_samples_over_any_batches_and_ranks(scores, higher, world, cuts):
    samples = [(f"key-{index}", score) for index, score in enumerate(scores)]
    rankings = [Ranking(higher_is_better=higher) for _ in range(world)]
    for begin in range(0, len(samples), cuts):
        rankings[begin // cuts % world].add(samples[begin : begin + cuts])
    wanted = rank_samples(samples, higher_is_better=higher)
    for found in shared(rankings):
        assert repr(found) == repr(wanted)  # NaN is not equal to itself
    assert all(ranking.is_exact for ranking in rankings)


def test_memory_does_not_grow_and_the_middle_is_near():
    chance = random.Random(3)
    samples = [(f"key-{index}", chance.random() ** 3) for index in range(20_000)]
    rankings = [Ranking(higher_is_better=True, drawn=1000) for _ in range(2)]
    for begin in range(0, len(samples), 500):
        rankings[begin // 500 % 2].add(samples[begin : begin + 500])
        assert all(len(r._drawn) <= 1000 for r in rankings)
        assert all(len(r._best) + len(r._worst) <= 8 for r in rankings)
    first, other = shared(rankings)
    wanted = rank_samples(samples, higher_is_better=True)
    assert first == other
    assert (first["best"], first["worst"]) == (wanted["best"], wanted["worst"])
    assert not rankings[0].is_exact
    ranked = sorted(score for _, score in samples)
    for key, score in first["median"]:
        assert dict(samples)[key] == score
        assert abs(ranked.index(score) / len(samples) - 0.5) < 3 * 0.5 / math.sqrt(1000)


def unknown_scores(depth_format: DepthFormat, known: bool) -> SplitScores:
    """A split scored by both tasks; the depth of all or of none of its samples is known."""

    fields = triple_of(depth_format)
    tasks = {
        field.name: SimpleNamespace(input="overlay", target=target_of(field))
        for field in fields
        if field.name != "overlay"
    }

    def batch(depth: int) -> SimpleNamespace:
        stored = {
            "overlay": torch.zeros(3, 3, 16, 16, dtype=torch.uint8),
            "mask": torch.full((3, 1, 16, 16), 255, dtype=torch.uint8),
            "depth": torch.full((3, 1, 16, 16), depth, dtype=torch.uint8),
        }
        return SimpleNamespace(fields=stored, keys=list("abc"), cursor=SimpleNamespace(position=3))

    class Stream:
        size = (16, 16)

        def __iter__(self):
            return iter([batch(50)])

    baselines = Baselines()
    baselines.fit(Stream(), lambda numbers: numbers, tasks.values())
    scores = SplitScores("val", tasks, tasks["mask"].target)
    answer = (torch.full((3, 1, 16, 16), 0.6), torch.zeros(3))
    scores.update({"mask": answer, "depth": answer}, batch(100 if known else 0), baselines)
    return scores


def results_of(scores: SplitScores) -> dict:
    tasks = {
        name: {"network": "n", "parameters": 1, "target": name, "metric": one.metric}
        for name, one in scores.tasks.items()
    }
    splits = {"val": {"tasks": {name: one.result() for name, one in scores.tasks.items()}}}
    return {"tasks": tasks, "splits": splits, "lead_split": "val"}


@pytest.mark.parametrize("known", [True, False])
def test_a_split_without_known_depth_is_said_to_have_none(tmp_path, known):
    scores = unknown_scores(DepthFormat(kind="metric", bits=8, near_m=0.5, far_m=20.0), known)
    sentence = scores.tasks["depth"].score("depth").sentence()
    results = results_of(scores)
    report = write_report(tmp_path, results).read_text()
    (line,) = [line for line in report.splitlines() if line.startswith("| depth | val |")]
    said = "no sample of the split has a known pixel"
    for text in (sentence, line, outcome(results)):
        assert (said in text) != known
        assert "nan" not in text
    assert math.isfinite(scores.skill())
    assert "mask IoU pooled 1.000 (colour" in scores.tasks["mask"].score("mask").sentence()
    assert [len(found) for found in scores.tasks["depth"].ranking.result().values()] == (
        [3, 3, 3] if known else [0, 0, 0]
    )
