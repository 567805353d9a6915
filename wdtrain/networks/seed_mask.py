"""The seed project's mask network: residual full-resolution blocks, 114,624 parameters.

Blocks are Conv3x3-ReLU-BatchNorm-Dropout(0.05) at full resolution; the receptive field is 11 x 11.
The seed project computes a last block whose result it does not use: its 37,056 parameters are kept,
so that the count and the state dict are those of the seed, but it is not run; 77,568 parameters are
live.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from wdtrain.networks.layers import norm_layer


def _block(
    in_channels: int, out_channels: int, *, kernel: int, dropout: float, norm: str
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        norm_layer(norm, out_channels),
        nn.Dropout(dropout),
    )


class SeedMask(nn.Module):
    """float [n, 3, h, w], normalised -> logits [n, out_channels, h, w]. Any height and width.

    norm: "batch" as the seed project has it, or "group" (`layers.norm_layer`).
    """

    domain = "logits"

    def __init__(self, dropout: float = 0.05, norm: str = "batch", out_channels: int = 1) -> None:
        super().__init__()
        block = partial(_block, dropout=dropout, norm=norm)
        self.block1 = block(3, 32, kernel=3)
        self.block2 = block(32, 32, kernel=3)
        self.block3 = block(32, 32, kernel=3)
        self.widen = block(32, 64, kernel=1)
        self.block5 = block(32, 64, kernel=3)
        self.block6 = block(64, 64, kernel=3)
        self.unused = block(64, 64, kernel=3)
        self.head = nn.Conv2d(64, out_channels, 1, bias=False)

    def forward(self, picture: Tensor) -> Tensor:
        x1 = self.block1(picture)
        x2 = self.block2(x1) + x1
        x3 = self.block3(x2) + x2
        x5 = self.block5(x3) + self.widen(x3)
        x6 = self.block6(x5) + x5
        logits: Tensor = self.head(x6)
        return logits
