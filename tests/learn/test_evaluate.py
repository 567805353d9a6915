from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.learn.cases import CPU, NORMALISATION, depth_task, make_rows, mask_task
from tests.learn.faults import out_of_memory
from wdtrain.learn.evaluate import Answered, evaluate, evaluate_batches, predict
from wdtrain.learn.out_of_memory import DoesNotFit
from wdtrain.learn.task import Task
from wdtrain.learn.view import View
from wdtrain.targets.choice import build_loss

VIEW = View(normalisations={"overlay": NORMALISATION}, precision="fp64")
FP64 = {"normalisation": NORMALISATION, "precision": "fp64"}


def test_predictions_are_float32_in_0_to_1():
    rows = make_rows(3)
    for task in (mask_task(), depth_task()):
        unit = predict(task.network, rows["overlay"], task.target, **FP64)
        assert unit.dtype == torch.float32
        assert unit.shape == (3, 1, 16, 16)
        assert 0 <= unit.min() <= unit.max() <= 1
        assert not unit.requires_grad


def test_a_prediction_does_not_depend_on_its_neighbours_or_on_chance():
    task, rows = mask_task(), make_rows(5)
    together, _ = evaluate(task, rows, device=CPU, view=VIEW)
    again, _ = evaluate(task, rows, device=CPU, view=VIEW)
    alone = predict(task.network, rows["overlay"][2:3], task.target, **FP64)
    assert torch.equal(together, again)
    torch.testing.assert_close(alone, together[2:3], rtol=0, atol=1e-6)


def test_evaluation_leaves_mode_and_buffers_as_they_were():
    task = mask_task()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    for training in (True, False):
        task.network.train(training)
        evaluate(task, make_rows(4), device=CPU, view=VIEW)
        assert task.network.training == training
    after = task.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_losses_are_those_of_the_predictions():
    task, rows = mask_task(loss="bce"), make_rows(4)
    unit, losses = evaluate(task, rows, device=CPU, view=VIEW)
    truth = task.target.truth(rows["mask"])
    expected = build_loss("bce", "unit", task.target)(unit, truth.wanted, truth.valid)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)


def batch_of(count: int, position: int) -> SimpleNamespace:
    """As the stream hands it on: a chunk, longer than what a task trains on at once."""
    rows = make_rows(count, seed=position)
    own = {"chunks": [count], "positions": np.arange(position, position + count)}
    cursor = SimpleNamespace(position=position + count)
    parts = {name: getattr(rows, name) for name in ("fields", "keys", "epochs")}
    own["copy"] = rows.copy
    return SimpleNamespace(**parts, **own, cursor=cursor)


def answered(*tasks: Task) -> Iterator[Answered]:
    return evaluate_batches(tasks, [batch_of(10, 0), batch_of(7, 10)], view=VIEW)


def seen_at_once(task: Task, fits: int) -> list[int]:
    """Rows of each pass of the network from now on; more than `fits` run out of memory."""
    seen = []

    def run_out(module: object, given: tuple[Tensor, ...]) -> None:
        seen.append(len(given[0]))
        if len(given[0]) > fits:
            raise out_of_memory()

    task.network.register_forward_pre_hook(run_out)
    return seen


def test_an_evaluation_takes_no_more_at_once_than_training_and_halves_what_does_not_fit():
    tasks = [replace(mask_task(), micro_batch=4), replace(depth_task(), micro_batch=4)]
    undisturbed = list(answered(*tasks))
    mask_seen, depth_seen = seen_at_once(tasks[0], fits=2), seen_at_once(tasks[1], fits=4)
    again = list(answered(*tasks))
    assert mask_seen == [4, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    assert depth_seen == [4, 4, 2, 4, 3]
    for (_, expected), (_, found) in zip(undisturbed, again, strict=True):
        for name, (predictions, losses) in expected.items():
            torch.testing.assert_close(found[name][0], predictions, rtol=0, atol=1e-6)
            torch.testing.assert_close(found[name][1], losses, rtol=1e-5, atol=1e-7)


def test_only_batches_with_a_key_that_is_asked_for_are_evaluated():
    task = mask_task()
    batches = [batch_of(4, 0), batch_of(4, 4), batch_of(4, 8)]
    seen = seen_at_once(task, fits=4)
    keys = {batches[1].keys[2], "elsewhere"}
    found = [batch for batch, _ in evaluate_batches([task], batches, view=VIEW, keys=keys)]
    assert found == [batches[1]]
    assert seen == [4]


def test_a_single_picture_that_does_not_fit_ends_an_evaluation_with_the_task_and_what_was_said():
    task = mask_task()
    seen = seen_at_once(task, fits=0)
    with pytest.raises(DoesNotFit, match=r"'mask' .* single picture.*Tried to allocate 2.00 GiB"):
        list(answered(task))
    assert seen[-1] == 1


def test_what_is_not_a_lack_of_memory_is_raised_as_it_is():
    task = mask_task()

    def break_down(module: object, given: object) -> None:
        raise RuntimeError("a layer that is wrong")

    task.network.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="a layer that is wrong"):
        list(answered(task))
