from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.learn.cases import built, target
from wdtrain.fields import ClassesField
from wdtrain.networks import build
from wdtrain.targets import TARGETS, Target, target_of
from wdtrain.targets.choice import build_loss
from wdtrain.targets.losses import dice_of_unit

CLASSES = target_of(ClassesField("labels", classes=5))
MASK = target("mask")
LEARNED: dict[str, Target] = {
    "mask": MASK,
    "depth": target("depth"),
    "classes": CLASSES,
}
EVERY = [
    (kind, name, domain)
    for kind in TARGETS
    for name, domains in LEARNED[kind].losses.items()
    for domain in domains
]


def example(
    kind: str, domain: str, n: int = 5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, wanted, valid, other values of what is wanted)"""
    learned, generator = LEARNED[kind], torch.Generator().manual_seed(1)
    output = torch.randn(n, learned.channels, 6, 8, dtype=torch.float64, generator=generator)
    output = output if domain == "logits" else output.sigmoid()
    valid = torch.rand(n, 1, 6, 8, dtype=torch.float64, generator=generator) > 0.3
    if kind == "classes":
        wanted = torch.randint(0, 5, (n, 1, 6, 8), generator=generator)
        return output.requires_grad_(), wanted, valid.double(), (wanted + 1) % 5
    wanted = torch.rand(n, 1, 6, 8, dtype=torch.float64, generator=generator).round()
    return output.requires_grad_(), wanted, valid.double(), 1 - wanted


@pytest.mark.parametrize(("kind", "name", "domain"), EVERY)
def test_is_a_number_a_sample_that_other_samples_do_not_touch(kind, name, domain):
    loss = build_loss(name, domain, LEARNED[kind])
    output, target, valid, _ = example(kind, domain)
    together = loss(output, target, valid)
    alone = torch.cat(
        [loss(output[i : i + 1], target[i : i + 1], valid[i : i + 1]) for i in range(len(output))]
    )
    assert together.shape == (5,)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kind", "name", "domain"), EVERY)
def test_what_is_not_valid_changes_nothing(kind, name, domain):
    loss = build_loss(name, domain, LEARNED[kind])
    output, target, valid, other = example(kind, domain)
    changed = torch.where(valid > 0, target, other)
    assert torch.equal(loss(output, target, valid), loss(output, changed, valid))
    (gradient,) = torch.autograd.grad(loss(output, target, valid).sum(), output)
    known = (valid > 0).expand_as(gradient)
    assert not gradient[~known].any()
    assert gradient[known].any()


@pytest.mark.parametrize(("kind", "name", "domain"), EVERY)
def test_a_sample_without_a_valid_pixel_gives_zero_and_a_zero_gradient(kind, name, domain):
    loss = build_loss(name, domain, LEARNED[kind])
    output, target, valid, _ = example(kind, domain)
    valid[2] = 0
    losses = loss(output, target, valid)
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    assert losses[2] == 0
    assert not gradient[2].any()


def test_values_are_those_of_the_definitions():
    half = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    target = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]], dtype=torch.float64)
    ones = torch.ones_like(half)
    assert math.isclose(build_loss("bce", "logits", MASK)(half, target, ones), math.log(2))
    assert math.isclose(build_loss("l1", "unit", MASK)(half + 0.25, target, ones), 0.5)
    smooth = build_loss("smooth-l1", "unit", MASK)
    assert math.isclose(smooth(target + 0.02, target, ones), 0.5 * 0.02**2 / 0.05)
    assert math.isclose(smooth(target + 0.5, target, ones), 0.5 - 0.025)
    assert math.isclose(dice_of_unit(half + 0.5, target, ones), 1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_of_unit(target, target, ones) == 0


def test_logits_and_unit_forms_agree():
    output, target, valid, _ = example("mask", "logits")
    for name in ("bce", "bce+dice"):
        by_logits = build_loss(name, "logits", MASK)(output, target, valid)
        by_unit = build_loss(name, "unit", MASK)(output.sigmoid(), target, valid)
        torch.testing.assert_close(by_logits, by_unit)


@given(scale=st.floats(1, 1e4))
def test_bce_of_confident_logits_stays_finite(scale):
    output = torch.tensor([[[[scale, -scale]]]], dtype=torch.float64)
    assert (
        build_loss("bce", "logits", MASK)(output, 1 - output.sigmoid().round(), output * 0 + 1)
        < 1e5
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def test_losses_of_classes_are_those_of_slow_loops_over_the_definitions():
    output, wanted, valid, _ = example("classes", "logits")
    for n in range(len(output)):
        nats, focal, shares, truths = [], [], [], []
        for y, x in np.ndindex(6, 8):
            if valid[n, 0, y, x]:
                share = softmax(output[n, :, y, x].detach().numpy())
                right = share[int(wanted[n, 0, y, x])]
                nats.append(-math.log(right))
                focal.append(-((1 - right) ** 3) * math.log(right))
                shares.append(share)
                truths.append(np.eye(5)[int(wanted[n, 0, y, x])])
        share, truth = np.array(shares), np.array(truths)
        dices = [
            1
            - (2 * (share[:, c] * truth[:, c]).sum() + 1)
            / (share[:, c].sum() + truth[:, c].sum() + 1)
            for c in range(5)
            if truth[:, c].any()
        ]
        given = (output[n : n + 1], wanted[n : n + 1], valid[n : n + 1])
        found = {
            name: build_loss(name, "logits", CLASSES, options)(*given).item()
            for name, options in (("ce", {}), ("ce+dice", {}), ("focal", {"gamma": 3.0}))
        }
        assert found["ce"] == pytest.approx(np.mean(nats), abs=1e-12)
        assert found["focal"] == pytest.approx(np.mean(focal), abs=1e-12)
        assert found["ce+dice"] == pytest.approx(np.mean(nats) + np.mean(dices), abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "name", "domain", "message"),
    [
        (
            "mask",
            "l1",
            "logits",
            r"'l1' was put on a network whose output is 'logits'.*bce, bce\+dice",
        ),
        ("mask", "bce", "positive", r"mask \(mask\) it is defined for logits and unit"),
        ("mask", "smooth-l2", "unit", "did you mean 'smooth-l1'"),
        (
            "depth",
            "bce+dice",
            "unit",
            r"does not exist for depth \(depth\).*known: l1, smooth-l1, bce",
        ),
        ("classes", "ce", "unit", "choose another network"),
        ("classes", "bce", "logits", "known: ce, ce\\+dice, focal"),
    ],
)
def test_a_loss_on_the_wrong_activation_is_refused_by_name(kind, name, domain, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, domain, LEARNED[kind])


def test_a_task_cannot_be_built_with_a_loss_on_the_wrong_activation():
    with pytest.raises(ValueError, match="'smooth-l1' was put on"):
        built("mask", "mask", build("seed-mask"), loss="smooth-l1", optimizer={"name": "sgd"})


def test_a_network_with_other_outputs_than_classes_is_refused_with_what_is_needed():
    how = {"loss": "ce", "optimizer": {"name": "sgd"}, "size": (16, 16)}
    assert built("labels", "labels", build("seed-mask", out_channels=5), **how).target.channels == 5
    with pytest.raises(ValueError, match=r"has 1 output channels; labels \(classes\) needs 5"):
        built("labels", "labels", build("seed-mask"), **how)


# ---------------------------------------------------------------------------- of one's own


def tversky(output, wanted, valid, *, alpha=0.5):
    share = output.sigmoid() * valid
    hit, false = (share * wanted).sum((1, 2, 3)), (share * (1 - wanted)).sum((1, 2, 3))
    missed = ((1 - share) * wanted * valid).sum((1, 2, 3))
    return 1 - (hit + 1) / (hit + alpha * false + (1 - alpha) * missed + 1)


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, output, wanted, valid):
        return self.weight * tversky(output, wanted, valid)


def mean_of_the_batch(output, wanted, valid):
    return ((output - wanted).abs() * valid).mean().expand(len(output))


def of_all_pixels(output, wanted, valid):
    return (output - wanted).abs().mean((1, 2, 3))


def undivided(output, wanted, valid):
    return ((output - wanted).abs() * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))


def one_number(output, wanted, valid):
    return (output * valid).sum()


def test_a_loss_by_import_path_is_called_with_its_options():
    output, wanted, valid, _ = example("mask", "logits")
    path = f"{__name__}:tversky"
    found = build_loss(path, "logits", MASK, {"alpha": 0.2})(output, wanted, valid)
    assert torch.equal(found, tversky(output, wanted, valid, alpha=0.2))
    twice = build_loss(f"{__name__}:Weighted", "logits", MASK, {"weight": 2.0})
    torch.testing.assert_close(twice(output, wanted, valid), 2 * tversky(output, wanted, valid))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mean_of_the_batch", {}, "lets samples see each other"),
        ("of_all_pixels", {}, "no pixel is valid"),
        ("undivided", {}, "no finite loss"),
        ("one_number", {}, r"gives \(\) for 4 samples"),
        ("tversky", {"beta": 1}, "stops on noise with .*beta"),
        ("Weighted", {"wait": 1}, "does not take"),
        ("LEARNED", {}, "is a dict"),
        ("nothing", {}, "cannot be imported"),
    ],
)
def test_a_loss_by_import_path_that_cannot_be_trained_by_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_loss(f"{__name__}:{name}", "logits", MASK, options)


def test_to_soft_is_a_sigmoid_for_logits_a_softmax_for_classes_and_a_clip_for_the_rest():
    values = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(MASK.soft(values, "logits"), values.sigmoid())
    assert MASK.soft(values, "unit").tolist() == [0, 0, 1]
    shares = CLASSES.soft(values[None, :, None, None], "logits")[0, :, 0, 0]
    torch.testing.assert_close(shares, values.softmax(0))
