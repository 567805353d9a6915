from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.learn.cases import (
    CPU,
    Small,
    depth_task,
    make_rows,
    make_view,
    mask_task,
    one_step,
    run_ranks,
    share_of_rank,
    target,
    without_depth,
)
from wdtrain.learn.evaluate import evaluate
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import train_step
from wdtrain.learn.task import StepError, TaskSet
from wdtrain.learn.view import Memo
from wdtrain.networks import build
from wdtrain.ranks.collective import Alone

SPLITS = (24, 12, 8, 16, 1)


def gradients(micro_batch: int, **options) -> torch.Tensor:
    """The flat gradient and statistics of seed-mask after one step on 24 samples."""
    tasks = TaskSet([mask_task(micro_batch=micro_batch, **options)])
    one_step(tasks, make_rows(24))
    return tasks.gradient_buffer.flat.clone()


def weights(tasks: TaskSet) -> dict[str, torch.Tensor]:
    return {
        f"{task.name}/{name}": value.clone()
        for task in tasks
        for name, value in task.network.state_dict().items()
    }


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.fixture(scope="module")
def whole() -> torch.Tensor:
    return gradients(24)


@pytest.mark.parametrize("micro_batch", SPLITS[1:])
def test_the_gradient_does_not_depend_on_the_micro_batch(whole, micro_batch):
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(gradients(micro_batch), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("micro_batch", [24, 4])
def test_the_gradient_does_not_depend_on_the_number_of_ranks(whole, world, micro_batch):
    def work(collective):
        tasks = TaskSet([mask_task(micro_batch=micro_batch)])
        rows = share_of_rank(make_rows(24), collective.rank, world)
        result = one_step(tasks, rows, collective=collective)
        assert result.samples == 24
        return tasks.gradient_buffer.flat

    for flat in run_ranks(world, work):
        torch.testing.assert_close(flat, whole, rtol=0, atol=1e-10)


UNKNOWN = (0, 1, 2, 3, 9, 17, 23)
"""Samples without any depth: a whole norm group, and single ones."""


def depth_gradients(micro_batch: int, collective=None) -> torch.Tensor:
    """The flat gradient and statistics of a U-Net of whose 24 samples 7 have no known depth."""
    collective = collective or Alone()
    tasks = TaskSet([depth_task(micro_batch=micro_batch)])
    rows = share_of_rank(without_depth(make_rows(24), *UNKNOWN), collective.rank, collective.world)
    reading = one_step(tasks, rows, collective=collective).read()
    flat = tasks.gradients_of(tasks[0])
    assert flat.samples == 17
    return torch.cat((flat.gradients, flat.statistics, torch.tensor([reading.losses["depth"]])))


def test_the_gradient_is_the_mean_over_the_samples_that_have_depth():
    task = depth_task(micro_batch=24)
    rows, view = without_depth(make_rows(24), *UNKNOWN), make_view()
    prepared = view.prepare("overlay", task.target, (rows["overlay"], rows["depth"]), rows)
    task.context.open(rows.groups, rows.group_epochs, rows.group_ids)
    output = task.network(prepared.picture)
    task.context.close()
    known = torch.tensor([index not in UNKNOWN for index in range(24)])
    mean = task.loss(output, prepared.target, prepared.valid)[known].mean()
    expected = torch.autograd.grad(mean, task.live_parameters)
    tasks = TaskSet([depth_task()])
    reading = one_step(tasks, rows).read()
    gradients = tasks.gradients_of(tasks[0])
    assert reading.losses["depth"] == pytest.approx(mean.item(), abs=1e-12)
    for parameter, gradient in zip(gradients.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", SPLITS)
def test_the_gradient_is_the_same_however_samples_without_depth_are_dealt(micro_batch, world):
    whole = depth_gradients(24)
    for flat in run_ranks(world, lambda collective: depth_gradients(micro_batch, collective)):
        torch.testing.assert_close(flat, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamw", "lr": 0.003, "weight_decay": 0.1},
        {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    ],
    ids=["adamw", "sgd"],
)
def test_a_task_without_a_sample_to_learn_from_takes_no_step_and_the_others_do(optimizer):
    def work(collective):
        how = {"schedule": {"name": "warmup-cosine", "warmup_steps": 3}, "total_steps": 9}
        tasks = TaskSet([mask_task(), depth_task(optimizer=optimizer, **how)])
        known = share_of_rank(make_rows(8), collective.rank, collective.world)
        one_step(tasks, known, collective=collective)
        before, moments = weights(tasks), copy.deepcopy(tasks[1].optimizer.state_dict()["state"])
        rows = without_depth(make_rows(8, seed=1), *range(8))
        part = share_of_rank(rows, collective.rank, collective.world)
        result = one_step(tasks, part, collective=collective)
        reading, after = result.read(), weights(tasks)
        state = tasks[1].optimizer.state_dict()["state"]
        assert moments.keys() == state.keys()
        for index, values in state.items():
            for name, value in values.items():
                assert torch.equal(value, moments[index][name]), name
        moved = {
            name.split("/")[0] for name in before if not torch.equal(before[name], after[name])
        }
        assert moved == {"mask"}
        assert result.samples == 8
        assert not reading.skipped
        assert reading.idle == ("depth",)
        assert reading.losses.keys() == reading.grad_norms.keys() == {"mask"}
        assert result.learning_rates["depth"] == 0.5 * optimizer["lr"]  # of the step, as always
        assert (tasks.steps, tasks.skipped) == (2, 0)
        assert one_step(tasks, known, collective=collective).read().idle == ()
        return tasks.state_dict()["idle"]

    assert run_ranks(2, work) == [{"mask": 0, "depth": 1}] * 2


def test_what_was_idle_is_still_counted_after_a_resume():
    tasks, resumed = TaskSet([depth_task()]), TaskSet([depth_task()])
    one_step(tasks, without_depth(make_rows(4), *range(4)))
    resumed.load_state_dict(copy.deepcopy(tasks.state_dict()))
    one_step(resumed, without_depth(make_rows(4), *range(4)))
    assert resumed.idle == {"depth": 2}


def plain_gradient(micro_batch: int, dropout: float) -> torch.Tensor:
    """Gradient accumulation as it is usually done: plain BatchNorm, plain dropout."""
    network = build("seed-mask", dropout=dropout).double()
    view, rows, loss = make_view(), make_rows(24), mask_task().loss
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for first in range(0, 24, micro_batch):
            part = rows.part(first // 4, (first + micro_batch) // 4)
            prepared = view.prepare(
                "overlay", target("mask"), (part["overlay"], part["mask"]), part
            )
            losses = loss(network(prepared.picture), prepared.target, prepared.valid)
            losses.sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]) / 24


def test_plain_batchnorm_and_plain_dropout_do_depend_on_the_micro_batch():
    by_norm = plain_gradient(24, 0.0) - plain_gradient(8, 0.0)
    assert by_norm.abs().max() > 1e-4
    eval_norm = plain_gradient(8, 0.05) - plain_gradient(8, 0.0)
    assert eval_norm.abs().max() > 1e-4


def test_unequal_groups_and_tails_give_the_gradient_of_the_whole_batch():
    rows = make_rows(10)
    assert rows.groups == [4, 4, 2]
    flats = []
    for micro_batch in (10, 4, 6):
        tasks = TaskSet([mask_task(micro_batch=micro_batch)])
        one_step(tasks, rows)
        flats.append(tasks.gradient_buffer.flat.clone())
    for flat in flats[1:]:
        torch.testing.assert_close(flat, flats[0], rtol=0, atol=1e-10)


def test_ranks_hold_equal_weights_after_several_steps_and_those_of_one_process():
    def work(collective):
        tasks = TaskSet([mask_task(max_grad_norm=0.5), depth_task()])
        for seed in range(4):
            rows = share_of_rank(make_rows(10, seed=seed), collective.rank, collective.world)
            one_step(tasks, rows, collective=collective)
        return weights(tasks)

    alone = work(Alone())
    for world in (2, 3, 4):  # 3 groups: with 4 ranks, one is empty
        ranks = run_ranks(world, work)
        assert all(furthest(rank, ranks[0]) == 0 for rank in ranks)
        assert furthest(ranks[0], alone) < 1e-8


def test_losses_are_means_over_the_whole_batch_and_all_ranks():
    rows = make_rows(10)

    def work(collective):
        tasks = TaskSet([mask_task()])
        part = share_of_rank(rows, collective.rank, collective.world)
        return one_step(tasks, part, collective=collective).read().losses["mask"]

    alone = work(Alone())
    assert run_ranks(3, work) == pytest.approx([alone] * 3, abs=1e-12)


def test_dead_parameters_do_not_move():
    tasks = TaskSet([mask_task(optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 0.5})])
    before = weights(tasks)
    for seed in range(2):
        one_step(tasks, make_rows(8, seed=seed))
    after = weights(tasks)
    for name in before:
        moved = not torch.equal(before[name], after[name])
        assert moved == (".unused." not in name.replace("/", ".")) or "num_batches" in name
    dead = tasks[0].network.unused
    assert all(parameter.grad is None for parameter in dead.parameters())


def test_a_batch_trains_every_task():
    tasks = TaskSet([mask_task(), depth_task()])
    before = weights(tasks)
    result = one_step(tasks, make_rows(8))
    reading = result.read()
    assert set(reading.losses) == set(reading.grad_norms) == {"mask", "depth"}
    assert min(reading.grad_norms.values()) > 0
    after = weights(tasks)
    for name in ("mask/head.weight", "depth/conv.weight"):
        assert not torch.equal(before[name], after[name])


def test_two_tasks_learn_what_each_learns_alone():
    together = TaskSet([mask_task(), depth_task()])
    apart = [TaskSet([mask_task()]), TaskSet([depth_task()])]
    for seed in range(2):
        for tasks in (together, *apart):
            one_step(tasks, make_rows(8, seed=seed))
    assert furthest(weights(together), weights(apart[0]) | weights(apart[1])) == 0


class WritesIntoItsPicture(Small):
    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return super().forward(picture.mul_(0.5))


def test_a_network_that_writes_into_its_picture_does_not_disturb_the_next_task():
    together = TaskSet([mask_task(Small(), precision="fp32"), depth_task(precision="fp32")])
    vandal = TaskSet(
        [mask_task(WritesIntoItsPicture(), precision="fp32"), depth_task(precision="fp32")]
    )
    for tasks in (together, vandal):
        one_step(tasks, make_rows(8), view=make_view("fp32"))
    depth = [
        {name: value for name, value in weights(tasks).items() if name.startswith("depth")}
        for tasks in (together, vandal)
    ]
    assert furthest(*depth) == 0


def test_what_tasks_share_of_a_batch_is_bounded(monkeypatch):
    view, rows = make_view("fp32"), make_rows(8)

    def pictures(memo: Memo) -> list[torch.Tensor]:
        part = rows.part(1, 2)
        given = ("overlay", target("mask"), (part["overlay"], part["mask"]), part, memo)
        return [view.prepare(*given).picture for _ in range(2)]

    small, again = pictures(Memo(rows))
    assert small.data_ptr() == again.data_ptr()
    monkeypatch.setattr(Memo, "MOST_BYTES", 4 * rows["overlay"].nbytes - 1)
    large, again = pictures(Memo(rows))
    assert large.data_ptr() != again.data_ptr()
    assert torch.equal(small, large)


def test_a_step_repeats_bit_for_bit():
    runs = []
    for _ in range(2):
        tasks = TaskSet([mask_task(precision="bf16"), depth_task(precision="bf16")])
        for seed in range(3):
            one_step(tasks, make_rows(8, seed=seed), view=make_view("bf16"))
        runs.append(weights(tasks))
    assert furthest(*runs) == 0


def test_running_statistics_follow_the_batch_and_reach_evaluation():
    still = {"name": "sgd", "lr": 1e-12}
    task = mask_task(build("seed-mask", dropout=0.0), optimizer=still)
    tasks, rows, view = TaskSet([task]), make_rows(8, group=8), make_view(augmented=False)
    _, before = evaluate(task, rows, device=CPU, view=view)
    for _ in range(80):
        trained = one_step(tasks, rows, view=view).read().losses["mask"]
    _, after = evaluate(task, rows, device=CPU, view=view)
    assert abs(float(before.mean()) - trained) > 0.01
    assert abs(float(after.mean()) - trained) < 0.001


def test_clipping_bounds_the_norm_of_each_task_and_reports_what_it_was():
    free, clipped = (TaskSet([mask_task(max_grad_norm=norm)]) for norm in (0.0, 1e-3))
    norms = [one_step(tasks, make_rows(8)).read().grad_norms["mask"] for tasks in (free, clipped)]
    assert norms[0] == norms[1] > 1e-3
    assert float(clipped.gradients_of(clipped[0]).gradients.norm()) == pytest.approx(1e-3, rel=1e-2)


class Exploding(nn.Module):
    """Infinite for pictures that are all black, which no augmentation changes."""

    domain = "logits"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        black = (picture == picture.flatten(1).amin(1)[:, None, None, None]).flatten(2).all(2)
        bad = black.any(1)[:, None, None, None]
        return self.conv(picture) * torch.where(bad, torch.inf, 1.0)


def blackened(rows: Rows, index: int) -> Rows:
    overlay = rows["overlay"].clone()
    overlay[index] = 0
    return replace(rows, fields={**rows.fields, "overlay": overlay})


def test_a_step_that_is_not_finite_is_skipped_on_all_ranks_and_counted():
    rows = make_rows(8)

    def work(collective):
        tasks = TaskSet([mask_task(Exploding(), loss="bce"), depth_task()])
        before = weights(tasks)
        part = share_of_rank(rows, collective.rank, 2)
        bad = blackened(part, 1) if collective.rank == 1 else part
        result = one_step(tasks, bad, collective=collective)
        unmoved = furthest(before, weights(tasks)) == 0
        counted = (tasks.steps, tasks.skipped, tasks.skipped_in_a_row)
        good = one_step(tasks, part, collective=collective)
        return result.read().skipped, unmoved, counted, good.read().skipped, tasks.skipped_in_a_row

    assert run_ranks(2, work) == [(True, True, (1, 1, 1), False, 0)] * 2


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_keys():
    tasks = TaskSet([mask_task(Exploding(), loss="bce")])
    rows = blackened(make_rows(8), 5)
    assert [one_step(tasks, rows).read().skipped for _ in range(2)] == [True, True]
    with pytest.raises(StepError, match=r"3 steps in a row.*\['sample-0-5'\]"):
        one_step(tasks, rows)


def test_a_stop_asked_on_one_rank_drops_the_step_on_all():
    def work(collective):
        tasks = TaskSet([mask_task()])
        before = weights(tasks)
        rows = share_of_rank(make_rows(8), collective.rank, 2)
        result = one_step(
            tasks, rows, collective=collective, stop_asked=lambda: collective.rank == 1
        )
        assert furthest(before, weights(tasks)) == 0
        assert tasks.steps == 0
        return result.stop, result.samples

    assert run_ranks(2, work) == [(True, 0)] * 2


def test_a_dropped_step_leaves_nothing_behind():
    interrupted, straight = (TaskSet([mask_task(micro_batch=4)]) for _ in range(2))
    asked = iter([False, True, True])
    assert one_step(interrupted, make_rows(8, seed=9), stop_asked=lambda: next(asked)).stop
    for tasks in (interrupted, straight):
        one_step(tasks, make_rows(8))
    assert furthest(weights(interrupted), weights(straight)) == 0


def test_a_rank_without_rows_takes_part():
    def work(collective):
        tasks = TaskSet([mask_task()])
        rows = make_rows(4 if collective.rank == 0 else 0)
        one_step(tasks, rows, collective=collective)
        return weights(tasks)

    one, other = run_ranks(2, work)
    assert furthest(one, other) == 0


def test_the_context_is_closed_after_a_step_even_when_it_fails():
    task = mask_task()
    tasks = TaskSet([task])
    rows = make_rows(4)
    one_step(tasks, rows)
    assert task.context.groups is None
    with pytest.raises(ValueError, match="Target size"):
        train_step(
            tasks,
            replace(rows, fields={**rows.fields, "mask": rows["mask"][..., :5, :5]}),
            device=CPU,
            view=make_view(augmented=False),
            collective=Alone(),
        )
    assert task.context.groups is None


def test_state_restores_exactly():
    def fresh():
        schedule = {"name": "warmup-cosine", "warmup_steps": 3}
        return TaskSet([mask_task(schedule=schedule, total_steps=9)])

    whole, resumed = fresh(), fresh()
    for seed in range(6):
        if seed == 3:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
            resumed[0].network.load_state_dict(whole[0].network.state_dict())
            resumed[0].optimizer.load_state_dict(copy.deepcopy(whole[0].optimizer.state_dict()))
        rates = [one_step(t, make_rows(4, seed=seed)).learning_rates for t in (whole, resumed)]
        if seed >= 3:
            assert rates[0] == rates[1]
    assert resumed.steps == whole.steps == 6
    assert furthest(weights(whole), weights(resumed)) == 0


def test_reports_seconds_of_every_part():
    reading = one_step(TaskSet([mask_task()]), make_rows(4)).read()
    assert set(reading.seconds) == {"copy", "augment", "forward_backward", "sync", "optimizer"}
    assert reading.seconds["forward_backward"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_learns_to_follow_a_simple_mask(precision):
    rows = make_rows(16, size=16)
    bright = (rows["overlay"].float().mean(1, keepdim=True) > 127).to(torch.uint8) * 255
    rows = replace(rows, fields={**rows.fields, "mask": bright})
    tasks = TaskSet([mask_task(precision=precision, loss="bce")])
    view = make_view(precision)
    losses = [one_step(tasks, rows, view=view).read().losses["mask"] for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


def test_refuses_tasks_of_one_name_and_of_several_precisions():
    with pytest.raises(ValueError, match="one name each"):
        TaskSet([mask_task(), mask_task()])
    with pytest.raises(ValueError, match="several kinds"):
        TaskSet([mask_task(), depth_task(precision="fp32")])


def test_threads_do_not_share_groups():
    """Two task sets in two threads: contexts are theirs, not the process's."""
    tasks = [TaskSet([mask_task()]) for _ in range(2)]
    expected = [TaskSet([mask_task()]) for _ in range(2)]
    threads = [
        threading.Thread(target=one_step, args=(t, make_rows(12, group=2 + n)))
        for n, t in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, (mine, theirs) in enumerate(zip(tasks, expected, strict=True)):
        one_step(theirs, make_rows(12, group=2 + n))
        assert furthest(weights(mine), weights(theirs)) == 0
