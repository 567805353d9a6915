"""What a compiler is shown: one graph, no matter which step, and the numbers of the plain pass."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch._dynamo.utils import counters

from tests.learn.cases import CPU, Small, make_rows, make_view, mask_task, one_step, small_tasks
from tests.learn.test_step import furthest, weights
from wdtrain.learn.compiling import MOST_GRAPHS
from wdtrain.learn.evaluate import evaluate
from wdtrain.learn.task import Task, TaskSet
from wdtrain.memory.fitting import Fitting
from wdtrain.networks import NETWORKS, build
from wdtrain.ranks.collective import Alone

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


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list) -> object:
        self.graphs += 1
        return graph.forward


@dataclass
class MemoryOf:
    """A device on which a pass takes as many bytes as it holds samples."""

    task: Task
    budget_bytes: int
    clock: float = 0.0

    def restart(self) -> None:
        pass

    def peak_bytes(self) -> int:
        return self.task.micro_batch

    def now(self) -> float:
        self.clock += 0.01
        return self.clock


def compiled_task() -> Task:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, at its first import
        return mask_task(Small(), compiled=True)


@pytest.fixture
def counted():
    """A compiled task, and the backend that counts its graphs."""
    with torch._dynamo.config.patch(recompile_limit=8):
        task, backend = compiled_task(), Counting()
        task.network.compile(backend=backend)
        yield task, backend


def fitted(task: Task, share: int, budget_bytes: int) -> TaskSet:
    """The task, planned for a device that is so large."""
    tasks = TaskSet([task])
    Fitting(
        tasks=tasks, view=make_view(), height=16, width=16, share=share, device=CPU,
        collective=Alone(), asked=lambda: False,
    ).fit(MemoryOf(task, budget_bytes))  # fmt: skip
    return tasks


def test_planning_compiles_nothing_and_a_planned_run_compiles_few_graphs(counted):
    task, backend = counted
    tasks = fitted(task, share=96, budget_bytes=60)
    assert backend.graphs == 0
    assert task.micro_batch == 48
    for seed, count in enumerate((96, 96, 93, 88, 90, 4, 68, 76, 96, 20, 41, 57, 12, 96)):
        one_step(tasks, make_rows(count, seed=seed))
    plain = make_view(augmented=False)
    for count in (48, 31, 17, 48, 9):
        evaluate(task, make_rows(count), device=CPU, view=plain)
    # 12, 6, 3 and 1 groups, the tails of 1, 2 and 3 samples, and evaluation of any size.
    assert backend.graphs <= 7 + 3
    graphs = backend.graphs
    for seed, count in enumerate((96, 93, 90, 57)):
        one_step(tasks, make_rows(count, seed=seed))
    assert backend.graphs == graphs


def test_more_than_eight_sizes_are_compiled_all_the_same(counted):
    task, backend = counted
    tasks = TaskSet([task])
    for groups in range(1, 12):
        task.micro_batch = 4 * groups
        one_step(tasks, make_rows(4 * groups))
    assert backend.graphs == 11


def test_where_no_more_is_compiled_that_is_said_in_words(counted):
    task, backend = counted
    torch._dynamo.config.recompile_limit = 2
    said: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listening = Listening()
    logger = logging.getLogger("torch._dynamo.convert_frame")
    logger.addHandler(listening)
    try:
        for groups in range(1, 5):
            task.micro_batch = 4 * groups
            one_step(TaskSet([task]), make_rows(4 * groups))
    finally:
        logger.removeHandler(listening)
    assert backend.graphs == 2
    (text,) = [text for text in said if "compiled" in text]
    assert "has been compiled 2 times, the most that is allowed, and runs uncompiled" in text
    assert "step.micro_batch" in text


def test_the_limit_is_raised_and_never_lowered():
    for before, after in ((8, MOST_GRAPHS), (1000, 1000)):
        with torch._dynamo.config.patch(recompile_limit=before):
            compiled_task()
            assert torch._dynamo.config.recompile_limit == after
