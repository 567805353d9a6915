"""Networks by name: ours, and anybody's by import path.

Every network takes a float [n, 3, height, width] picture and returns [n, channels, height, width],
as many channels as what it learns needs (one for each class); its attribute `domain` says what they
mean: "logits" (before a sigmoid or softmax), "unit" (0..1) or "positive". Initial weights are a
function of `init_seed`: the global generator is left as it was.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wdtrain.networks.seed_mask import SeedMask
from wdtrain.networks.seed_unet import SeedUNet
from wdtrain.settings import imported

NETWORKS: dict[str, type[nn.Module]] = {"seed-mask": SeedMask, "seed-unet": SeedUNet}
DOMAINS = ("logits", "unit", "positive")


def build(name: str, *, init_seed: int = 0, **options: Any) -> nn.Module:
    """A new network in training mode, on the CPU, in float32.

    name: one of `NETWORKS`, or "package.module:Class" of an `nn.Module` that declares `domain`;
    options: passed to its constructor. Raises ValueError for an unknown name or option.
    """
    network_class = _class_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        try:
            network = network_class(**options)
        except TypeError as error:
            raise ValueError(f"network {name!r} cannot be built with {options}: {error}") from error
    domain_of(network, name)
    return network


def build_for(
    channels: int, name: str, options: Mapping[str, Any], *, init_seed: int = 0
) -> nn.Module:
    """As `build`, with so many output channels where the class takes `out_channels` and `options`
    do not say them."""
    takes = inspect.signature(_class_of(name)).parameters
    own = {"out_channels": channels} if "out_channels" in takes else {}
    return build(name, init_seed=init_seed, **{**own, **options})


def domain_of(network: nn.Module, name: str | None = None) -> str:
    """What the output of a network means; ValueError if it does not say."""
    domain = getattr(network, "domain", None)
    if domain not in DOMAINS:
        raise ValueError(
            f"network {name or type(network).__name__!r} declares domain = {domain!r}; without one "
            "a loss could be put on the wrong activation; give the class an attribute `domain`, "
            f"one of {', '.join(DOMAINS)}"
        )
    return str(domain)


def _class_of(name: str) -> type[nn.Module]:
    return _imported(name) if ":" in name else _ours(name)


def _ours(name: str) -> type[nn.Module]:
    if name in NETWORKS:
        return NETWORKS[name]
    close = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"network {name!r} does not exist; {hint}known: {', '.join(sorted(NETWORKS))}, "
        "or 'package.module:Class' for one of your own"
    )


def _imported(path: str) -> type[nn.Module]:
    found = imported(path, f"network {path!r}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"network {path!r} is not a class of torch.nn.Module")
    return found
