from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.learn.task import build_task
from wdtrain.networks import build
from wdtrain.targets.losses import LOSSES, build_loss, dice_of_unit, to_unit

EVERY = [(name, domain) for name, domains in LOSSES.items() for domain in domains]


def example(domain: str, n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(n, 1, 6, 8, dtype=torch.float64, generator=generator)
    output = output if domain == "logits" else output.sigmoid()
    target, valid = torch.rand(2, n, 1, 6, 8, dtype=torch.float64, generator=generator)
    return output.requires_grad_(), target.round(), (valid > 0.3).double()


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_is_a_number_a_sample_that_other_samples_do_not_touch(name, domain):
    loss = build_loss(name, domain)
    output, target, valid = example(domain)
    together = loss(output, target, valid)
    alone = torch.cat(
        [loss(output[i : i + 1], target[i : i + 1], valid[i : i + 1]) for i in range(len(output))]
    )
    assert together.shape == (5,)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_what_is_not_valid_changes_nothing(name, domain):
    loss = build_loss(name, domain)
    output, target, valid = example(domain)
    changed = torch.where(valid > 0, target, 1 - target)
    assert torch.equal(loss(output, target, valid), loss(output, changed, valid))
    (gradient,) = torch.autograd.grad(loss(output, target, valid).sum(), output)
    assert not gradient[valid == 0].any()
    assert gradient[valid > 0].any()


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_a_sample_without_a_valid_pixel_gives_zero_and_a_zero_gradient(name, domain):
    loss = build_loss(name, domain)
    output, target, valid = example(domain)
    valid[2] = 0
    losses = loss(output, target, valid)
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    assert losses[2] == 0
    assert not gradient[2].any()


def test_values_are_those_of_the_definitions():
    half = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    target = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]], dtype=torch.float64)
    ones = torch.ones_like(half)
    assert math.isclose(build_loss("bce", "logits")(half, target, ones), math.log(2))
    assert math.isclose(build_loss("l1", "unit")(half + 0.25, target, ones), 0.5)
    smooth = build_loss("smooth-l1", "unit")
    assert math.isclose(smooth(target + 0.02, target, ones), 0.5 * 0.02**2 / 0.05)
    assert math.isclose(smooth(target + 0.5, target, ones), 0.5 - 0.025)
    assert math.isclose(dice_of_unit(half + 0.5, target, ones), 1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_of_unit(target, target, ones) == 0


def test_logits_and_unit_forms_agree():
    output, target, valid = example("logits")
    for name in ("bce", "bce+dice"):
        by_logits = build_loss(name, "logits")(output, target, valid)
        by_unit = build_loss(name, "unit")(output.sigmoid(), target, valid)
        torch.testing.assert_close(by_logits, by_unit)


@given(scale=st.floats(1, 1e4))
def test_bce_of_confident_logits_stays_finite(scale):
    output = torch.tensor([[[[scale, -scale]]]], dtype=torch.float64)
    assert build_loss("bce", "logits")(output, 1 - output.sigmoid().round(), output * 0 + 1) < 1e5


@pytest.mark.parametrize(
    ("name", "domain", "message"),
    [
        ("l1", "logits", r"'l1' was put on a network whose output is 'logits'.*bce, bce\+dice"),
        ("bce", "positive", "defined for logits and unit"),
        ("smooth-l2", "unit", "did you mean 'smooth-l1'"),
    ],
)
def test_a_loss_on_the_wrong_activation_is_refused_by_name(name, domain, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, domain)


def test_a_task_cannot_be_built_with_a_loss_on_the_wrong_activation():
    with pytest.raises(ValueError, match="'smooth-l1' was put on"):
        build_task(
            "mask",
            "mask",
            build("seed-mask"),
            loss="smooth-l1",
            optimizer={"name": "sgd", "lr": 0.1},
        )


def test_to_unit_is_a_sigmoid_for_logits_and_a_clip_for_the_rest():
    values = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(to_unit(values, "logits"), values.sigmoid())
    assert to_unit(values, "unit").tolist() == [0, 0, 1]
