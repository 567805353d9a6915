"""Does a network keep the laws of the step? Tried out on a copy, before anything is trained.

Layers that PyTorch knows are replaced by `prepare.py`; what a network does in a forward of its own
can only be watched. `check_network` lets two norm groups of noise through in training mode, a few
times, and refuses a network that draws chance, lets groups see each other or keeps state, naming
the layer. The surprise: chance is found by the global generators having moved, not by the output,
so that a layer which drops one sample in a thousand does not get away with it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, takewhile
from typing import Any, Final, Literal, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.groups import Context
from wdtrain.learn.norm import GroupedBatchNorm2d
from wdtrain.learn.out_of_memory import is_out_of_memory

GROUPS: Final = (2, 3)
"""Samples of the two norm groups of a trial, unequal so that neither is taken for the other."""
_FIRST, _SECOND = slice(0, GROUPS[0]), slice(-GROUPS[1], None)
_OTHER_SHAPE: Final = 30.0
"""How much more rounding is allowed where a pass has other rows, and so perhaps other kernels."""

Fault = Literal["chance", "mixing", "state"]
_FAULTS: Final[dict[Fault, str]] = {
    "chance": "draws chance of its own; on another rank, in another micro-batch or after a restart "
    "it would draw otherwise, so training could not be repeated; use nn.Dropout, nn.Dropout1d, "
    "nn.Dropout2d or nn.Dropout3d as layers, which are keyed by sample, in place of F.dropout, "
    "random paths, or the dropout that attention and recurrent layers bring along",
    "mixing": "lets samples of different norm groups see each other; the result would depend on "
    "the micro-batch and on the number of ranks; use nn.BatchNorm2d as a layer, or nn.GroupNorm, "
    "and let nothing else reach over the batch axis",
    "state": "keeps state of its own from pass to pass in training; it would differ from rank to "
    "rank, and a repeated pass would count twice; keep state out of forward, but for the "
    "statistics of nn.BatchNorm2d",
}


def check_network(network: nn.Module, context: Context, *, size: tuple[int, int]) -> None:
    """The network may be trained: what it gives for a group follows from weights, group and key.

    network: as `prepare_network` leaves it, in any mode, on its device; context: what that
    returned; size: height and width of the pictures that it will be given. Raises ValueError naming
    the layer that draws chance, mixes norm groups or keeps state, or saying that the output is not
    [n, channels, height, width]. Costs a copy of the weights and three forwards of at most five
    pictures; network, gradients and global generators are left as they were.
    """
    probe, own = copy_of(network, context)
    first, second = (pictures(rows, size, probe, seed=rows) for rows in GROUPS)
    other = _unlike(second, first)
    both = _Question(torch.cat((first, second)), (0, 1))
    beside_other = _Question(torch.cat((first, other)), (0, 1))
    alone = _Question(other, (1,))
    with torch.no_grad(), generators_kept(probe):
        trial = _Trial(probe, own)
        a, b = trial.answer(both), trial.answer(beside_other)
        if not _alike(a[_FIRST], b[_FIRST]):
            if _alike(a[_FIRST], trial.answer(both)[_FIRST]):
                trial.refuse("mixing", trial.place(both, beside_other, _FIRST))
            trial.refuse_changes(network)
            trial.refuse("state", trial.place(both, both, _FIRST))
        if not _alike(b[_SECOND], trial.answer(alone), _OTHER_SHAPE):
            trial.refuse("mixing", trial.place(beside_other, alone, _SECOND))
        trial.refuse_changes(network)


# ---------------------------------------------------------------------------- dry passes


def copy_of(network: nn.Module, context: Context | None = None) -> tuple[nn.Module, Context]:
    """A copy in training mode with a closed context of its own, whose statistics go nowhere."""
    if next(network.parameters(), None) is None:
        raise ValueError(
            f"network {type(network).__name__} has no parameters, so nothing could be learned; "
            "name a network that has some"
        )
    probe, own = copy.deepcopy((network, context or Context()))
    for module in probe.modules():
        if isinstance(module, GroupedBatchNorm2d):
            module.pending = None
        if isinstance(module, GroupedBatchNorm2d | KeyedDropout):
            module.context.close()
    return probe.train(), own


def pictures(rows: int, size: tuple[int, int], network: nn.Module, *, seed: int = 0) -> Tensor:
    """Noise [rows, 3, height, width], laid out as in training, that this network can take."""
    like = next(network.parameters())
    noise = torch.randn((rows, 3, *size), generator=torch.Generator().manual_seed(seed))
    return noise.to(like.device, like.dtype, memory_format=torch.channels_last)


def _unlike(group: Tensor, beside: Tensor) -> Tensor:
    """Pictures in place of a group's that must show in `beside`, if they are seen there at all.

    By other statistics, for normalisation; by likeness, for attention, which overlooks noise.
    """
    near = beside[:1] + 0.3 * group[:1]
    return torch.cat((3 * beside[:1] + 1, -beside[1:2], near, group))[: len(group)]


def forward(network: nn.Module, picture: Tensor) -> Tensor:
    """The output [n, channels, height, width]; ValueError where it is another, or none."""
    name, shape = type(network).__name__, tuple(picture.shape)
    try:
        output = network(picture)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"network {name} cannot take pictures of shape {shape}: {str(error).splitlines()[0]}; "
            "every batch would end so; mend the network, or bring the data to a size that it takes "
            "(data.size)"
        ) from error
    is_float = isinstance(output, Tensor) and output.is_floating_point()
    if is_float and output.dim() == 4 and output.shape == (shape[0], output.shape[1], *shape[2:]):
        return cast(Tensor, output)
    kind = output.dtype if isinstance(output, Tensor) else f"a {type(output).__name__}"
    found = tuple(output.shape) if is_float else kind
    raise ValueError(
        f"network {name} gives {found} for pictures of shape {shape}; no loss could compare it "
        f"with what it learns; give back a float tensor ({shape[0]}, CHANNELS, {shape[2]}, "
        f"{shape[3]})"
    )


def output_channels(network: nn.Module, size: tuple[int, int]) -> int:
    """Of a network that `check_network` has passed: found by a dry pass of two pictures."""
    probe, _ = copy_of(network)
    with torch.no_grad(), generators_kept(probe):
        return forward(probe, pictures(2, size, probe)).shape[1]


@contextmanager
def generators_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards the global generators of Python, numpy and torch are as they were."""
    device = next(network.parameters()).device
    python, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)


def _generators(device: torch.device) -> tuple[Any, ...]:
    """The state of every global generator that a network could draw from, to be compared."""
    _, words, *rest = np.random.get_state()
    torchs = [torch.random.get_rng_state()]
    if device.type == "cuda":
        torchs.append(torch.cuda.get_rng_state(device))
    drawn = b"".join(state.numpy().tobytes() for state in torchs)
    return drawn, random.getstate(), np.asarray(words).tobytes(), *rest


# ---------------------------------------------------------------------------- passes


@dataclass(frozen=True)
class _Question:
    """Pictures of the groups (indices into `GROUPS`) that a network is given."""

    picture: Tensor
    groups: tuple[int, ...]


LayerPlace = tuple[str, str]
"""Path of the layer in whose forward something arises, and a word on where within it."""


class _Trial:
    """A network that is asked, and watched where an answer is not as it must be."""

    def __init__(self, network: nn.Module, context: Context) -> None:
        self.network, self.context = network, context
        self.device = next(network.parameters()).device

    def answer(self, question: _Question) -> Tensor:
        """The network's output; ValueError if it draws chance.

        A generator that moves once, and not again while the layers are watched, was moved by
        another thread of the process.
        """
        before = _generators(self.device)
        output = self._pass(question)
        if _generators(self.device) != before:
            place = _place_of_drawing(self._watched(question))
            if place is not None:
                self.refuse("chance", place)
        return output

    def place(self, one: _Question, other: _Question, rows: slice) -> LayerPlace:
        """Where the answers to two questions part, in rows that should not tell them apart."""
        return _place_of_parting(self._watched(one), self._watched(other), rows)

    def refuse(self, fault: Fault, place: LayerPlace) -> NoReturn:
        """Raises ValueError: there is this fault at this place."""
        path, detail = place
        layer = type(self.network.get_submodule(path)).__name__
        network = type(self.network).__name__
        where = f"layer {path!r} ({layer}) of network {network}" if path else f"network {network}"
        raise ValueError(f"{where}{detail} {_FAULTS[fault]}")

    def refuse_changes(self, network: nn.Module) -> None:
        """ValueError if the answers have changed a buffer or parameter from that of `network`."""
        before = dict(chain(network.named_parameters(), network.named_buffers()))
        for name, tensor in chain(self.network.named_parameters(), self.network.named_buffers()):
            if name not in before or not torch.equal(tensor, before[name]):
                path, _, own = name.rpartition(".")
                self.refuse("state", (path, f" (in its {own!r})"))

    def _pass(self, question: _Question) -> Tensor:
        rows = [GROUPS[group] for group in question.groups]
        starts = [sum(GROUPS[:group]) for group in question.groups]
        self.context.open(rows, [0] * len(rows), starts)
        try:
            return forward(self.network, question.picture)
        finally:
            self.context.close()

    def _watched(self, question: _Question) -> list[_Call]:
        """The calls of all layers for an answer, in the order in which they end."""
        rows, begun, ended = len(question.picture), list[_Call](), list[_Call]()

        def begin(path: str, args: Any, kwargs: Any) -> None:
            given = _fingerprint((args, kwargs), rows)
            began = len(begun) + len(ended)
            begun.append(_Call(path, began, given, _generators(self.device)))

        def end(output: Any) -> None:
            call = begun.pop()
            call.gave, call.after = _fingerprint(output, rows), _generators(self.device)
            ended.append(call)

        with ExitStack() as hooks:
            for path, module in self.network.named_modules():
                on_begin = partial(lambda path, _, args, kwargs: begin(path, args, kwargs), path)
                handle = module.register_forward_pre_hook(on_begin, with_kwargs=True)
                hooks.callback(handle.remove)
                hooks.callback(module.register_forward_hook(lambda *of: end(of[2])).remove)
            self._pass(question)
        return ended


# ---------------------------------------------------------------------------- where it arises


@dataclass(eq=False)
class _Call:
    """One forward of a layer: what it was given and gave by sample, and the generators around.

    began: how many calls had begun before.
    """

    path: str
    began: int
    given: Tensor | None
    before: tuple[Any, ...]
    gave: Tensor | None = None
    after: tuple[Any, ...] = ()


def _place_of_drawing(calls: list[_Call]) -> LayerPlace | None:
    """The innermost layer in whose forward a global generator first moved; None if none did."""
    for call in calls:
        if call.before != call.after:
            return _place(call, [c for c in calls if c.before != call.before])
    return None


def _place_of_parting(mine: list[_Call], its: list[_Call], rows: slice) -> LayerPlace:
    """The innermost layer that first gave another result for these rows, given the same."""
    pairs = list(takewhile(lambda pair: pair[0].path == pair[1].path, zip(mine, its, strict=False)))
    past = [a for a, b in pairs if _differ(a.given, b.given, rows)]
    for a, b in pairs:
        if a not in past and _differ(a.gave, b.gave, rows):
            return _place(a, past)
    return "", ""  # seen in the output alone


def _place(call: _Call, past: list[_Call]) -> LayerPlace:
    """A call's layer, and the first within it of those that began when all was over."""
    stem = f"{call.path}." if call.path else ""
    inner = [c for c in past if c.began > call.began and c.path.startswith(stem)]
    if not inner:
        return call.path, ""
    return call.path, f" (before its layer {min(inner, key=lambda c: c.began).path!r})"


def _fingerprint(values: Any, rows: int) -> Tensor | None:
    """float64 [rows, 3k]: of what belongs to each sample in k tensors, the norm and two weighted
    sums; None if no tensor shows it.

    A tensor whose first axis holds whole samples, one or several entries each, shows it.
    """
    found = []
    for tensor in _tensors(values):
        if (
            tensor.is_floating_point()
            and tensor.dim()
            and tensor.numel()
            and not len(tensor) % rows
        ):
            each = tensor.detach().view(rows, -1, *tensor.shape[1:])
            axes = tuple(range(1, each.dim()))
            found.append(torch.linalg.vector_norm(each, dim=axes, dtype=torch.float64))
            # Weights like noise: sums with smooth ones are much alike for pictures much alike.
            place = torch.arange(1, each.shape[-1] + 1, device=each.device).square()
            noise = [weights.to(each.dtype) for weights in (place.cos(), place.sin())]
            found += [(each * weights).sum(axes, dtype=torch.float64) for weights in noise]
    return torch.stack(found, 1) if found else None


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from chain.from_iterable(map(_tensors, values.values()))
    elif isinstance(values, list | tuple):
        yield from chain.from_iterable(map(_tensors, values))


def _differ(mine: Tensor | None, its: Tensor | None, rows: slice) -> bool:
    """Whether what is known of these rows differs, beyond rounding."""
    if mine is None or its is None:
        return mine is not its
    pairs = zip(mine[rows].float(), its[rows].float(), strict=True)
    return mine.shape[1:] != its.shape[1:] or not all(_alike(*pair, _OTHER_SHAPE) for pair in pairs)


def _alike(a: Tensor, b: Tensor, allowed: float = 1.0) -> bool:
    """Equal up to the square root of the type's precision, times `allowed`, of the largest."""
    largest = a.abs().nan_to_num().max().item()
    tolerance = allowed * torch.finfo(a.dtype).eps ** 0.5 * largest
    return torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)
