"""Micro-batches are fitted to a device by probes of the real step, which leave no trace."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from tests.learn.cases import CPU, make_rows, make_view, one_step, run_ranks, small_tasks
from tests.learn.faults import out_of_memory
from tests.learn.test_step import furthest, weights
from wdtrain.learn.out_of_memory import DoesNotFit
from wdtrain.learn.task import TaskSet
from wdtrain.memory.fitting import Fitting, noise
from wdtrain.memory.refusal import estimate_lines, explain_refusal
from wdtrain.ranks.collective import Alone, Collective
from wdtrain.ranks.stopping import RunStopped

MIB = 2**20


@dataclass
class Meter:
    """A device that takes a fixed amount, and so much for each sample of the largest pass."""

    tasks: TaskSet
    budget_bytes: int
    fixed: int = 10 * MIB
    slope: int = MIB
    most: int = 0
    restarts: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for task in self.tasks:
            task.network.register_forward_hook(self._see)

    def _see(self, module: object, args: tuple[torch.Tensor], output: object) -> None:
        if args[0].is_meta:
            return
        self.seconds += 0.01 + 0.001 * len(args[0])
        self.most = max(self.most, len(args[0]))
        if self.peak_bytes() > self.budget_bytes:
            raise out_of_memory()

    def restart(self) -> None:
        self.most, self.restarts = 0, self.restarts + 1

    def now(self) -> float:
        return self.seconds

    def peak_bytes(self) -> int:
        return self.fixed + self.slope * self.most


def fitting(tasks: TaskSet, collective: Collective | None = None, **more: object) -> Fitting:
    settings = {"view": make_view(), "height": 16, "width": 16, "share": 64, "device": CPU}
    settings |= {"collective": collective or Alone(), "asked": lambda: False}
    return Fitting(tasks=tasks, **(settings | more))  # type: ignore[arg-type]


def test_every_task_gets_what_fits_under_the_budget():
    tasks = small_tasks()
    meter = Meter(tasks, 40 * MIB)
    choices = fitting(tasks).fit(meter)
    for task in tasks:
        assert choices[task.name].micro_batch == task.micro_batch
        assert 16 <= task.micro_batch <= 28  # 10 + 28 MiB is 95 % of the budget
        assert choices[task.name].measured_bytes == (10 + task.micro_batch) * MIB
    assert one_step(tasks, make_rows(64)).recoveries == ()


def test_a_choice_is_kept_for_as_many_outputs_as_it_was_made_for():
    tasks = small_tasks()
    facts = fitting(tasks).facts
    assert facts["outputs"] == {task.name: 1 for task in tasks}
    tasks[0].target.channels = 40
    assert fitting(tasks).facts != facts


def test_a_probe_moves_no_weight_no_state_and_draws_no_chance():
    tasks = small_tasks()
    before, states = weights(tasks), [copy.deepcopy(t.optimizer.state_dict()) for t in tasks]
    chance = torch.random.get_rng_state()
    fitting(tasks).fit(Meter(tasks, 60 * MIB))
    assert furthest(before, weights(tasks)) == 0
    for task, state in zip(tasks, states, strict=True):
        after = task.optimizer.state_dict()
        for index, values in state["state"].items():
            assert all(torch.equal(v, after["state"][index][name]) for name, v in values.items())
    assert torch.equal(chance, torch.random.get_rng_state())
    assert (tasks.steps, tasks.skipped, tasks.recoveries) == (0, 0, 0)


def test_a_run_that_was_planned_is_the_run_that_was_not():
    planned, given = small_tasks(), small_tasks()
    fitting(planned).fit(Meter(planned, 60 * MIB))
    for mine, other in zip(planned, given, strict=True):
        given.ask(other, mine.micro_batch)
    for tasks in (planned, given):
        one_step(tasks, make_rows(64))
    assert furthest(weights(planned), weights(given)) == 0


def test_the_smallest_over_all_ranks_counts():
    def work(collective):
        tasks = small_tasks()
        meter = Meter(tasks, (30 if collective.rank else 90) * MIB)
        fitting(tasks, collective).fit(meter)
        return [task.micro_batch for task in tasks]

    alone = small_tasks()
    fitting(alone).fit(Meter(alone, 30 * MIB))
    assert run_ranks(2, work) == [[task.micro_batch for task in alone]] * 2


def test_what_is_known_is_not_probed_again_if_every_rank_knows_it():
    tasks = small_tasks()
    choices = fitting(tasks).fit(Meter(tasks, 60 * MIB))

    def work(collective):
        mine = small_tasks()
        meter = Meter(mine, 60 * MIB)
        fitting(mine, collective).fit(meter, choices if collective.rank < known else None)
        return meter.restarts > 0, [task.micro_batch for task in mine]

    expected = [task.micro_batch for task in tasks]
    known = 2
    assert run_ranks(2, work) == [(False, expected)] * 2
    known = 1
    assert [probed for probed, _ in run_ranks(2, work)] == [True, True]


def test_one_norm_group_too_many_is_refused_on_all_ranks():
    def work(collective):
        tasks = small_tasks()
        meter = Meter(tasks, (12 if collective.rank else 90) * MIB)
        with pytest.raises(DoesNotFit, match="norm group") as caught:
            fitting(tasks, collective).fit(meter)
        return caught.value.task

    assert run_ranks(2, work) == ["mask", "mask"]


def test_asked_to_stop_between_probes_all_ranks_stop():
    def work(collective):
        tasks = small_tasks()
        meter = Meter(tasks, 60 * MIB)

        def asked() -> bool:
            return collective.rank == 1 and meter.restarts >= 2

        with pytest.raises(RunStopped):
            fitting(tasks, collective, asked=asked).fit(meter)
        return meter.restarts <= 2 or collective.rank == 0

    assert run_ranks(2, work) == [True, True]


@dataclass
class Slow(Meter):
    """Each pass takes longer than is measured twice for noise; the first after a restart, which
    asks for its memory anew, ten times as long."""

    calls: int = 0

    def restart(self) -> None:
        super().restart()
        self.calls = 0

    def now(self) -> float:
        self.calls += 1
        self.seconds += {2: 5.0}.get(self.calls, 0.5) if self.calls % 2 == 0 else 0.0
        return self.seconds


def test_a_long_pass_is_measured_twice_and_the_shorter_counts():
    tasks = small_tasks()
    choices = fitting(tasks, share=4).fit(Slow(tasks, 60 * MIB))
    for choice in choices.values():
        (probe,) = choice.probes
        assert 0.5 <= probe.seconds < 0.6  # what the hooks of `Meter` add is small


def test_noise_lies_where_a_gpu_copies_from_without_a_detour(monkeypatch):
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    tasks = small_tasks()
    rows = noise(fitting(tasks), tasks[0], 8)
    assert pinned == []
    rows = noise(fitting(tasks, device=torch.device("cuda:0")), tasks[0], 8)
    assert [rows["overlay"] is pinned[0], rows["mask"] is pinned[1]] == [True] * 2


def test_noise_is_what_a_batch_is():
    tasks = small_tasks()
    rows = noise(fitting(tasks), tasks[1], 12)
    assert (len(rows), list(rows.groups)) == (12, [4, 4, 4])
    assert rows["overlay"].shape == (12, 3, 16, 16)
    assert rows["depth"].dtype == torch.uint8
    assert rows["overlay"].is_contiguous(memory_format=torch.channels_last)


def test_a_refusal_names_what_was_needed_what_is_allowed_and_what_would_fit():
    tasks = small_tasks()
    large = fitting(tasks, height=512, width=512)
    text = str(explain_refusal(large, DoesNotFit("task 'depth' ran out", "depth"), 256 * MIB))
    assert text.startswith("task 'depth' ran out")
    for word in ("weights, gradients", "4 samples of 512 x 512", "0.25 GiB", "data.size=", "step."):
        assert word in text
    side = int(text.split("data.size=")[1].split(",")[0])
    smaller = fitting(tasks, height=side, width=side)
    assert 64 < side < 512
    assert "micro-batch 4 for depth" in "\n".join(estimate_lines(smaller, "256MiB", 1.0))
    larger = fitting(tasks, height=side + 16, width=side + 16)
    with pytest.raises(DoesNotFit):
        estimate_lines(larger, "256MiB", 1.0)


def test_an_estimate_for_a_device_that_is_not_here_says_that_it_is_one():
    lines = "\n".join(estimate_lines(fitting(small_tasks()), "RTX 4090", 0.9))
    assert "estimate for" in lines
    assert "nothing was measured there" in lines
    assert "micro-batch 64 for mask" in lines
