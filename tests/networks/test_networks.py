from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.learn.cases import commit
from wdtrain.learn.convert import live_parameters, prepare_network
from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.groups import Context
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.networks import NETWORKS, build, domain_of
from wdtrain.networks.layers import NORMS, norm_layer

SMALL = {"seed-mask": {"dropout": 0.3}, "seed-unet": {"init_features": 4}}
"""Options by which each network is quick to run and has what the laws are about."""
SIDE = {"seed-mask": 12, "seed-unet": 32}
EVERY_NETWORK = [(name, norm) for name in NETWORKS for norm in NORMS]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_seed_mask_has_114624_parameters_of_which_77568_live():
    network = build("seed-mask")
    live = set(live_parameters(network))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(sizes.values()) == 114_624
    assert sum(sizes[name] for name in live) == 77_568


def test_seed_unet_has_7763041_parameters_all_live():
    network = build("seed-unet")
    assert count(network) == 7_763_041
    assert len(live_parameters(network)) == len(list(network.parameters()))


def published_names() -> set[str]:
    """The state dict of mateuszbuda/brain-segmentation-pytorch, by its rule of naming."""
    names = {"conv.weight", "conv.bias"}
    blocks = {f"encoder{n}": f"enc{n}" for n in (1, 2, 3, 4)} | {"bottleneck": "bottleneck"}
    blocks |= {f"decoder{n}": f"dec{n}" for n in (1, 2, 3, 4)}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for block, short in blocks.items():
        for n in (1, 2):
            names.add(f"{block}.{short}conv{n}.weight")
            names |= {f"{block}.{short}norm{n}.{part}" for part in norm}
    return names | {f"upconv{n}.{part}" for n in (1, 2, 3, 4) for part in ("weight", "bias")}


@pytest.mark.parametrize("prepared", [False, True])
def test_seed_unet_has_the_published_state_dict_names(prepared):
    network = build("seed-unet")
    if prepared:
        prepare_network(network, seed=0)
    assert set(network.state_dict()) == published_names()


def test_seed_mask_sees_11_by_11_pixels():
    network = build("seed-mask").eval()
    picture = torch.zeros(1, 3, 32, 32, requires_grad=True)
    network(picture)[0, 0, 16, 16].backward()
    rows, columns = picture.grad[0].abs().sum(0).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (11, 21, 11, 21)


@pytest.mark.parametrize("name", ["seed-mask", "seed-unet"])
def test_keeps_height_and_width(name):
    network = build(name).eval()
    assert network(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 32, 48)


def test_seed_unet_gives_values_in_0_to_1_and_says_so():
    network = build("seed-unet", init_features=4).eval()
    output = network(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 50)
    assert domain_of(network) == "unit"
    assert 0 <= output.min() <= output.max() <= 1


def test_seed_unet_refuses_a_size_that_it_cannot_halve_four_times():
    with pytest.raises(ValueError, match=r"40 x 32.*divisible by 16"):
        build("seed-unet", init_features=4)(torch.zeros(1, 3, 40, 32))


def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (build("seed-mask", init_seed=s) for s in (1, 1, 2))
    assert torch.rand(1) == expected
    weights = [network.head.weight for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize("name", NETWORKS)
def test_norm_group_has_the_names_of_norm_batch_without_its_running_statistics(name):
    batch, group = (build(name, norm=norm) for norm in NORMS)
    assert list(build(name).state_dict()) == list(batch.state_dict())
    names = [n for n in batch.state_dict() if "running" not in n and "num_batches" not in n]
    assert list(group.state_dict()) == names
    assert not any(isinstance(module, nn.BatchNorm2d) for module in group.modules())
    shared = [(batch.get_parameter(n), group.get_parameter(n)) for n in names]
    assert all(torch.equal(one, other) for one, other in shared), "initial weights moved"


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 4), (64, 8), (512, 64), (8, 1), (4, 1), (12, 3), (7, 7), (1, 1)]
)
def test_group_norm_takes_8_channels_together_or_what_divides_both(channels, groups):
    assert norm_layer("group", channels).num_groups == groups


# ---------------------------------------------------------------------------- laws of the step


def prepared(name: str, norm: str) -> tuple[nn.Module, Context]:
    network = build(name, norm=norm, **SMALL[name])
    context = prepare_network(network, seed=3, name=name)
    return network.double(), context


def noise(rows: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 3, side, side, generator=generator, dtype=torch.float64)


def pass_through(name: str, norm: str, groups: list[tuple[int, Tensor]], cuts: set[int]) -> dict:
    """By position of each group its output, and the buffers after a step over these groups.

    groups: (position, pictures); cuts: before which of them a new micro-batch begins.
    """
    network, context = prepared(name, norm)
    norms = [m for m in network.modules() if isinstance(m, GroupedBatchNorm2d)]
    for layer in norms:
        layer.pending = torch.zeros(layer.pending_size, dtype=torch.float64)
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < len(groups)), len(groups)]
    found = {}
    for first, last in pairwise(borders):
        positions, pictures = zip(*groups[first:last], strict=True)
        rows = [len(part) for part in pictures]
        context.open(rows, [5] * len(rows), positions)
        with torch.no_grad():
            output = network(torch.cat(pictures))
        found |= dict(zip(positions, output.split(rows), strict=True))
    for layer in norms:
        commit(layer)
    return found | dict(network.named_buffers())


@pytest.mark.parametrize(("name", "norm"), EVERY_NETWORK)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_outputs_dropout_and_statistics_of_a_group_do_not_depend_on_its_micro_batch(
    name, norm, data
):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), label="group sizes")
    order = data.draw(st.permutations(range(len(sizes))), label="order of groups")
    cuts = data.draw(st.sets(st.integers(1, 3)), label="micro-batches begin before")
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    groups = list(zip(starts, noise(sum(sizes), SIDE[name]).split(sizes), strict=True))
    together = pass_through(name, norm, groups, set())
    apart = pass_through(name, norm, [groups[index] for index in order], cuts)
    assert together.keys() == apart.keys()
    for what, value in together.items():
        torch.testing.assert_close(apart[what], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "norm"), EVERY_NETWORK)
def test_dropout_is_a_function_of_seed_epoch_and_group_and_of_nothing_else(name, norm):
    def answer(seed: int = 3, epoch: int = 5, position: int = 8, chance: int = 0) -> Tensor:
        network = build(name, norm=norm, **SMALL[name]).double()
        context = prepare_network(network, seed, name=name)
        context.open([2], [epoch], [position])
        torch.manual_seed(chance)
        return network(noise(2, SIDE[name])).detach()

    assert torch.equal(answer(), answer(chance=1))
    has_dropout = any(isinstance(m, KeyedDropout) for m in prepared(name, norm)[0].modules())
    for other in (answer(seed=4), answer(epoch=6), answer(position=10)):
        assert torch.equal(answer(), other) != has_dropout


# ---------------------------------------------------------------------------- by name


class Own(nn.Module):
    domain = "positive"

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)


class Silent(nn.Module):
    pass


def test_builds_anybodys_network_by_import_path():
    assert isinstance(build(f"{__name__}:Own", width=5).conv, nn.Conv2d)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("seed-maks", {}, "did you mean 'seed-mask'"),
        ("zebra", {}, "known: seed-mask, seed-unet"),
        ("seed-mask", {"depht": 3}, "cannot be built with"),
        ("seed-mask", {"norm": "layer"}, "option norm is 'layer'.*one of batch, group"),
        ("seed-unet", {"norm": "grup"}, "did you mean 'group'"),
        (f"{__name__}:Missing", {}, "cannot be imported"),
        ("no.such.module:Thing", {}, "cannot be imported"),
        (f"{__name__}:count", {}, "not a class of torch.nn.Module"),
        (f"{__name__}:Silent", {}, "declares domain = None"),
    ],
)
def test_refuses_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
