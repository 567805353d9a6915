from __future__ import annotations

import pytest
import torch
from torch import nn

from wdtrain.learn.convert import live_parameters, prepare_network
from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.networks import build


def test_converts_batchnorm_and_dropout_and_keeps_the_state_dict():
    network = build("seed-mask")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare_network(network, seed=1)
    kinds = [type(module) for module in network.modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.Dropout not in kinds
    assert kinds.count(GroupedBatchNorm2d) == kinds.count(KeyedDropout) == 7
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_layers_know_their_names_and_share_one_context():
    network = build("seed-mask")
    context = prepare_network(network, seed=1)
    layers = [m for m in network.modules() if isinstance(m, KeyedDropout)]
    assert len({layer.layer for layer in layers}) == 7
    assert all(layer.context is context for layer in layers)


def test_networks_of_another_name_or_seed_are_keyed_otherwise():
    seeds = {
        prepare_network(build("seed-mask"), seed, name=name).seed
        for seed, name in ((1, "mask"), (2, "mask"), (1, "depth"))
    }
    assert len(seeds) == 3


def test_preparing_twice_gives_the_layers_a_new_context():
    network = build("seed-mask")
    prepare_network(network, seed=1)
    layers = [m for m in network.modules() if isinstance(m, KeyedDropout)]
    context = prepare_network(network, seed=2)
    assert [m for m in network.modules() if isinstance(m, KeyedDropout)] == layers
    assert all(layer.context is context for layer in layers)


class CrookedNorm(nn.BatchNorm2d):
    """One that does something of its own, which a replacement would not do."""

    def forward(self, input):
        return super().forward(input) + 1


class CrookedDropout(nn.Dropout):
    def forward(self, input):
        return super().forward(input) + 1


class OurNorm(nn.BatchNorm2d):
    """One that only chooses its settings."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)


@pytest.mark.parametrize(
    "layer",
    [
        nn.SyncBatchNorm(4),
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.BatchNorm3d(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.AlphaDropout(),
        nn.FeatureAlphaDropout(),
        nn.RReLU(),
        nn.FractionalMaxPool2d(2, output_ratio=0.5),
        nn.LazyBatchNorm2d(),
        nn.LazyConv2d(4, 1),
        CrookedNorm(4),
        CrookedDropout(),
        nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4).requires_grad_(False)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_refuses_layers_that_depend_on_the_micro_batch(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    with pytest.raises(ValueError, match=f"layer '1' is a {type(layer).__name__}"):
        prepare_network(network, seed=0)


@pytest.mark.parametrize(
    ("plain", "shape", "channelwise"),
    [
        (nn.Dropout, (4, 8, 6, 6), False),
        (nn.Dropout1d, (4, 8, 36), True),
        (nn.Dropout2d, (4, 8, 6, 6), True),
        (nn.Dropout3d, (4, 8, 3, 4, 3), True),
    ],
)
def test_every_plain_dropout_is_keyed_and_drops_what_it_dropped(plain, shape, channelwise):
    network = nn.Sequential(nn.Identity(), plain(0.5))
    context = prepare_network(network, seed=0)
    context.open([4], [0], [0])
    torch.manual_seed(1)
    first = network(torch.ones(shape))
    torch.manual_seed(2)
    assert torch.equal(first, network(torch.ones(shape)))
    channels = first.flatten(2)
    assert torch.equal(channels.amin(2), channels.amax(2)) == channelwise


def test_a_batchnorm_that_only_chooses_its_settings_is_grouped_with_them():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), OurNorm(4))
    prepare_network(network, seed=0)
    assert isinstance(network[1], GroupedBatchNorm2d)
    assert (network[1].eps, network[1].momentum) == (1e-3, 0.01)


def test_a_layer_that_stands_in_two_places_is_replaced_in_both():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network.again = nn.Sequential(network[1], network[2])
    names = list(network.state_dict())
    prepare_network(network, seed=0)
    assert network.again[0] is network[1]
    assert network.again[1] is network[2]
    assert isinstance(network[1], GroupedBatchNorm2d)
    assert isinstance(network[2], KeyedDropout)
    assert list(network.state_dict()) == names


def test_a_lone_layer_is_no_network():
    with pytest.raises(ValueError, match="a lone BatchNorm2d"):
        prepare_network(nn.BatchNorm2d(3), seed=0)


def test_groupnorm_and_instancenorm_without_statistics_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
    prepare_network(network, seed=0)
    assert isinstance(network[1], nn.GroupNorm)


def test_finding_live_parameters_leaves_network_and_generator_as_they_were():
    network = build("seed-mask")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare_network(network, seed=0)
    state = torch.random.get_rng_state()
    live_parameters(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


class Idle(nn.Module):
    """Its output depends on nothing that it could learn."""

    def __init__(self, *, has_gradient: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.has_gradient = has_gradient

    def forward(self, picture):
        return picture.mean(1, keepdim=True).requires_grad_(self.has_gradient)


def test_refuses_a_network_that_could_learn_nothing():
    for has_gradient in (True, False):
        with pytest.raises(ValueError, match="no parameter of network Idle reaches its output"):
            live_parameters(Idle(has_gradient=has_gradient))
    with pytest.raises(ValueError, match="network ReLU has no parameters"):
        live_parameters(nn.ReLU())
