"""A network that ends in a sigmoid ends in float32, also where the rest of it is bfloat16.

Rounded to bfloat16 a sigmoid is 1 from a logit of 6.25 on: what is confidently wrong there costs
too much and has no gradient at all. Layers are made to keep float32; where a network calls a
function (`torch.sigmoid`) there is no layer to change, and it is refused. The surprise: which
sigmoid is the last is read from the graph that autograd records of a dry pass, since gates further
inside may stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wdtrain.learn.trial import copy_of, forward, generators_kept, pictures
from wdtrain.learn.view import autocast
from wdtrain.networks.layers import WideSigmoid

_SQUASHING = ("Sigmoid", "Tanh", "Softmax")
_WEIGHING = re.compile(r"\w*Convolution|\w*[Mm]mBackward|LinearBackward")


def keep_output_fine(network: nn.Module, *, size: tuple[int, int]) -> None:
    """The output of a network of domain "unit" is float32 under bfloat16 autocast, sigmoid and all.

    network: as `prepare_network` leaves it, on its device; size: height and width of the pictures
    that it will be given. An `nn.Sigmoid` that the output comes from becomes a `WideSigmoid`, in
    place: names stay. ValueError where the output is rounded by anything else. Costs a copy of the
    weights and a forward of two pictures, or two.
    """
    for path in _rounded_by(network, size):
        layer = network.get_submodule(path) if path else None
        if type(layer) is not nn.Sigmoid:
            _refuse(network)
        layer.__class__ = WideSigmoid  # it has no state, and may stand in several places
    if _rounded_by(network, size):
        _refuse(network)


def _refuse(network: nn.Module) -> NoReturn:
    raise ValueError(
        f"network {type(network).__name__} rounds its output (domain 'unit') to bfloat16: what "
        "comes out near 1 is 1, so where it is most wrong nothing would be learned; end it in "
        "nn.Sigmoid as a layer of its own, or in torch.sigmoid(x.float()), or set precision to fp32"
    )


def _rounded_by(network: nn.Module, size: tuple[int, int]) -> list[str]:
    """Paths of the layers whose rounded result the output comes from, with no weights in between;
    "" for what no layer did. Empty: it is not rounded."""
    probe, _ = copy_of(network)
    made: dict[Any, str] = {}

    def remember(path: str, output: Any) -> None:
        if isinstance(output, Tensor):
            made[output.grad_fn] = path

    with ExitStack() as hooks, generators_kept(probe), autocast(_device(probe), "bf16"):
        for path, module in probe.named_modules():
            if type(module) is nn.Sigmoid:
                hook = partial(lambda path, *of: remember(path, of[2]), path)
                hooks.callback(module.register_forward_hook(hook).remove)
        output = forward(probe, pictures(2, size, probe))
    nodes = [
        node for node in _squashing(output.grad_fn) if node._saved_result.dtype == torch.bfloat16
    ]
    found = [made.get(node, "") for node in nodes]
    return found or [""] * (output.dtype == torch.bfloat16)


def _squashing(last: Any) -> Iterator[Any]:
    """The sigmoids and their like that stand last in a graph, before anything with weights."""
    waiting, seen = [last], {None}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        name = type(node).__name__
        if name.startswith(_SQUASHING):
            yield node
        elif not _WEIGHING.match(name):
            waiting += [before for before, _ in node.next_functions]


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
