"""A network that ends in a sigmoid learns in bfloat16 what it learns in float32, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.learn.cases import built, make_rows, make_view, one_step, target
from wdtrain.learn.rounding import keep_output_fine
from wdtrain.learn.task import TaskSet
from wdtrain.networks import build
from wdtrain.networks.layers import WideSigmoid
from wdtrain.targets.choice import build_loss

LEVELS = (-9.0, -6.5, 2.0, 6.25, 7.0, 10.0)


class Ends(nn.Module):
    """A network of a user's own: gated inside, and ending as a test says."""

    domain = "unit"

    def __init__(self, end: Callable[[Ends, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid()
        self.conv, self.sigmoid = nn.Conv2d(8, 1, 1), nn.Sigmoid()
        self.end, self.gates = end, list[torch.dtype]()

    def forward(self, picture: Tensor) -> Tensor:
        features = self.first(picture)
        gate = self.gate(features.mean((2, 3), keepdim=True))
        self.gates.append(gate.dtype)
        return self.end(self, self.conv(features * gate))


FINE = {
    "layer": lambda net, x: net.sigmoid(x),
    "resized": lambda net, x: F.interpolate(net.sigmoid(x), scale_factor=1.0, mode="bilinear"),
    "cut": lambda net, x: net.sigmoid(torch.cat((x, x), 1))[:, :1],
    "shared": lambda net, x: net.gate(x),
    "float": lambda net, x: torch.sigmoid(x.float()),
    "capped": lambda net, x: torch.sigmoid(20 * torch.tanh(x / 20).float()),
}
ROUNDED = {
    "function": lambda net, x: torch.sigmoid(x),
    "method": lambda net, x: x.sigmoid(),
    "float too late": lambda net, x: x.sigmoid().float(),
    "resized": lambda net, x: F.interpolate(x.sigmoid(), scale_factor=1.0, mode="bilinear").float(),
    "layer and function": lambda net, x: net.sigmoid(x) * torch.sigmoid(x),
    "softmax": lambda net, x: torch.cat((x, 0 * x), 1).softmax(1)[:, :1].float(),
    "tanh": lambda net, x: (0.5 * (x.tanh() + 1)).float(),
    "hard": lambda net, x: F.hardsigmoid(x),
    "clipped": lambda net, x: x.clamp(0, 1),
}


def at_level(network: nn.Module, level: float) -> nn.Module:
    """The network says the sigmoid of `level` everywhere."""
    nn.init.zeros_(network.conv.weight)
    nn.init.constant_(network.conv.bias, level)
    return network


def first_step(network: nn.Module, loss: str, precision: str) -> tuple[float, Tensor]:
    """(loss, gradients) of a first step on black masks and white ones."""
    task = built(
        "mask", "mask", network, loss=loss, optimizer={"name": "sgd", "lr": 0.1},
        precision=precision, micro_batch=4, norm_group=4, size=(16, 16),
    )  # fmt: skip
    tasks, rows = TaskSet([task]), make_rows(8)
    rows["mask"][:6], rows["mask"][6:] = 0, 255
    reading = one_step(tasks, rows, view=make_view(precision)).read()
    return reading.losses["mask"], tasks.gradients_of(task).gradients.clone()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss", ["bce", "bce+dice", "l1", "smooth-l1"])
@pytest.mark.parametrize("make", ["seed-unet", "layer"])
def test_loss_and_gradient_in_bf16_are_those_in_fp32(make, loss, level):
    found = {}
    for precision in ("fp32", "bf16"):
        if make == "layer":
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = Ends(FINE["layer"])
        else:
            network = build(make, init_features=4)
        found[precision] = first_step(at_level(network, level), loss, precision)
    (loss32, gradient32), (loss16, gradient16) = found["fp32"], found["bf16"]
    assert loss16 == pytest.approx(loss32, rel=0.05)
    assert float(gradient32.norm()) > 0
    assert float((gradient16 - gradient32).norm()) < 0.05 * float(gradient32.norm())


@pytest.mark.parametrize("how", FINE)
def test_a_sigmoid_that_the_output_comes_from_is_fine_and_gates_inside_are_left(how):
    network = Ends(FINE[how])
    names = list(network.state_dict())
    keep_output_fine(network, size=(16, 16))
    assert list(network.state_dict()) == names
    assert type(network.gate) is (WideSigmoid if how == "shared" else nn.Sigmoid)
    network.gates.clear()
    at_level(network, 7.0)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.randn(2, 3, 16, 16))
    assert network.gates == [torch.float32 if how == "shared" else torch.bfloat16]
    level = 20 * torch.tensor(0.35).tanh() if how == "capped" else torch.tensor(7.0)
    missing = torch.full_like(output, (1 - torch.sigmoid(level)).item())
    torch.testing.assert_close(1 - output, missing, rtol=0.05, atol=0)


@pytest.mark.parametrize("how", ROUNDED)
def test_an_output_that_is_rounded_by_a_function_is_refused_in_bf16_alone(how):
    def start(precision: str, domain: str = "unit") -> None:
        network = Ends(ROUNDED[how])
        network.domain = domain
        built(
            "mask", "mask", network, loss="bce", optimizer={"name": "sgd", "lr": 0.1},
            precision=precision, size=(16, 16),
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"network Ends rounds its output .*nn.Sigmoid as a layer"):
        start("bf16")
    start("fp32")
    start("bf16", "logits")


def test_the_trial_leaves_network_and_generator_as_they_were():
    network = Ends(FINE["layer"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    keep_output_fine(network, size=(16, 16))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training


@pytest.mark.parametrize("level", LEVELS)
def test_a_prediction_of_seed_unet_under_autocast_is_not_rounded_either(level):
    network = at_level(build("seed-unet", init_features=4), level)
    with torch.autocast("cpu", torch.bfloat16):
        unit = network(torch.rand(2, 3, 16, 16))
    assert unit.dtype == torch.float32
    loss = build_loss("bce", "unit", target("mask"))(
        unit, torch.zeros_like(unit), torch.ones_like(unit)
    )
    assert loss.mean().item() == pytest.approx(F.softplus(torch.tensor(level)).item(), rel=0.01)
