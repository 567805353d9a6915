from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdtrain.learn.convert import prepare_network
from wdtrain.learn.groups import Context
from wdtrain.learn.trial import check_network
from wdtrain.networks import NETWORKS, build
from wdtrain.networks.layers import NORMS

SIZE = (16, 16)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A layer whose weights are the same in every run of the tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


class Net(nn.Module):
    """3 -> 4 -> 1 channels with something of the user's own in between."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = seeded(lambda: nn.Conv2d(3, 4, 3, padding=1))
        self.between = between
        self.last = seeded(lambda: nn.Conv2d(4, 1, 1))

    def forward(self, picture: Tensor) -> Tensor:
        return self.last(self.between(self.first(picture)))


class Does(nn.Module):
    """A layer of one's own: what a function makes of its input and of the layer itself."""

    def __init__(self, work: Callable[[Does, Tensor], Tensor], **state: object) -> None:
        super().__init__()
        self.work = work
        for name, value in state.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.work(self, x)


def check(network: nn.Module, size: tuple[int, int] = SIZE) -> None:
    context = prepare_network(network, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_network(network, context, size=size)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def refusal(network: nn.Module) -> str:
    with pytest.raises(ValueError, match="network") as refused:
        check(network)
    return str(refused.value)


# ---------------------------------------------------------------------------- what may be trained


@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_ours_keeps_the_laws(name, norm, precision):
    options = {"init_features": 4} if name == "seed-unet" else {"dropout": 0.5}
    check(build(name, norm=norm, **options).to(precision), (32, 48))


def squeeze_excite(layer: Does, x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def attend_to_pixels(layer: Does, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (
        (F.scaled_dot_product_attention(tokens, tokens, tokens) + tokens).transpose(1, 2).view_as(x)
    )


@pytest.mark.parametrize(
    "between",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Sequential(nn.GroupNorm(2, 4), nn.Dropout2d(0.5)),
        nn.InstanceNorm2d(4),
        Does(squeeze_excite),
        Does(attend_to_pixels),
        Does(lambda _, x: F.dropout(x, 0.0)),
        Does(lambda layer, x: x + layer.places, places=torch.linspace(-1, 1, 256).view(SIZE)),
        Does(lambda _, x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.MaxPool2d(2), nn.PReLU(4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_networks_of_ones_own_that_keep_the_laws_are_taken(between):
    check(Net(between))


def test_a_generator_that_another_thread_moved_is_not_held_against_the_network():
    once = iter([torch.rand])
    check(Net(Does(lambda _, x: [x, *(draw(()) for draw in once)][0])))
    assert next(once, None) is None, "nothing was drawn"


# ---------------------------------------------------------------------------- what may not


class DropPath(nn.Module):
    """Stochastic depth as many write it, dropping one sample in a thousand."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.999)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("between", "where"),
    [
        (DropPath(), "layer 'between' (DropPath)"),
        (Attention(), "layer 'between.attention' (MultiheadAttention)"),
        (Does(lambda _, x: F.dropout(x, 0.1)), "layer 'between' (Does)"),
        (Does(lambda _, x: x + 1e-9 * torch.rand(())), "layer 'between' (Does)"),
        (Does(lambda _, x: x if random.random() < 0.999 else -x), "layer 'between' (Does)"),
        (Does(lambda _, x: x * np.random.uniform(1, 2)), "layer 'between' (Does)"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(DropPath())), "layer 'between.1.0' (DropPath)"),
    ],
    ids=["path", "attention", "dropout", "tiny", "python", "numpy", "nested"],
)
def test_refuses_chance_of_a_networks_own_and_names_the_layer(between, where):
    found = refusal(Net(between))
    assert found.startswith(f"{where} of network Net draws chance of its own;")
    assert "use nn.Dropout" in found


def batch_norm(layer: Does, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def whitened(layer: Does, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.mean(0)
    return x - mean


def attend_to_samples(layer: Does, x: Tensor) -> Tensor:
    rows = layer.prepare(x.flatten(1))
    return x + ((rows @ rows.T * layer.scale).softmax(1) @ rows).view_as(x)


def attention(scale: float = 1.0, *, prepare: Callable[[Tensor], Tensor]) -> Does:
    return Does(attend_to_samples, scale=scale, prepare=prepare)


@pytest.mark.parametrize(
    "between",
    [
        Does(batch_norm),
        Does(whitened),
        attention(prepare=lambda rows: rows),
        attention(scale=1 / 32, prepare=lambda rows: F.layer_norm(rows, rows.shape[1:])),
        Does(lambda _, x: x.flip(0)),
        Does(lambda _, x: x / len(x)),
        Does(lambda _, x: x * torch.arange(1, len(x) + 1, dtype=x.dtype).view(-1, 1, 1, 1)),
        Does(lambda _, x: x[torch.arange(len(x)).clamp(max=3)]),
    ],
    ids=["batch_norm", "no_grad", "attention", "scaled", "flip", "count", "place", "index"],
)
def test_refuses_a_network_in_which_groups_see_each_other_and_names_the_layer(between):
    found = refusal(Net(nn.Sequential(nn.ReLU(), between)))
    assert found.startswith("layer 'between.1' (Does) of network Net lets samples of different")
    assert "use nn.BatchNorm2d as a layer, or nn.GroupNorm" in found


def remembers(layer: Does, x: Tensor) -> Tensor:
    layer.seen += 1
    return x


def learns_by_itself(layer: Does, x: Tensor) -> Tensor:
    layer.seen = 0.9 * layer.seen + 0.1 * x.detach().square().mean()
    return x - layer.seen


def draws_from_its_own(layer: Does, x: Tensor) -> Tensor:
    return x + torch.rand((), generator=layer.generator)


@pytest.mark.parametrize(
    ("between", "where"),
    [
        (
            Does(remembers, seen=torch.zeros(())),
            "layer 'between' (Does) of network Net (in its 'seen')",
        ),
        (
            Does(learns_by_itself, seen=torch.zeros(())),
            "layer 'between' (Does) of network Net (in its 'seen')",
        ),
        (Does(learns_by_itself, seen=0.0), "layer 'between' (Does) of network Net"),
        (
            Does(draws_from_its_own, generator=torch.Generator()),
            "layer 'between' (Does) of network Net",
        ),
        (
            seeded(lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))),
            "layer 'between.parametrizations.weight.0' (_SpectralNorm) of network Net (in its",
        ),
    ],
    ids=["counts", "buffer", "attribute", "generator", "spectral"],
)
def test_refuses_state_of_a_networks_own_and_names_it(between, where):
    found = refusal(Net(between))
    assert found.startswith(f"{where}")
    assert " keeps state of its own from pass to pass" in found
    assert "keep state out of forward" in found


class Functional(Net):
    """What is wrong is done in its own forward, before its layer `last`."""

    def __init__(self, work: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.ReLU())
        self.work = work

    def forward(self, picture: Tensor) -> Tensor:
        return self.last(self.work(self.between(self.first(picture))))


class Clipping(Net):
    """It keeps its weights small, by force."""

    def forward(self, picture: Tensor) -> Tensor:
        output = super().forward(picture)
        self.last.weight.clamp_(-1e-3, 1e-3)
        return output


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (F.dropout, "draws chance of its own"),
        (lambda x: x - x.mean(0), "lets samples of different norm groups see each other"),
    ],
    ids=["chance", "mixing"],
)
def test_says_between_which_layers_a_forward_does_it(work, fault):
    assert refusal(Functional(work)).startswith(
        f"network Functional (before its layer 'last') {fault};"
    )


def test_refuses_a_network_that_changes_its_weights():
    found = refusal(Clipping(nn.ReLU()))
    assert found.startswith("layer 'last' (Conv2d) of network Clipping (in its 'weight') keeps")


def test_refuses_what_is_no_answer_to_the_pictures():
    assert "gives (5, 4, 14, 14) for pictures of shape (5, 3, 16, 16)" in refusal(
        nn.Sequential(nn.Conv2d(3, 4, 3))
    )
    network = nn.Sequential(nn.Conv2d(3, 1, 1), Does(lambda _, x: {"out": x}))
    assert "gives a dict for pictures" in refusal(network)
    network = nn.Sequential(nn.Conv2d(3, 1, 1), Does(lambda _, x: x > 0))
    assert "gives torch.bool for pictures" in refusal(network)


def test_a_network_for_one_size_is_tried_at_that_size():
    network = Net(Does(lambda layer, x: x + layer.places, places=torch.zeros(4, 24, 40)))
    check(network, (24, 40))
    assert "network Net cannot take pictures of shape (5, 3, 16, 16)" in refusal(network)


# ---------------------------------------------------------------------------- what it costs


def everything(network: nn.Module, context: Context) -> list[object]:
    """What a trial must leave as it was."""
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    _, words, *rest = np.random.get_state()
    generators = [random.getstate(), words.tolist(), rest, torch.get_rng_state()]
    return [gradients, hooks, modes, state, context.groups, generators]


@pytest.mark.parametrize(
    "between",
    [
        nn.BatchNorm2d(4),
        DropPath(),
        Does(whitened),
        Does(lambda _, x: x * random.random()),
        Does(lambda _, x: x * np.random.uniform()),
    ],
    ids=["taken", "torch", "mixing", "python", "numpy"],
)
def test_leaves_network_gradients_and_generators_as_they_were(between):
    network = Net(between)
    context = prepare_network(network, seed=0)
    network(torch.zeros(2, 3, 8, 8)).sum().backward()
    network.between.eval()
    before = everything(network, context)
    try:
        check_network(network, context, size=SIZE)
    except ValueError:
        assert not isinstance(between, nn.BatchNorm2d)
    torch.testing.assert_close(everything(network, context), before, rtol=0, atol=0)


def test_a_network_that_is_taken_costs_three_forwards_of_at_most_five_pictures():
    rows = []
    check(Net(Does(lambda _, x: rows.append(len(x)) or x)))
    assert rows == [5, 5, 3]
