"""Figures of the playground: two-legged, four-legged and chair-like, made of capsules.

A figure is drawn once, at the largest size that it can have, in premultiplied channels: alpha, the
relief (how far a point stands out towards the camera), and the light that falls on each of its four
colours. Smaller figures are that drawing, shrunk by area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.keyed import generator
from wdtrain.scenes.textures import any_palette, draw_colours

FIGURE_KINDS = ("two-legged", "four-legged", "chair-like")
TALLEST = 0.72
"""The largest pixel height of a figure, as a fraction of the picture's size."""

_LIGHT = np.array([-0.42, -0.5, 0.76], np.float32)
_Joint = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """A figure as drawn, largest size; `sized` gives it smaller.

    cover: float32 [h, w, 2], alpha and alpha x relief (a share of the figure's height);
    light: float32 [h, w, 4], alpha x the light on each colour; colours: float32 [4, 3] RGB 0..1.
    """

    cover: np.ndarray
    light: np.ndarray
    colours: np.ndarray
    height_m: float
    kind: str

    def sized(self, rows: int, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        """(cover, light), `rows` pixels tall."""
        columns = max(1, round(self.cover.shape[1] * rows / self.cover.shape[0]))
        cover, light = (
            cv2.resize(layers, (columns, rows), interpolation=cv2.INTER_AREA)
            for layers in (self.cover, self.light)
        )
        return (cover[:, ::-1], light[:, ::-1]) if flip else (cover, light)


@dataclass(frozen=True)
class _Capsule:
    """A segment with a radius at each end, in units of the figure; `front` shifts it forward."""

    start: _Joint
    end: _Joint
    radii: tuple[float, float]
    front: float = 0.0
    material: int = 0


def build_figure(seed: int, number: int, size: int, difficulty: Difficulty) -> Figure:
    """Figure `number` of this seed, drawn for pictures of `size` pixels."""
    rng = generator("figure", seed, number)
    kind = FIGURE_KINDS[int(rng.integers(len(FIGURE_KINDS)))]
    draw = {"two-legged": _two_legged, "four-legged": _four_legged, "chair-like": _chair_like}
    capsules, (low, high) = draw[kind](rng)
    contrast = difficulty.cloth_contrast
    colours = np.concatenate(
        [draw_colours(rng, any_palette(rng), contrast=contrast) for _ in range(2)]
    )
    cover, light = _render(capsules, max(8, round(TALLEST * size)), _Cloth.draw(rng))
    return Figure(
        cover=cover,
        light=light,
        colours=colours,
        height_m=float(rng.uniform(low, high)),
        kind=kind,
    )


def _two_legged(rng: np.random.Generator) -> tuple[list[_Capsule], tuple[float, float]]:
    girth = rng.uniform(1.0, 1.5)
    shoulder, hip = 0.10 * girth, 0.06 * girth
    lean = rng.uniform(-0.04, 0.04)
    parts = [
        _Capsule((lean, 0.31), (0, 0.52), (0.125 * girth, 0.105 * girth)),
        _Capsule((lean * 1.4, 0.09), (lean * 1.4, 0.11), (0.085, 0.08), 0.01, 1),
    ]
    for side in (-1, 1):
        stride = side * rng.uniform(0.03, 0.15)
        knee = (side * hip + 0.6 * stride, 0.74)
        elbow = (lean + side * (shoulder + rng.uniform(0.04, 0.13)), rng.uniform(0.38, 0.46))
        hand = (elbow[0] + rng.uniform(-0.08, 0.1) * side, elbow[1] + rng.uniform(-0.12, 0.14))
        thigh, arm = 0.075 * girth, 0.05 * girth
        parts += [
            _Capsule((side * hip, 0.55), knee, (thigh, 0.8 * thigh), 0.0, 1),
            _Capsule(knee, (side * hip + stride, 0.95), (0.8 * thigh, 0.6 * thigh), 0.0, 1),
            _Capsule((lean + side * shoulder, 0.27), elbow, (1.2 * arm, arm), 0.05),
            _Capsule(elbow, hand, (arm, 0.8 * arm), 0.08),
        ]
    return parts, (1.2, 1.9)


def _four_legged(rng: np.random.Generator) -> tuple[list[_Capsule], tuple[float, float]]:
    length, girth = rng.uniform(0.30, 0.5), rng.uniform(0.17, 0.23)
    back = rng.uniform(0.38, 0.46)
    head = (-length - rng.uniform(0.12, 0.25), rng.uniform(0.1, 0.3))
    parts = [
        _Capsule((-length, back), (length, back + 0.02), (girth, 1.05 * girth)),
        _Capsule((-length, back - 0.08), head, (0.11, 0.09)),
        _Capsule(head, (head[0] - 0.12, head[1] + 0.06), (0.11, 0.07), 0.03, 1),
        _Capsule((length, back), (length + 0.22, back + 0.2), (0.04, 0.03), 0.0, 1),
    ]
    for x in (-length, length):
        for front in (0.08, -0.08):
            foot = x + rng.uniform(-0.1, 0.1)
            parts.append(_Capsule((x, back + 0.1), (foot, 0.95), (0.075, 0.05), front, 1))
    return parts, (0.7, 1.4)


def _chair_like(rng: np.random.Generator) -> tuple[list[_Capsule], tuple[float, float]]:
    half, seat = rng.uniform(0.24, 0.38), rng.uniform(0.5, 0.62)
    slant, plump = rng.uniform(-0.08, 0.08), rng.uniform(0.07, 0.11)
    top = rng.uniform(0.08, 0.14)
    parts = [_Capsule((-half, seat), (half, seat), (plump, plump), 0.12)]
    parts += [
        _Capsule((x + slant, top), (x, seat), (plump, plump), 0.0, 1)
        for x in np.linspace(-half, half, int(rng.integers(2, 5)))
    ]
    for x in (-half, half):
        splay = rng.uniform(0.0, 0.08)
        parts.append(_Capsule((x, seat), (x + math.copysign(splay, x), 0.95), (0.055, 0.045), 0.12))
        if rng.random() < 0.6:
            rest = seat - rng.uniform(0.14, 0.2)
            parts.append(_Capsule((x, rest), (x * 1.08, rest + 0.05), (0.06, 0.06), 0.15))
    return parts, (0.75, 1.3)


@dataclass(frozen=True)
class _Cloth:
    """The fine pattern that a figure wears: stripes along or around the limbs, or checks."""

    kind: int
    period: float  # of the figure's height

    @staticmethod
    def draw(rng: np.random.Generator) -> _Cloth:
        return _Cloth(int(rng.integers(3)), float(rng.uniform(0.075, 0.105)))

    def weave(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Values 0..1; `along` and `across` a limb in units of the figure's height."""
        turn = np.float32(2 * math.pi / self.period)
        wave = (
            np.sin(turn * along),
            np.sin(turn * across),
            np.sin(turn * 0.8 * along) * np.sin(turn * 0.8 * across) * 1.3,
        )[self.kind]
        return np.clip(0.5 + 0.9 * wave, 0, 1)


def _render(capsules: list[_Capsule], rows: int, cloth: _Cloth) -> tuple[np.ndarray, np.ndarray]:
    """(cover, light) of a Figure: the capsules, scaled so that they are exactly `rows` tall."""
    ends = [(p, r) for c in capsules for p, r in zip((c.start, c.end), c.radii, strict=True)]
    left, right = min(p[0] - r for p, r in ends), max(p[0] + r for p, r in ends)
    top, bottom = min(p[1] - r for p, r in ends), max(p[1] + r for p, r in ends)
    pixel = (bottom - top) / rows
    columns = math.ceil((right - left) / pixel)
    x = (left + (np.arange(columns, dtype=np.float32) + 0.5) * pixel)[None, :]
    y = (top + (np.arange(rows, dtype=np.float32) + 0.5) * pixel)[:, None]
    alpha = np.zeros((rows, columns), np.float32)
    front = np.full((rows, columns), -9.0, np.float32)
    light, weave, material = (np.zeros((rows, columns), np.float32) for _ in range(3))
    for capsule in capsules:
        cover, relief, lit, woven = _draw_capsule(capsule, x, y, pixel, cloth)
        alpha = np.maximum(alpha, cover)
        nearer = (cover > 0) & (relief > front)
        for layer, value in ((front, relief), (light, lit), (weave, woven)):
            np.copyto(layer, value, where=nearer)
        material[nearer] = capsule.material
    light *= alpha / max(float((light * alpha).sum() / alpha.sum()), 1e-3)
    upper, lower = light * (1 - material), light * material
    shades = [upper * (1 - weave), upper * weave, lower * (1 - weave), lower * weave]
    relief = np.maximum(front, 0) / (bottom - top) * alpha
    return np.stack([alpha, relief], axis=-1), np.stack(shades, axis=-1)


def _draw_capsule(
    capsule: _Capsule, x: np.ndarray, y: np.ndarray, pixel: float, cloth: _Cloth
) -> tuple[np.ndarray, ...]:
    """(coverage, relief, light, weave) of one capsule over the whole drawing, float32 [h, w]."""
    (ax, ay), (bx, by) = capsule.start, capsule.end
    dx, dy = bx - ax, by - ay
    length = math.hypot(dx, dy) or 1e-6
    share = np.clip(((x - ax) * dx + (y - ay) * dy) / length**2, 0, 1)
    radius = capsule.radii[0] + share * (capsule.radii[1] - capsule.radii[0])
    off_x, off_y = (x - ax - share * dx) / radius, (y - ay - share * dy) / radius
    off = np.sqrt(off_x**2 + off_y**2)
    cover = np.clip((1 - off) * radius / pixel + 0.5, 0, 1)
    bulge = np.sqrt(np.clip(1 - off**2, 0, 1))
    lit = 0.55 + 0.6 * np.maximum(off_x * _LIGHT[0] + off_y * _LIGHT[1] + bulge * _LIGHT[2], 0)
    along = ((x - ax) * dx + (y - ay) * dy) / length
    across = ((x - ax) * dy - (y - ay) * dx) / length
    return cover, capsule.front + radius * bulge, lit, cloth.weave(along, across)
