"""Augmentation on the device: one affine for a picture and all its fields, colour on images alone.

What is drawn for a sample is a function of (seed, epoch, key) alone: eight uniform numbers out of
one BLAKE2b digest, about 2 microseconds a sample. Magnification, rotation, crop, flip, colour gains
and the shift of depth are those of Eigen et al. 2014; matrices and normalisation are Kornia's;
every field and its validity are read through the same float32 grid, each in the way of its kind
(`targets/`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from kornia.geometry.conversions import normalize_homography
from kornia.geometry.transform import get_affine_matrix2d
from torch import Tensor

from wdtrain.config import AugmentSettings
from wdtrain.learn.inputs import Normalisation, unit_picture
from wdtrain.learn.intensity import (
    GroupRows,
    Intensity,
    build_intensities,
    change_intensities,
)
from wdtrain.targets import Target, Truth


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
    """Keyed augmentation of samples; every amount of 0 switches its part off.

    zoom: magnified by up to 1 + zoom; rotation_deg: turned by up to this either way; crop: share
    (0..1) of the room inside the magnified picture that the crop may use; flip: probability of a
    mirror image; colour: each channel of an image multiplied by 1 - colour .. 1 + colour; image:
    further changes of colours, drawn by norm group (`intensity.py`).
    """

    seed: int
    zoom: float = 0.5
    rotation_deg: float = 5.0
    crop: float = 1.0
    flip: float = 0.5
    colour: float = 0.2
    image: tuple[Intensity, ...] = ()

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

    def see(
        self,
        stored: Tensor,
        *,
        keys: Sequence[str],
        epochs: Sequence[int],
        normalisation: Normalisation,
        groups: Sequence[GroupRows] = (),
    ) -> AugmentedBatch:
        """A uint8 image [n, 3, h, w] -> what networks of any target get to see of it; groups: the
        norm groups that the rows are of, which `image` is drawn by."""
        drawn = self.draw(keys, epochs)
        picture, warp = unit_picture(stored), None
        if self.warps:
            warp = GridWarp(drawn, stored.shape[2:], stored.device)
            picture = warp.bilinear(picture)
        picture = self._colour(picture, drawn)
        if self.image:
            picture = change_intensities(self.image, picture, groups, seed=self.seed)
        return AugmentedBatch(normalisation(picture), warp)

    def _colour(self, picture: Tensor, drawn: Drawn) -> Tensor:
        if not self.colour:
            return picture
        gains = sent(torch.from_numpy(drawn.gains), picture.device)
        # In place, as the picture is our own copy: fresh memory costs more than the arithmetic.
        return picture.mul_(gains[:, :, None, None]).clamp_(0.0, 1.0)


def augmentation_of(settings: AugmentSettings, *, seed: int) -> Augmentation:
    """That of a recipe."""
    return Augmentation(
        seed=seed,
        zoom=settings.zoom,
        rotation_deg=settings.rotation_deg,
        crop=settings.crop,
        flip=settings.flip,
        colour=settings.colour,
        image=build_intensities(settings.image),
    )


@dataclass(frozen=True)
class AugmentedBatch:
    """Samples as networks see them: the picture, and the warp that their targets go through."""

    picture: Tensor
    warp: GridWarp | None

    def truth(self, stored: Tensor, target: Target) -> Truth:
        """Of a stored field [n, channels, h, w]."""
        return target.truth(stored) if self.warp is None else target.warped(stored, self.warp)


def _uniform(seed: int, keys: Sequence[str], epochs: Sequence[int]) -> np.ndarray:
    """float64 [n, 8] in [0, 1): 53 bits of each of the eight words of one digest a sample."""
    digests = b"".join(
        hashlib.blake2b(f"{epoch}/{key}".encode(), key=b"augment %d" % seed).digest()
        for key, epoch in zip(keys, epochs, strict=True)
    )
    words = np.frombuffer(digests, "<u8").reshape(-1, 8)
    return (words >> np.uint64(11)) * 2.0**-53


class GridWarp:
    """One affine a sample, read through one grid: where in the input each output pixel is read."""

    def __init__(self, drawn: Drawn, size: Sequence[int], device: torch.device) -> None:
        height, width = size
        self._drawn = drawn
        self.grid = grid_of(sent(affine(drawn, height, width), device), height, width)
        self.log_zoom = sent(torch.from_numpy(np.log(drawn.zoom)), device)
        # Of both coordinates at once; `all` over an axis of two takes twice as long.
        furthest = torch.maximum(self.grid[..., 0].abs(), self.grid[..., 1].abs())
        self.inside = (furthest <= 1.0)[:, None].to(torch.float32)
        """float [n, 1, h, w]: 1 where the pixel comes from within the picture."""

    def bilinear(self, values: Tensor) -> Tensor:
        """Outside the picture: its border, which `inside` keeps out of the loss."""
        return self._read(values, "bilinear")

    def nearest(self, values: Tensor) -> Tensor:
        """Each pixel that of the nearest one: nothing is averaged across an edge."""
        return self._read(values, "nearest")

    @cached_property
    def turn(self) -> Tensor:
        """float32 [n, 2, 2]: what became of directions (x, y) in the picture."""
        return sent(_turns(self._drawn), self.grid.device)

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


def _turns(drawn: Drawn) -> Tensor:
    """float64 [n, 2, 2]: rotation after mirror, clockwise as seen, y down."""
    angle = np.deg2rad(drawn.angle_deg)
    mirror = np.where(drawn.flipped, -1.0, 1.0)
    rows = [[np.cos(angle) * mirror, -np.sin(angle)], [np.sin(angle) * mirror, np.cos(angle)]]
    return torch.from_numpy(np.stack([np.stack(row, 1) for row in rows], 1))
