from __future__ import annotations

import pytest
import torch
from torch import nn

from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.networks import build
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.learn.prepare import live_parameters, prepare_network


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


@pytest.mark.parametrize(
    "layer", [nn.SyncBatchNorm(4), nn.AlphaDropout(), nn.RReLU(), nn.Dropout3d()]
)
def test_refuses_layers_that_depend_on_the_micro_batch(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    with pytest.raises(ValueError, match=f"layer '1' is a {type(layer).__name__}"):
        prepare_network(network, seed=0)


def test_groupnorm_and_instancenorm_without_statistics_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
    prepare_network(network, seed=0)
    assert isinstance(network[1], nn.GroupNorm)


def test_finding_live_parameters_leaves_network_and_generator_as_they_were():
    network = build("seed-mask")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    live_parameters(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
