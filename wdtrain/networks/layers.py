"""Layers that the networks choose by name, and the sigmoid that they end in.

Both norms have `weight` and `bias` under the same names; BatchNorm alone has running statistics.
"""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor, nn

NORMS = ("batch", "group")
CHANNELS_OF_A_GROUP = 8
"""Channels that GroupNorm (Wu and He 2018) normalises together: it divides every width here, also
where a network is built narrow."""


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The normalisation of [n, channels, h, w] that an option `norm` names.

    "batch": BatchNorm, over a norm group of samples; "group": GroupNorm, over each sample alone, 8
    channels together (the largest common divisor with 8 where 8 does not divide them). ValueError
    for another name.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(channels // math.gcd(channels, CHANNELS_OF_A_GROUP), channels)
    close = difflib.get_close_matches(str(kind), NORMS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"option norm is {kind!r}, which no layer goes by; {hint}it must be one of "
        f"{', '.join(NORMS)}"
    )


def fine_sigmoid(logits: Tensor) -> Tensor:
    """The sigmoid in float32 at least, whatever autocast has made of the logits.

    In bfloat16 it is 1 from a logit of 6.25 on, and then has no gradient.
    """
    half = logits.dtype in (torch.bfloat16, torch.float16)
    return torch.sigmoid(logits.float() if half else logits)


class WideSigmoid(nn.Sigmoid):
    """`nn.Sigmoid` whose result is never rounded to less than float32."""

    def forward(self, logits: Tensor) -> Tensor:
        return fine_sigmoid(logits)
