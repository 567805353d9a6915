"""Dropout that is a function of (seed, epoch, group, layer): not of rank, micro-batch or retry.

The masks are raw 16-bit random words, one an element, read as bfloat16 and turned into 0 or 1 by
one vectorised kernel (that of the backward of `threshold`), with no pass to make uniform floats or
booleans of them. On the CPU the words come from SFC64 (numpy), on a GPU from its own generator: the
masks of the two differ, those of two machines of a kind do not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from wdtrain.learn.groups import Context, Groups, keyed

_WORDS = 1 << 16
_MINUS_INFINITY = 0x7F80
"""Magnitude bits of infinity in bfloat16: larger ones are NaN, which is never below a threshold."""
_NEGATIVES = _MINUS_INFINITY + 1
"""How many of the 65,536 words are a number with the sign bit set (minus zero included)."""


class KeyedDropout(nn.Module):
    """Zeroes each element (or, `channelwise`, each channel of a sample) with probability `p`.

    What stays is scaled by 1 / (1 - p), p being rounded to 1 / 65,536. Identity in evaluation;
    plain dropout from the global generator where no step is open. A layer that a network passes
    several times drops the same each time: calls are not counted, since a forward that is
    repeated in the backward (activation checkpointing) must drop what it dropped before.
    """

    def __init__(
        self, p: float = 0.5, *, channelwise: bool = False, context: Context, layer: str
    ) -> None:
        super().__init__()
        if not 0.0 <= p <= 0.99:
            raise ValueError(f"dropout of layer {layer!r} is {p}; it must be within 0 to 0.99")
        self.p, self.channelwise = p, channelwise
        self._threshold = _threshold(p)
        self.context, self.layer = context, layer

    def extra_repr(self) -> str:
        return f"p={self.p}, channelwise={self.channelwise}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        groups = self.context.groups
        if groups is None:
            plain = nn.functional.dropout2d if self.channelwise else nn.functional.dropout
            return plain(x, self.p)
        groups.check(len(x), self.layer)
        # 1 / (1 - p) is not a number in bfloat16: as a scalar it is kept in float32, and only the
        # product is rounded, here and in the backward.
        return (x * self._kept(x, groups)).mul_(self._threshold[1])

    def _kept(self, x: Tensor, groups: Groups) -> Tensor:
        """0 or 1 for each element; drawn channels last whatever the layout of `x`."""
        space = [1] * (x.dim() - 2) if self.channelwise else list(x.shape[2:])
        size = math.prod(space) * x.shape[1]
        assert self.context.seeds is not None
        words = keyed_words(self.context.seeds, self.layer, list(groups.rows), size, x)
        noise = words.view(torch.bfloat16)
        kept: Tensor = torch.ops.aten.threshold_backward(
            torch.ones((), dtype=x.dtype, device=x.device), noise.to(x.dtype), self._threshold[0]
        )
        return kept.view(len(x), *space, x.shape[1]).movedim(-1, 1)


@torch.library.custom_op("wdtrain::keyed_words", mutates_args=())
def keyed_words(seeds: Tensor, layer: str, rows: list[int], size: int, like: Tensor) -> Tensor:
    """int16 [sum of rows x size] of random bits on the device of `like`: of each group by its key
    (seeds int64 [groups, 2], on the host) and the layer. One opaque operation to a compiler."""
    keys = [seeds[group].numpy().tobytes() for group in range(len(rows))]
    words = [
        _random_words(count * size, keyed(key, layer), like.device)
        for count, key in zip(rows, keys, strict=True)
    ]
    return words[0] if len(words) == 1 else torch.cat(words)


@keyed_words.register_fake
def _(seeds: Tensor, layer: str, rows: list[int], size: int, like: Tensor) -> Tensor:
    return torch.empty(sum(rows) * size, dtype=torch.int16, device=like.device)


def _threshold(p: float) -> tuple[float, float]:
    """(t, scale): a random word read as bfloat16 is <= t with probability p; scale 1 / (1 - p)."""
    dropped = round(p * _WORDS)
    if dropped <= _NEGATIVES:
        bits, sign = _MINUS_INFINITY + 1 - dropped, -1.0
    else:
        bits, sign = dropped - _NEGATIVES - 1, 1.0
    magnitude = torch.tensor(bits, dtype=torch.int16).view(torch.bfloat16).item()
    return sign * magnitude, _WORDS / (_WORDS - dropped)


def _random_words(count: int, key: bytes, device: torch.device) -> Tensor:
    """int16 [count] of random bits that depend on the key and the kind of device alone."""
    if device.type == "cpu":
        source = np.random.SFC64(int.from_bytes(key, "little"))
        return torch.from_numpy(source.random_raw(-(-count // 4)).view(np.int16)[:count])
    words = torch.empty(count, dtype=torch.int16, device=device)
    if device.type == "meta":  # shapes without data, by which memory is estimated
        return words
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return words.random_(-_WORDS // 2, _WORDS // 2, generator=generator)
