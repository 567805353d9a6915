from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wdtrain.config import OptimizerSettings, ScheduleSettings
from wdtrain.learn.optimize import LearningRate, WarmupCosine, build_optimizer, build_schedule


def optimizer(lr: float = 0.1) -> torch.optim.Optimizer:
    return build_optimizer(OptimizerSettings(name="sgd", lr=lr), [nn.Parameter(torch.ones(2))])


def schedule(
    name: str, own: torch.optim.Optimizer, *, total_steps: int = 40, **options
) -> LearningRate:
    return build_schedule(ScheduleSettings(name=name, **options), own, total_steps=total_steps)


SCHEDULES = [
    ("constant", {}),
    ("seed", {"constant_epochs": 2, "patience": 1}),
    ("warmup-cosine", {"warmup_steps": 5, "floor": 0.1}),
]
losses = st.lists(st.floats(0.01, 10), min_size=2, max_size=30)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@given(losses=losses, data=st.data())
def test_a_schedule_restores_exactly_at_every_step(name, options, losses, data):
    cut = data.draw(st.integers(0, len(losses)))
    whole, resumed = (schedule(name, optimizer(), **options) for _ in range(2))
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
    plateau = schedule("seed", optimizer(), constant_epochs=4, factor=0.5, patience=2)
    for epoch, loss in enumerate([9.0, 7.0, 5.0, 0.01, *losses], start=1):
        plateau.observe(loss, epoch)
        if epoch > 4:
            reference.step(loss)
        rate = reference_optimizer.param_groups[0]["lr"]
        assert abs(plateau.step(epoch) - rate) < 1e-7


def test_warmup_cosine_rises_falls_and_ends_at_its_floor():
    cosine = schedule("warmup-cosine", optimizer(1.0), total_steps=100, warmup_steps=9, floor=0.0)
    rates = [cosine.step(step) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(0.5)  # as far from the first full one as from the last
    assert rates[98] > rates[99] == rates[100] == rates[119] == 0


@given(total=st.integers(2, 400), share=st.floats(0, 0.99), floor=st.floats(0, 1))
def test_the_last_step_has_the_floor_and_the_first_after_the_warmup_the_full_rate(
    total, share, floor
):
    warmup = int(share * (total - 1))
    options = {"total_steps": total, "warmup_steps": warmup, "floor": floor}
    cosine = WarmupCosine(optimizer(1.0), **options)
    assert cosine.step(total - 1) == floor
    assert cosine.step(warmup) == 1.0


def test_a_run_of_one_step_has_the_full_rate():
    assert schedule("warmup-cosine", optimizer(1.0), total_steps=1).step(0) == 1.0


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(()))


def test_a_run_shorter_than_its_warm_up_warms_up_for_half_of_it():
    cosine = schedule("warmup-cosine", optimizer(1.0), total_steps=10, warmup_steps=50)
    rates = [cosine.step(step) for step in range(10)]
    assert rates.index(max(rates)) == 5
    assert rates[5] == 1.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_norms_and_biases_decay_only_where_asked(name, decay_norms):
    network = Normed()
    before = {path: value.detach().clone() for path, value in network.named_parameters()}
    settings = OptimizerSettings(name=name, lr=0.1, weight_decay=0.5, decay_norms=decay_norms)
    own = build_optimizer(settings, network.parameters())
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    own.step()
    moved = {p for p, value in network.named_parameters() if not torch.equal(value, before[p])}
    wide = {"conv.weight"}
    decaying = wide | {"conv.bias", "norm.weight", "scale"} if decay_norms else wide
    assert moved == decaying
    assert all(group["fused"] for group in own.param_groups)


def test_without_decay_or_with_one_kind_of_parameter_there_is_one_group():
    for options, parameters in (
        ({}, list(Normed().parameters())),
        ({"weight_decay": 0.1}, [nn.Parameter(torch.ones(2, 2))]),
        ({"weight_decay": 0.1}, [nn.Parameter(torch.ones(2))]),
    ):
        groups = build_optimizer(OptimizerSettings(lr=0.1, **options), parameters).param_groups
        assert len(groups) == 1


def test_every_group_of_an_optimizer_keeps_its_own_base_rate():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.4)]
    sgd = torch.optim.SGD(groups)
    WarmupCosine(sgd, total_steps=3).step(1)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.05, 0.2])


@pytest.mark.parametrize(
    ("settings", "wrong", "named"),
    [
        (OptimizerSettings, {"name": "sdg"}, "name"),
        (OptimizerSettings, {"lr": 0}, "lr"),
        (OptimizerSettings, {"momentun": 0}, "momentun"),
        (ScheduleSettings, {"name": "seeds"}, "name"),
        (ScheduleSettings, {"patince": 3}, "patince"),
    ],
)
def test_settings_are_refused_by_name(settings, wrong, named):
    with pytest.raises(ValueError, match=named):
        settings(**wrong)


def test_a_warm_up_that_is_not_shorter_than_the_run_is_refused():
    with pytest.raises(ValueError, match="must be shorter than the whole"):
        WarmupCosine(optimizer(), total_steps=3, warmup_steps=3)


def test_refuses_the_state_of_another_schedule():
    saved = schedule("constant", optimizer()).state_dict()
    with pytest.raises(ValueError, match="saved by another schedule"):
        schedule("seed", optimizer()).load_state_dict(saved)
