"""Makes a network fit for the step: grouped BatchNorm, keyed dropout, live parameters known.

Parameters and state-dict names stay those of the network. Layers that would make the result depend
on the micro-batch, and that have no counterpart here, are refused by name. What a network does in
its own forward (`F.dropout`, `F.batch_norm`) cannot be replaced: `trial.py` finds and refuses it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin

from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.groups import Context, keyed
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.learn.trial import copy_of, forward, generators_kept, pictures

_CHANNELWISE: dict[type[_DropoutNd], bool] = {
    nn.Dropout: False,
    nn.Dropout1d: True,
    nn.Dropout2d: True,
    nn.Dropout3d: True,
}
"""The dropout that `KeyedDropout` replaces, and whether it drops whole channels."""
_DRAWS = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def prepare_network(network: nn.Module, seed: int, *, name: str = "") -> Context:
    """Replace the layers of `network`, in place; returns the context that they share.

    seed, name: what dropout is keyed by, beside epoch, group and layer; two networks of one run
    need different names. A layer that stands in several places is replaced by one in all of them,
    and goes by its first path. Raises ValueError for a layer that cannot be replaced.
    """
    context = Context(seed=keyed(seed, name))
    replaced: dict[int, nn.Module] = {}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if id(module) not in replaced:
            replaced[id(module)] = _replacement(path, module, context)
        if replaced[id(module)] is module:
            continue
        if not path:
            raise ValueError(
                f"the network is a lone {type(module).__name__}, which learns nothing of a "
                "picture; name a network that holds it"
            )
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, replaced[id(module)])
    return context


def _replacement(path: str, module: nn.Module, context: Context) -> nn.Module:
    """What stands in for a layer: itself where nothing of it depends on the micro-batch."""
    kind = type(module)
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(
            f"layer {path!r} is a {kind.__name__}, whose size follows from the first picture; its "
            f"weights would be drawn then, by chance; use {kind.__name__.removeprefix('Lazy')} "
            "with its numbers of channels"
        )
    if isinstance(module, GroupedBatchNorm2d | KeyedDropout):
        module.context, module.layer = context, path
        return module
    if isinstance(module, nn.BatchNorm2d) and _is_but_a(nn.BatchNorm2d, module):
        return GroupedBatchNorm2d.of(module, context=context, layer=path)
    for plain, channelwise in _CHANNELWISE.items():
        if isinstance(module, plain) and _is_but_a(plain, module):
            dropout = KeyedDropout(module.p, channelwise=channelwise, context=context, layer=path)
            return dropout.train(module.training)
    follows_the_batch = isinstance(module, _NormBase) and module.track_running_stats
    if follows_the_batch or isinstance(module, (_BatchNorm, *_DRAWS)):
        raise ValueError(
            f"layer {path!r} is a {kind.__name__}; its result would depend on the micro-batch or "
            "on the rank, so training could not be repeated; use BatchNorm2d, GroupNorm, Dropout, "
            "Dropout1d, Dropout2d or Dropout3d"
        )
    return module


def _is_but_a(kind: type[nn.Module], module: nn.Module) -> bool:
    """Whether a layer, of a class derived from `kind` or not, does what `kind` does, no more."""
    return type(module).forward is kind.forward and not any(module.children())


def live_parameters(network: nn.Module, height: int = 32, width: int = 32) -> list[str]:
    """Names of the parameters that the output depends on, found by one dry backward on a copy.

    Takes a forward and backward of two small float pictures on the network's device; the network
    itself is left as it was. Raises ValueError if no parameter is reached, or the network cannot
    take a picture of this size.
    """
    probe, _ = copy_of(network)
    with generators_kept(probe):
        output = forward(probe, pictures(2, (height, width), probe))
        if output.requires_grad:
            torch.autograd.backward(output.sum())
    live = [name for name, parameter in probe.named_parameters() if parameter.grad is not None]
    if not live:
        raise ValueError(
            f"no parameter of network {type(network).__name__} reaches its output, so nothing "
            "could be learned; let its forward use its layers, outside torch.no_grad"
        )
    return live
