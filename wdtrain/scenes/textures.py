"""Colours and surface textures of the playground, in metres on the surface.

Floors, walls and skies have palettes of their own. Boxes and figures borrow any of them, as often
as they fill a picture: else a colour threshold could tell figures from backgrounds. A texture
fades out where its period would fall under a few pixels, so that far surfaces do not alias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
TEXTURE_KINDS = ("tiles", "planks", "bricks", "waves", "plain")


@dataclass(frozen=True)
class Palette:
    """Range of luminance, the middle tint, how far tints stray from it; share of a picture."""

    luminance: tuple[float, float]
    tint: tuple[float, float, float]
    stray: float
    share: float


PALETTES = {
    "sky": Palette((0.55, 0.85), (-0.06, 0.0, 0.12), 0.08, 0.15),
    "ceiling": Palette((0.60, 0.85), (0.0, 0.0, 0.0), 0.08, 0.10),
    "wall": Palette((0.35, 0.75), (0.0, 0.0, 0.0), 0.20, 0.30),
    "floor": Palette((0.25, 0.60), (0.06, 0.0, -0.08), 0.12, 0.20),
    "ground": Palette((0.25, 0.60), (-0.02, 0.05, -0.10), 0.12, 0.15),
    "ridge": Palette((0.25, 0.60), (-0.02, 0.03, 0.0), 0.12, 0.10),
}


def any_palette(rng: np.random.Generator) -> str:
    """The name of a palette, drawn as often as it fills pictures."""
    shares = np.array([palette.share for palette in PALETTES.values()])
    return tuple(PALETTES)[int(np.searchsorted(shares.cumsum() / shares.sum(), rng.random()))]


def draw_colours(rng: np.random.Generator, name: str, *, contrast: float) -> np.ndarray:
    """Two RGB colours, float32 [2, 3] in 0..1, whose luminance differs by 2 x `contrast`."""
    palette = PALETTES[name]
    middle = rng.uniform(*palette.luminance)
    tint = (palette.tint + rng.uniform(-palette.stray, palette.stray, (2, 3))).astype(np.float32)
    tint -= (tint @ _LUMINANCE)[:, None]
    swing = contrast * (1 if rng.random() < 0.5 else -1)
    levels = np.array([middle - swing, middle + swing], np.float32)
    colours: np.ndarray = np.clip(levels[:, None] + tint, 0.02, 0.98)
    return colours


@dataclass(frozen=True)
class Texture:
    """A two-colour pattern: its kind, colours float32 [2, 3], period in metres, phase, turn."""

    kind: str
    colours: np.ndarray
    period_m: float
    phase: tuple[float, float]
    turn: float
    strength: float

    @staticmethod
    def draw(rng: np.random.Generator, palette: str, *, coarse: float = 1.0) -> Texture:
        """A texture with a period of 0.3 to 1.2 m times `coarse`."""
        return Texture(
            kind=TEXTURE_KINDS[int(rng.integers(len(TEXTURE_KINDS)))],
            colours=draw_colours(rng, palette, contrast=rng.uniform(0.06, 0.22)),
            period_m=float(rng.uniform(0.3, 1.2)) * coarse,
            phase=(float(rng.uniform(0, 9)), float(rng.uniform(0, 9))),
            turn=float(rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)])),
            strength=float(rng.uniform(0.6, 1.0)),
        )

    def paint(self, s: np.ndarray, t: np.ndarray, finest: np.ndarray) -> np.ndarray:
        """RGB float32 [n, 3] at surface points (s, t) in metres.

        finest: [n], how many of the finest periods that may be seen a metre covers there; the
        pattern fades out where its own period is shorter.
        """
        wave = self._pattern(s / self.period_m + self.phase[0], t / self.period_m + self.phase[1])
        seen = np.clip((finest * self.period_m - 1.0) / 0.8, 0.0, 1.0)
        weight = 0.5 + 0.5 * self.strength * seen * wave
        first, second = self.colours
        painted: np.ndarray = first + weight[:, None] * (second - first)
        return painted

    def _pattern(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Values in -1..1 of the pattern with period 1."""
        wave = np.zeros_like(s)
        tau = np.float32(2 * math.pi)
        if self.kind == "tiles":
            wave = np.clip(4 * np.sin(tau * s) * np.sin(tau * t), -1, 1)
        elif self.kind == "planks":
            board = np.floor(s).astype(np.int64) * 2654435761 >> 12 & 255
            wave = board.astype(np.float32) / np.float32(127.5) - 1
        elif self.kind == "bricks":
            row = np.floor(t)
            joint = np.minimum(np.abs(t - row - 0.5), np.abs((s * 0.5 + 0.5 * row) % 1 - 0.5))
            wave = np.clip((joint - 0.12) * 12, -1, 1)
        elif self.kind == "waves":
            cos, sin = math.cos(self.turn), math.sin(self.turn)
            along = s * cos + t * sin
            wave = np.sin(tau * along + 1.7 * np.sin(tau * 0.37 * (t * cos - s * sin)))
        return wave
