"""What a compiler is shown: one graph, no matter which step, and the numbers of the plain pass."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from tests.learn.cases import make_rows, mask_task, one_step, small_tasks
from tests.learn.test_step import furthest, weights
from wdtrain.learn.networks import NETWORKS, build
from wdtrain.learn.task import TaskSet

STEPS = (24, 24, 22, 24)
"""Samples of each step: a tail now and then, as at the end of an epoch."""


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def stepped(tasks: TaskSet) -> dict[str, torch.Tensor]:
    for seed, count in enumerate(STEPS):
        one_step(tasks, make_rows(count, seed=seed))
    return weights(tasks)


@pytest.mark.parametrize("micro_batch", [8, 24])
def test_compiled_tasks_learn_what_plain_ones_learn(micro_batch):
    plain, compiled = (small_tasks(mask=micro_batch, depth=micro_batch) for _ in range(2))
    for task in compiled:
        task.network.compile(backend="aot_eager", fullgraph=True)
    assert furthest(stepped(plain), stepped(compiled)) < 1e-8


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_network_is_one_graph_for_all_steps(network, norm):
    options = {"init_features": 2} if network == "seed-unet" else {}
    loss = "bce+dice" if network == "seed-mask" else "bce"
    task = mask_task(build(network, norm=norm, **options), loss=loss, micro_batch=24)
    task.network.compile(backend="aot_eager", fullgraph=True)
    stepped(TaskSet([task]))
    assert not counters["graph_break"]
    # One for whole micro-batches and one for those with a tail; keys change with every step.
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_single_value_a_channel_is_normalised_alike():
    plain, compiled = (mask_task(micro_batch=4) for _ in range(2))
    compiled.network.compile(backend="aot_eager", fullgraph=True)
    rows = [make_rows(1, size=1, seed=seed) for seed in range(2)]
    found = []
    for task in (plain, compiled):
        tasks = TaskSet([task])
        for part in rows:
            one_step(tasks, part)
        found.append(weights(tasks))
    assert furthest(*found) < 1e-10
