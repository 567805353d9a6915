"""Backgrounds of the playground: rooms and landscapes with boxes, their exact depth and classes.

Everything is written as inverse depth along the ray of a pixel's centre: a plane n.p = o is seen at
1/Z = (n.d) / o, and the nearest surface is the largest value, so a room is a maximum over planes.
Each pixel is painted once, by the surface that its centre shows, in that surface's own metres; its
depth and its class are that surface's too, so all three have their edges in the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wdtrain.scenes.camera import Camera
from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.keyed import generator
from wdtrain.scenes.scene_classes import class_id
from wdtrain.scenes.textures import Texture, any_palette, draw_colours

SKY_DEPTH_M = 1000.0
_LEAST_ROOM_M = 3.3  # the widest figure must fit in front of the back wall


@dataclass(frozen=True)
class Background:
    """rgb: float32 [size, size, 3] in 0..1; depth: float32 [size, size] in metres.

    labels: uint8 [size, size], ids of `scene_classes.CLASSES`.
    """

    camera: Camera
    rgb: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    haze: np.ndarray
    haze_per_m: float
    kind: str

    def hazed(self, rgb: np.ndarray, alpha: np.ndarray, depth_m: float) -> np.ndarray:
        """Premultiplied colours [h, w, 3] as they look through `depth_m` metres of this air."""
        clear = np.float32(math.exp(-depth_m * self.haze_per_m))
        through: np.ndarray = rgb * clear + alpha[..., None] * (self.haze * (1 - clear))
        return through


@dataclass(frozen=True)
class _Surface:
    """Where it is seen (bool [h, w]), its texture, its light, and two axes (unit vectors)."""

    seen: np.ndarray
    texture: Texture
    light: float
    axes: tuple[tuple[float, float, float], tuple[float, float, float]]
    normal: tuple[float, float, float]


def build_background(seed: int, number: int, size: int, difficulty: Difficulty) -> Background:
    """Background `number` of this seed: the same scene at every size."""
    rng = generator("background", seed, number)
    camera = _draw_camera(rng, size, difficulty.camera_spread)
    kind = "room" if rng.random() < 0.6 else "landscape"
    scene = _Scene(rng, camera, difficulty)
    if kind == "room":
        scene.add_room()
    else:
        scene.add_landscape()
    lane = scene.free_lane()
    for _ in range(int(rng.integers(0, difficulty.most_boxes + 1))):
        scene.add_box(lane)
    return scene.painted(kind)


def _draw_camera(rng: np.random.Generator, size: int, spread: float) -> Camera:
    focal, height, horizon = (float(draw) for draw in rng.uniform(-1, 1, 3) * spread)
    return Camera(
        size=size,
        focal_px=size * 0.95 * math.exp(0.12 * focal),
        height_m=1.25 * math.exp(0.22 * height),
        horizon_row=size * (0.38 + 0.20 * horizon),
    )


class _Scene:
    """A picture being built: inverse depth, classes and, per surface, the pixels that show it."""

    def __init__(self, rng: np.random.Generator, camera: Camera, difficulty: Difficulty) -> None:
        self.rng, self.camera, self.difficulty = rng, camera, difficulty
        across, down = camera.rays()
        self.dx, self.dy = across[None, :], down[:, None]
        self.inverse = np.full((camera.size, camera.size), 1 / SKY_DEPTH_M, np.float32)
        self.runner_up = self.inverse.copy()
        self.labels = np.full(self.inverse.shape, class_id("sky"), np.uint8)
        self.surfaces: list[_Surface] = []
        self.near_m = camera.ground_depth(camera.size)
        self.back_m = max(
            _LEAST_ROOM_M * rng.uniform(1.0, 1.25), self.near_m * math.exp(rng.uniform(0.5, 1.8))
        )
        self.enclosed = False

    def _show(self, name: str, inverse: np.ndarray, **surface: object) -> None:
        """Add a surface of the class `name`, seen where it is the nearest so far."""
        seen = inverse > self.inverse
        self.runner_up = np.where(seen, self.inverse, np.maximum(self.runner_up, inverse))
        self.inverse = np.where(seen, inverse, self.inverse)
        self.labels[seen] = class_id(name)
        self.surfaces.append(_Surface(seen=seen, **surface))  # type: ignore[arg-type]

    def add_room(self) -> None:
        """Floor, ceiling, two side walls and a back wall, turned about the vertical."""
        rng, height = self.rng, self.camera.height_m
        turn = rng.uniform(-0.5, 0.5) * self.difficulty.camera_spread
        cos, sin = math.cos(turn), math.sin(turn)
        top = max(rng.uniform(2.2, 3.6), height + 0.5) - height
        wall = Texture.draw(rng, "wall")
        planes = [
            ("floor", (0, 1, 0), height, rng.uniform(0.85, 1.1), Texture.draw(rng, "floor")),
            ("ceiling", (0, -1, 0), top, rng.uniform(0.95, 1.2), Texture.draw(rng, "ceiling")),
            ("wall", (sin, 0.0, cos), self.back_m, rng.uniform(0.8, 1.1), wall),
            ("wall", (-cos, 0.0, sin), rng.uniform(1.5, 3.8), rng.uniform(0.65, 0.9), wall),
            ("wall", (cos, 0.0, -sin), rng.uniform(1.5, 3.8), rng.uniform(0.8, 1.05), wall),
        ]
        for name, normal, offset, light, texture in planes:
            level = normal[1] != 0
            self._show(
                name,
                (normal[0] * self.dx + normal[1] * self.dy + normal[2]) / np.float32(offset),
                texture=texture,
                light=light,
                normal=normal,
                axes=((cos, 0, -sin), (sin, 0, cos) if level else (0, 1, 0))
                if level
                else ((normal[2], 0, -normal[0]), (0, 1, 0)),
            )
        self.enclosed = True

    def add_landscape(self) -> None:
        """A ground plane to the horizon, one to three ridges, and the sky behind."""
        rng = self.rng
        self._show(
            "ground",
            self.dy / np.float32(self.camera.height_m) + 0 * self.dx,
            texture=Texture.draw(rng, "ground", coarse=1.5),
            light=1.0,
            normal=(0.0, 1.0, 0.0),
            axes=((1, 0, 0), (0, 0, 1)),
        )
        ridge_m = self.back_m
        for _ in range(int(rng.integers(1, 4))):
            waves = rng.uniform((0.5, 0.0), (4.0, 6.3), (3, 2))
            line = sum(np.sin(rate * ridge_m * self.dx + phase) / rate for rate, phase in waves)
            top = rng.uniform(0.02, 0.2) + 0.08 * line
            self._show(
                "ridge",
                np.where(-self.dy < top, np.float32(1 / ridge_m), np.float32(0)),
                texture=Texture.draw(rng, "ridge", coarse=2.0),
                light=rng.uniform(0.7, 1.1),
                normal=(0.0, 0.0, 1.0),
                axes=((1, 0, 0), (0, 1, 0)),
            )
            ridge_m *= rng.uniform(1.4, 2.2)

    def free_lane(self) -> float:
        """The X / Z where one sees farthest: boxes keep off it, so that a figure finds a place."""
        level = np.abs(self.dy[:, 0]).argmin()
        columns = np.flatnonzero(self.inverse[level] <= self.inverse[level].min() * 1.001)
        lane = float(self.dx[0, columns[int(self.rng.integers(len(columns)))]])
        return float(np.clip(lane, 0.5 * self.dx[0, 0], 0.5 * self.dx[0, -1]))

    def add_box(self, lane: float) -> None:
        """An upright box on the ground, by the slab method (Kay and Kajiya 1986).

        None is added where it would stand in the free lane.
        """
        rng, height = self.rng, self.camera.height_m
        half = rng.uniform(0.12, 0.45, 2)
        nearest_m = self.near_m + float(np.hypot(*half))  # leaves the nearest ground free
        depth_m = nearest_m + rng.uniform(0.1, max(0.9 * self.back_m - nearest_m, 0.5))
        side_m = rng.uniform(-0.6, 0.6) * depth_m * self.camera.size / self.camera.focal_px
        if abs(side_m - lane * depth_m) < 0.25 * depth_m + float(np.hypot(*half)):
            return
        tall = rng.uniform(0.3, 1.5)
        turn = rng.uniform(-0.8, 0.8)
        cos, sin = math.cos(turn), math.sin(turn)
        origin = (-(cos * side_m - sin * depth_m), -(sin * side_m + cos * depth_m))
        slabs = [
            _slab(origin[0], cos * self.dx - sin, float(half[0])),
            _slab(-(height - tall / 2), self.dy, tall / 2),
            _slab(origin[1], sin * self.dx + cos, float(half[1])),
        ]
        shape = self.inverse.shape
        enters = np.stack([np.broadcast_to(near, shape) for near, _ in slabs])
        leaves = np.minimum(np.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
        nearest = enters.max(axis=0)
        hit = (nearest < leaves) & (nearest > 0.2)
        face = enters.argmax(axis=0)
        texture = Texture.draw(rng, any_palette(rng), coarse=0.6)
        lights = rng.uniform((0.65, 1.0, 0.8), (0.9, 1.2, 1.1))
        frame = ((cos, 0.0, -sin), (0.0, 1.0, 0.0), (sin, 0.0, cos))
        for axis in range(3):
            inverse = np.where(hit & (face == axis), 1 / np.maximum(nearest, 0.2), 0)
            self._show(
                "box",
                inverse.astype(np.float32),
                texture=texture,
                light=float(lights[axis]),
                normal=frame[axis],
                axes=(frame[(axis + 1) % 3], frame[(axis + 2) % 3]),
            )

    def painted(self, kind: str) -> Background:
        """The finished picture: every surface painted, lit, and seen through the air."""
        rng, size = self.rng, self.camera.size
        depth = 1 / self.inverse
        haze = draw_colours(rng, "sky", contrast=0.0)[0]
        sky = draw_colours(rng, "sky", contrast=rng.uniform(0.02, 0.1))
        blend = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
        rgb = np.broadcast_to(sky[0] * (1 - blend) + sky[1] * blend, (size, size, 3)).copy()
        lamp = (rng.uniform(-1.5, 1.5), -1.0, rng.uniform(0.3, 0.9) * self.back_m)
        hidden = np.zeros((size, size), bool)
        for surface in reversed(self.surfaces):
            shown = surface.seen & ~hidden
            hidden |= shown
            if shown.any():
                rgb[shown] = self._paint(surface, shown, depth[shown], lamp)
        if self.enclosed:
            seam = 1 - self.runner_up / self.inverse
            rgb *= (1 - 0.35 * np.exp(-seam / 0.05))[..., None]
        haze_per_m = rng.uniform(0.03, 0.06)
        clear = np.exp(-np.minimum(depth, 30) * np.float32(haze_per_m))[..., None]
        rgb = np.clip(rgb * clear + haze * (1 - clear), 0, 1).astype(np.float32)
        return Background(self.camera, rgb, depth, self.labels, haze, haze_per_m, kind)

    def _paint(
        self, surface: _Surface, shown: np.ndarray, depth: np.ndarray, lamp: tuple[float, ...]
    ) -> np.ndarray:
        rows, columns = np.nonzero(shown)
        dx, dy = self.dx[0, columns], self.dy[rows, 0]
        points = (dx * depth, dy * depth, depth)
        s, t = (sum(a * p for a, p in zip(axis, points, strict=True)) for axis in surface.axes)
        nx, ny, nz = surface.normal
        slant = np.abs(nx * dx + ny * dy + nz) / np.sqrt(dx * dx + dy * dy + 1)
        metre_px = self.camera.focal_px / depth * np.maximum(slant, 0.05)
        finest_px = self.difficulty.finest_texture * self.camera.size
        away = sum((p - q) ** 2 for p, q in zip(points, lamp, strict=True))
        light = surface.light * (0.9 + 0.35 * np.exp(-away / 8.0))
        rgb: np.ndarray = surface.texture.paint(s, t, metre_px / finest_px) * light[:, None]
        return rgb


def _slab(origin: float, direction: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """(entry, exit) depths of rays through the slab |x| < half, seen from `origin`."""
    safe = np.where(np.abs(direction) < 1e-6, np.float32(1e-6), direction)
    one, two = (-half - origin) / safe, (half - origin) / safe
    return np.minimum(one, two), np.maximum(one, two)
