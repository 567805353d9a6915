from __future__ import annotations

import torch

from tests.learn.cases import CPU, DEPTH, NORMALISATION, depth_task, make_rows, mask_task
from wdtrain.learn.evaluate import evaluate, predict
from wdtrain.learn.losses import build_loss
from wdtrain.learn.targets import mask_target
from wdtrain.learn.view import View

VIEW = View(normalisation=NORMALISATION, depth_format=DEPTH, precision="fp64")


def test_predictions_are_float32_in_0_to_1():
    rows = make_rows(3)
    for task in (mask_task(), depth_task()):
        unit = predict(task.network, rows.overlay, normalisation=NORMALISATION, precision="fp64")
        assert unit.dtype == torch.float32
        assert unit.shape == (3, 1, 16, 16)
        assert 0 <= unit.min() <= unit.max() <= 1
        assert not unit.requires_grad


def test_a_prediction_does_not_depend_on_its_neighbours_or_on_chance():
    task, rows = mask_task(), make_rows(5)
    together, _ = evaluate(task, rows, device=CPU, view=VIEW)
    again, _ = evaluate(task, rows, device=CPU, view=VIEW)
    alone = predict(task.network, rows.overlay[2:3], normalisation=NORMALISATION, precision="fp64")
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
    truth = mask_target(rows.mask)
    expected = build_loss("bce", "unit")(unit, truth, torch.ones_like(truth))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
