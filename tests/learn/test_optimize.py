from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wdtrain.learn.optimize import build_optimizer, build_schedule


def optimizer(lr: float = 0.1) -> torch.optim.Optimizer:
    return build_optimizer("sgd", [nn.Parameter(torch.ones(2))], lr=lr, momentum=0.9)


SCHEDULES = [
    ("constant", {}),
    ("seed", {"constant_epochs": 2, "patience": 1}),
    ("warmup-cosine", {"total_steps": 40, "warmup_steps": 5, "floor": 0.1}),
]
losses = st.lists(st.floats(0.01, 10), min_size=2, max_size=30)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@given(losses=losses, data=st.data())
def test_a_schedule_restores_exactly_at_every_step(name, options, losses, data):
    cut = data.draw(st.integers(0, len(losses)))
    whole, resumed = (build_schedule(name, optimizer(), **options) for _ in range(2))
    for step, loss in enumerate(losses):
        if step == cut:
            saved = json.loads(json.dumps(whole.state_dict()))
            resumed.load_state_dict(saved)
        expected = whole.step(step)
        whole.observe(loss, epoch=step + 1)
        if step >= cut:
            assert resumed.step(step) == expected
            resumed.observe(loss, epoch=step + 1)


@given(losses=losses)
def test_the_seed_schedule_is_pytorchs_plateau_after_its_constant_epochs(losses):
    reference_optimizer = optimizer()
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        reference_optimizer, factor=0.5, patience=2
    )
    schedule = build_schedule("seed", optimizer(), constant_epochs=4, factor=0.5, patience=2)
    for epoch, loss in enumerate([3.0, 5.0, 7.0, 9.0, *losses], start=1):
        schedule.observe(loss, epoch)
        if epoch > 4:
            reference.step(loss)
        rate = reference_optimizer.param_groups[0]["lr"]
        assert abs(schedule.step(epoch) - rate) < 1e-7


def test_warmup_cosine_rises_falls_and_ends_at_its_floor():
    schedule = build_schedule("warmup-cosine", optimizer(1.0), total_steps=100, warmup_steps=9)
    rates = [schedule.step(step) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == rates[119] == 0


def test_every_group_of_an_optimizer_keeps_its_own_base_rate():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.4)]
    sgd = torch.optim.SGD(groups)
    build_schedule("warmup-cosine", sgd, total_steps=2).step(1)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.05, 0.2])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_optimizer("sdg", [], lr=0.1), "did you mean 'sgd'"),
        (lambda: build_optimizer("sgd", [], lr=0), "must be above 0"),
        (lambda: optimizer() and build_schedule("seeds", optimizer()), "did you mean 'seed'"),
        (lambda: build_schedule("seed", optimizer(), patince=3), "does not take"),
        (lambda: build_optimizer("sgd", [nn.Parameter()], lr=1, momentun=0), "does not take"),
        (
            lambda: build_schedule("warmup-cosine", optimizer(), total_steps=3, warmup_steps=3),
            "must be shorter than the whole",
        ),
    ],
)
def test_refuses_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_refuses_the_state_of_another_schedule():
    saved = build_schedule("constant", optimizer()).state_dict()
    with pytest.raises(ValueError, match="saved by another schedule"):
        build_schedule("seed", optimizer()).load_state_dict(saved)
