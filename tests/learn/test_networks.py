from __future__ import annotations

import pytest
import torch
from torch import nn

from wdtrain.learn.networks import build, domain_of
from wdtrain.learn.prepare import live_parameters, prepare_network


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
        (f"{__name__}:Missing", {}, "cannot be imported"),
        ("no.such.module:Thing", {}, "cannot be imported"),
        (f"{__name__}:count", {}, "not a class of torch.nn.Module"),
        (f"{__name__}:Silent", {}, "declares domain = None"),
    ],
)
def test_refuses_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
