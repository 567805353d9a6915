"""The seed project's depth network: a U-Net of 7,763,041 parameters that ends in a sigmoid.

Layer names are those of the published state dict of mateuszbuda/brain-segmentation-pytorch (Buda et
al. 2019), so that its weights load; the architecture is that of Ronneberger et al. 2015 with
BatchNorm.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from wdtrain.networks.layers import fine_sigmoid, norm_layer


def _block(in_channels: int, out_channels: int, name: str, *, norm: str) -> nn.Sequential:
    """(Conv3x3 without bias, norm, ReLU) twice, each layer named after its block."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, channels in ((1, in_channels), (2, out_channels)):
        layers[f"{name}conv{number}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers[f"{name}norm{number}"] = norm_layer(norm, out_channels)
        layers[f"{name}relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class SeedUNet(nn.Module):
    """float [n, in_channels, h, w], normalised -> [n, out_channels, h, w]: 0..1, as published, or
    "logits" (`domain`), which classes need.

    Height and width must be divisible by 16. norm: "batch", as published, or "group"
    (`layers.norm_layer`).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        init_features: int = 32,
        norm: str = "batch",
        domain: str = "unit",
    ) -> None:
        super().__init__()
        if domain not in ("unit", "logits"):
            raise ValueError(f"option domain is {domain!r}; seed-unet gives unit or logits")
        self.domain = domain
        block = partial(_block, norm=norm)
        f = init_features
        self.encoder1 = block(in_channels, f, "enc1")
        self.encoder2 = block(f, 2 * f, "enc2")
        self.encoder3 = block(2 * f, 4 * f, "enc3")
        self.encoder4 = block(4 * f, 8 * f, "enc4")
        self.bottleneck = block(8 * f, 16 * f, "bottleneck")
        self.upconv4 = nn.ConvTranspose2d(16 * f, 8 * f, 2, stride=2)
        self.decoder4 = block(16 * f, 8 * f, "dec4")
        self.upconv3 = nn.ConvTranspose2d(8 * f, 4 * f, 2, stride=2)
        self.decoder3 = block(8 * f, 4 * f, "dec3")
        self.upconv2 = nn.ConvTranspose2d(4 * f, 2 * f, 2, stride=2)
        self.decoder2 = block(4 * f, 2 * f, "dec2")
        self.upconv1 = nn.ConvTranspose2d(2 * f, f, 2, stride=2)
        self.decoder1 = block(2 * f, f, "dec1")
        self.conv = nn.Conv2d(f, out_channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[2:]
        if height % 16 or width % 16:
            raise ValueError(
                f"seed-unet was given a picture of {height} x {width}; it halves it four times, so "
                "height and width must be divisible by 16; set data.size to such a pair"
            )
        enc1 = self.encoder1(picture)
        enc2 = self.encoder2(self.pool(enc1))
        enc3 = self.encoder3(self.pool(enc2))
        enc4 = self.encoder4(self.pool(enc3))
        x = self.bottleneck(self.pool(enc4))
        x = self.decoder4(torch.cat((self.upconv4(x), enc4), dim=1))
        x = self.decoder3(torch.cat((self.upconv3(x), enc3), dim=1))
        x = self.decoder2(torch.cat((self.upconv2(x), enc2), dim=1))
        x = self.decoder1(torch.cat((self.upconv1(x), enc1), dim=1))
        output: Tensor = self.conv(x)
        return fine_sigmoid(output) if self.domain == "unit" else output
