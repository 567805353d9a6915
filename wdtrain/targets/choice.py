"""A loss by name, or by import path, for what a network learns and what its output means.

One of your own is a function (output [n, c, h, w], wanted, valid [n, 1, h, w], **options) -> [n],
or a class whose instances are called so; it is tried on noise before anything is trained, since a
loss that mixes samples would let the gradient depend on the micro-batch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from wdtrain.settings import imported
from wdtrain.targets.base import LossFunction, Target, Truth

_SAMPLES: Final = 4
_SIZE: Final = (16, 16)


@dataclass(frozen=True)
class Loss:
    """A loss that fits outputs of `domain`; call it with (output, wanted, valid) -> [n]."""

    name: str
    domain: str
    function: LossFunction = field(repr=False)

    def __call__(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return self.function(output, target, valid)


def build_loss(
    name: str, domain: str, target: Target, options: Mapping[str, Any] | None = None
) -> Loss:
    """The loss `name` of a target, for a network whose output is of `domain`.

    name: of `target.losses`, or "package.module:function" or ":Class"; options: keyword arguments
    of it. Raises ValueError for a name that does not exist, for a loss on the wrong activation, for
    options that it does not take, and for one that cannot be trained by.
    """
    options = dict(options or {})
    if ":" in name:
        loss = Loss(name, domain, _own(name, options))
        check_loss(loss, target)
        return loss
    loss = Loss(name, domain, partial(_ours(name, domain, target), **options))
    if options:
        check_loss(loss, target)
    return loss


def _ours(name: str, domain: str, target: Target) -> LossFunction:
    losses = target.losses
    kind = f"{target.name} ({target.field.kind})"
    if name not in losses:
        close = difflib.get_close_matches(name, losses, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"loss {name!r} does not exist for {kind}; {hint}known: {', '.join(losses)}, or "
            "'package.module:function' for one of your own"
        )
    if domain not in losses[name]:
        fitting = [other for other, domains in losses.items() if domain in domains]
        choices = f"for this network choose one of: {', '.join(fitting)}"
        raise ValueError(
            f"loss {name!r} was put on a network whose output is {domain!r}; for {kind} it is "
            f"defined for {' and '.join(losses[name])}, so its values would mean nothing; "
            + (choices if fitting else "choose another network")
        )
    return losses[name][domain]


def _own(path: str, options: Mapping[str, Any]) -> LossFunction:
    found = imported(path, f"loss {path!r}")
    if not callable(found):
        raise ValueError(f"loss {path!r} is a {type(found).__name__}; name a function or a class")
    if not isinstance(found, type):
        return partial(found, **options)
    try:
        made = found(**options)
    except TypeError as error:
        raise ValueError(f"loss {path!r} does not take {dict(options)}: {error}") from error
    if not callable(made):
        raise ValueError(f"loss {path!r} cannot be called; give the class a __call__")
    return made  # type: ignore[no-any-return]


@torch.random.fork_rng(devices=[])
def check_loss(loss: Loss, target: Target) -> None:
    """The loss may be trained by: finite, one number a sample that others do not touch, 0 without a
    gradient for a sample of which nothing is valid, none of an invalid pixel's. ValueError."""
    generator = torch.Generator().manual_seed(0)
    truth = target.truth(target.noise(_SAMPLES, _SIZE, generator))
    valid = truth.valid * (torch.rand(truth.valid.shape, generator=generator) < 0.7)
    valid[-1] = 0.0
    truth = Truth(truth.wanted, valid)
    output = torch.randn((_SAMPLES, target.channels, *_SIZE), generator=generator)
    output = (output if loss.domain == "logits" else output.sigmoid()).requires_grad_()
    losses = _tried(loss, output, truth)
    (gradient,) = torch.autograd.grad(losses.sum(), output, allow_unused=True)
    alone = torch.cat([_tried(loss, output[n : n + 1], truth[n : n + 1]) for n in range(_SAMPLES)])
    if gradient is None or not gradient.isfinite().all() or not losses.isfinite().all():
        _refuse(loss, "gives no finite loss and gradient for outputs of noise")
    if not torch.allclose(losses, alone, rtol=1e-4, atol=1e-6):
        _refuse(
            loss,
            "lets samples see each other, so the gradient would depend on the micro-batch; give "
            "back the mean of each sample's own valid pixels, and average over nothing else",
        )
    if losses[-1] != 0 or gradient[-1].any():
        _refuse(
            loss,
            "does not give 0 for a sample of which no pixel is valid; multiply by `valid`, and "
            "divide by the valid pixels of each sample, at least 1 (losses.mean_over_valid)",
        )
    if gradient.where(valid > 0, 0.0).ne(gradient).any():
        _refuse(loss, "learns from pixels that are not valid; multiply by `valid`")


def _tried(loss: Loss, output: Tensor, truth: Truth) -> Tensor:
    try:
        losses = loss(output, truth.wanted, truth.valid)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        _refuse(loss, f"stops on noise with {str(error).splitlines()[0]!r:.200}", error)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != (len(output),):
        _refuse(loss, f"gives {shape} for {len(output)} samples; one number a sample is needed")
    return losses


def _refuse(loss: Loss, why: str, cause: Exception | None = None) -> Any:
    raise ValueError(f"loss {loss.name!r} on outputs {loss.domain!r} {why}") from cause
