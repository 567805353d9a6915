"""Makes a network fit for the step: grouped BatchNorm, keyed dropout, live parameters known.

Parameters and state-dict names stay those of the network. Layers that would make the result depend
on the micro-batch, and that have no counterpart here, are refused by name. What cannot be seen is
not replaced: a network that calls `F.dropout` or `F.batch_norm` itself is outside the laws of the
step.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.groups import Context, keyed
from wdtrain.learn.norm import GroupedBatchNorm2d


def prepare_network(network: nn.Module, seed: int, *, name: str = "") -> Context:
    """Replace the layers of `network`, in place; returns the context that they share.

    seed, name: what dropout is keyed by, beside epoch, group and layer; two networks of one run
    need different names. Raises ValueError for a layer that cannot be replaced.
    """
    context = Context(seed=keyed(seed, name))
    for path, module in list(network.named_modules()):
        replacement = _replacement(path, module, context)
        if replacement is None:
            continue
        parent, _, child = path.rpartition(".")
        if not path:
            raise ValueError(f"a lone {type(module).__name__} is not a network")
        setattr(network.get_submodule(parent), child, replacement)
    return context


def _replacement(path: str, module: nn.Module, context: Context) -> nn.Module | None:
    if isinstance(module, GroupedBatchNorm2d | KeyedDropout):
        module.context, module.layer = context, path
        return None
    if type(module) is nn.BatchNorm2d:
        return GroupedBatchNorm2d.of(module, context=context, layer=path)
    if isinstance(module, nn.Dropout | nn.Dropout2d):
        channelwise = isinstance(module, nn.Dropout2d)
        dropout = KeyedDropout(module.p, channelwise=channelwise, context=context, layer=path)
        return dropout.train(module.training)
    follows_the_batch = isinstance(module, _NormBase) and module.track_running_stats
    if follows_the_batch or isinstance(module, _DropoutNd | nn.RReLU):
        raise ValueError(
            f"layer {path!r} is a {type(module).__name__}; its result would depend on the "
            "micro-batch or on the rank, so training could not be repeated; use BatchNorm2d, "
            "GroupNorm, Dropout or Dropout2d"
        )
    return None


def live_parameters(network: nn.Module, height: int = 32, width: int = 32) -> list[str]:
    """Names of the parameters that the output depends on, found by one dry backward on a copy.

    Takes a forward and backward of two small float pictures on the network's device; the network
    itself is left as it was. Raises ValueError if no parameter is reached.
    """
    probe = copy.deepcopy(network).train()
    for module in probe.modules():
        if isinstance(module, GroupedBatchNorm2d | KeyedDropout):
            module.context.close()
    first = next(probe.parameters(), None)
    if first is None:
        raise ValueError(f"network {type(network).__name__} has no parameters to train")
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        picture = torch.linspace(-1, 1, 6 * height * width, dtype=first.dtype, device=first.device)
        probe(picture.view(2, 3, height, width)).sum().backward()
    live = [name for name, parameter in probe.named_parameters() if parameter.grad is not None]
    if not live:
        raise ValueError(f"no parameter of network {type(network).__name__} reaches its output")
    return live
