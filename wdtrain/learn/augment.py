"""Augmentation on the device: one affine for overlay, mask and depth, colour on the overlay alone.

What is drawn for a sample is a function of (seed, epoch, key) alone: eight uniform numbers out of
one BLAKE2b digest, about 2 microseconds a sample. Magnification, rotation, crop, flip, colour gains
and the shift of depth are those of Eigen et al. 2014; matrices and normalisation are Kornia's;
mask, depth and validity are read through the same float32 grid. The surprise: depth at the limits
of its format stays there under a zoom, since a code at the far limit means "there or beyond" (the
sky comes no nearer).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from kornia.geometry.conversions import normalize_homography
from kornia.geometry.transform import get_affine_matrix2d
from torch import Tensor

from wdtrain.fields.depth_format import DepthFormat
from wdtrain.targets.truth import (
    Normalisation,
    TargetName,
    TrainingInput,
    depth_target,
    mask_target,
    plain_target,
    unit_overlay,
)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for each of n samples, float64 on the host.

    zoom [n] in 1..1+zoom; angle_deg [n], clockwise; shift [n, 2] (x, y) in -1..1 of the room that
    the magnified picture leaves; flipped [n] bool; gains [n, 3] of the colour channels.
    """

    zoom: np.ndarray
    angle_deg: np.ndarray
    shift: np.ndarray
    flipped: np.ndarray
    gains: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Keyed augmentation of triples; every amount of 0 switches its part off.

    zoom: magnified by up to 1 + zoom; rotation_deg: turned by up to this either way; crop: share
    (0..1) of the room inside the magnified picture that the crop may use; flip: probability of a
    mirror image; colour: each channel of the overlay multiplied by 1 - colour .. 1 + colour.
    """

    seed: int
    zoom: float = 0.5
    rotation_deg: float = 5.0
    crop: float = 1.0
    flip: float = 0.5
    colour: float = 0.2

    def __post_init__(self) -> None:
        limits = {"zoom": 9, "rotation_deg": 180, "crop": 1, "flip": 1, "colour": 1}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"augmentation.{name} is {getattr(self, name)}; it must be within 0 (off) to "
                    f"{limit}"
                )

    @property
    def warps(self) -> bool:
        return bool(self.zoom or self.rotation_deg or self.flip)

    def draw(self, keys: Sequence[str], epochs: Sequence[int]) -> Drawn:
        """The numbers for each sample: a pure function of the seed, its epoch and its key."""
        uniform = _uniform(self.seed, keys, epochs)
        signed = 2 * uniform - 1
        return Drawn(
            zoom=1 + self.zoom * uniform[:, 0],
            angle_deg=self.rotation_deg * signed[:, 1],
            shift=self.crop * signed[:, 2:4],
            flipped=uniform[:, 4] < self.flip,
            gains=1 + self.colour * signed[:, 5:8],
        )

    def __call__(
        self,
        overlay: Tensor,
        stored: Tensor,
        target: TargetName,
        *,
        keys: Sequence[str],
        epochs: Sequence[int],
        normalisation: Normalisation,
        depth_format: DepthFormat,
    ) -> TrainingInput:
        """uint8 overlay [n, 3, h, w], stored mask or depth [n, 1, h, w] -> what is trained on."""
        seen = self.see(
            overlay,
            keys=keys,
            epochs=epochs,
            normalisation=normalisation,
            depth_format=depth_format,
        )
        return TrainingInput(seen.picture, *seen.target(stored, target))

    def see(
        self,
        overlay: Tensor,
        *,
        keys: Sequence[str],
        epochs: Sequence[int],
        normalisation: Normalisation,
        depth_format: DepthFormat,
    ) -> AugmentedBatch:
        """uint8 overlay [n, 3, h, w] -> what networks of any target get to see of it."""
        drawn = self.draw(keys, epochs)
        picture, warp = unit_overlay(overlay), None
        if self.warps:
            warp = Warp(drawn, overlay.shape[2:], overlay.device)
            picture = warp.bilinear(picture)
        return AugmentedBatch(normalisation(self._colour(picture, drawn)), warp, depth_format)

    def _colour(self, picture: Tensor, drawn: Drawn) -> Tensor:
        if not self.colour:
            return picture
        gains = sent(torch.from_numpy(drawn.gains), picture.device)
        # In place, as the picture is our own copy: fresh memory costs more than the arithmetic.
        return picture.mul_(gains[:, :, None, None]).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class AugmentedBatch:
    """Samples as networks see them: the picture, and the warp that their targets go through."""

    picture: Tensor
    warp: Warp | None
    depth_format: DepthFormat

    def target(self, stored: Tensor, target: TargetName) -> tuple[Tensor, Tensor]:
        """(what is compared with, where it is valid); stored: mask or depth [n, 1, h, w]."""
        if self.warp is None:
            return plain_target(stored, target, self.depth_format)
        if target == "mask":
            return self.warp.mask(stored)
        return self.warp.depth(stored, self.depth_format)


def _uniform(seed: int, keys: Sequence[str], epochs: Sequence[int]) -> np.ndarray:
    """float64 [n, 8] in [0, 1): 53 bits of each of the eight words of one digest a sample."""
    digests = b"".join(
        hashlib.blake2b(f"{epoch}/{key}".encode(), key=b"augment %d" % seed).digest()
        for key, epoch in zip(keys, epochs, strict=True)
    )
    words = np.frombuffer(digests, "<u8").reshape(-1, 8)
    return (words >> np.uint64(11)) * 2.0**-53


class Warp:
    """One affine a sample, read through one grid: where each output pixel lies in the input."""

    def __init__(self, drawn: Drawn, size: Sequence[int], device: torch.device) -> None:
        height, width = size
        self.grid = grid_of(sent(affine(drawn, height, width), device), height, width)
        self.log_zoom = sent(torch.from_numpy(np.log(drawn.zoom)), device)
        # Of both coordinates at once; `all` over an axis of two takes twice as long.
        furthest = torch.maximum(self.grid[..., 0].abs(), self.grid[..., 1].abs())
        self.inside = (furthest <= 1.0)[:, None].to(torch.float32)
        """float [n, 1, h, w]: 1 where the pixel comes from within the picture."""

    def bilinear(self, values: Tensor) -> Tensor:
        """Outside the picture: its border, which `inside` keeps out of the loss."""
        return self._read(values, "bilinear")

    def mask(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """(0 or 1 by the nearest pixel, valid)."""
        return self._read(mask_target(stored), "nearest"), self.inside

    def depth(self, stored: Tensor, depth_format: DepthFormat) -> tuple[Tensor, Tensor]:
        """(unit depth as seen after the zoom, clipped to 0..1; valid), of the nearest pixel, which
        the mask is read from too: a mean over an edge is the depth of nothing."""
        codes = self._read(stored.to(torch.float32), "nearest")
        unit, known = depth_target(codes, depth_format)
        valid = self.inside * known
        return zoomed(unit, self.log_zoom, depth_format) * valid, valid

    def _read(self, values: Tensor, mode: str) -> Tensor:
        return F.grid_sample(
            values, self.grid, mode=mode, padding_mode="border", align_corners=False
        )


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """float32 on the device; the host waits for nothing, as it would for what is not pinned."""
    numbers = numbers.to(torch.float32)
    numbers = numbers.pin_memory() if device.type == "cuda" else numbers
    return numbers.to(device, non_blocking=True)


def grid_of(theta: Tensor, height: int, width: int) -> Tensor:
    """[n, 2, 3] -> [n, h, w, 2]: where output pixels lie in the input, as `F.affine_grid` (without
    align_corners) has it, but as two planes: a sixth of its time, and read faster."""
    x, y = (
        (torch.arange(count, dtype=theta.dtype, device=theta.device) + 0.5) * (2 / count) - 1
        for count in (width, height)
    )
    across, down = theta[:, :, :1] * x, theta[:, :, 1:2] * y + theta[:, :, 2:]
    return (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)


def zoomed(unit: Tensor, log_zoom: Tensor, depth_format: DepthFormat) -> Tensor:
    """Unit depth [n, 1, h, w] after a magnification, clipped to 0..1 as the format clips.

    Depth at the far limit of a logarithmic format (half a code around it) stays: it is there or
    beyond.
    """
    shifted: Tensor = depth_format.unit_after_zoom(unit, log_zoom[:, None, None, None])
    shifted = shifted.clamp(0.0, 1.0)
    if not depth_format.is_logarithmic:
        return shifted
    far = 1.0 - 0.5 / (depth_format.max_code - 1)
    return torch.where(unit >= far, unit.clamp(max=1.0), shifted)


def affine(drawn: Drawn, height: int, width: int) -> Tensor:
    """float64 [n, 2, 3] on the host: normalised output coordinates -> normalised input coordinates.

    For `affine_grid` and `grid_sample` with align_corners=False, in which -1..1 is the picture with
    its edge pixels whole.
    """
    zoom = torch.from_numpy(drawn.zoom)
    mirror = torch.from_numpy(np.where(drawn.flipped, -1.0, 1.0))
    room = (zoom - 1)[:, None] * torch.tensor([width / 2, height / 2], dtype=torch.float64)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    forward = get_affine_matrix2d(
        torch.from_numpy(drawn.shift) * room,
        centre.expand(len(zoom), 2),
        torch.stack((zoom * mirror, zoom), dim=1),
        torch.from_numpy(drawn.angle_deg),
    )
    size = (height, width)
    normal = normalize_homography(forward, size, size, align_corners=False)
    inverse: Tensor = torch.linalg.inv(normal)
    return inverse[:, :2]
