"""The playground: endless labelled scenes without a download, with exact depth.

`backgrounds` x `cutouts` x {as is, mirrored} x `placements` scenes, of which `count` are taken in a
keyed order, without repetition; every triple is a pure function of (settings, index).
The surprise: backgrounds and figures are drawn once and kept, as in a kit of pictures. A `count`
above the product gets more placements; `fresh` gives each scene parts of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wdtrain.fields import DepthFormat, Field, FieldError, Sample, triple_of
from wdtrain.fields.mask import FOREGROUND
from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.figures import TALLEST, Figure, build_figure
from wdtrain.scenes.finishing import cast_shadow, develop
from wdtrain.scenes.keyed import generator
from wdtrain.scenes.pasting import Layer, Spot, paste, visible_fraction
from wdtrain.scenes.product import Product, Scene, Shelf, shelf_places
from wdtrain.scenes.rooms import Background, build_background
from wdtrain.scenes.scene_classes import LABELS, label_map

LEAST_VISIBLE_SHARE = 0.6
SMALLEST_SIZE = 16
_DRAWS = 24


class Playground:
    """A source of `count` procedural triples of size x size pixels.

    difficulty: 0 (plain) to 1 (hard). backgrounds, cutouts: how many there are; if not given, one
    background for ten triples (100 to 1,000) and one figure for fifty (100 to 400), so that a
    network meets enough rooms to learn what rooms are. Depth is metric, 0.5 to 20 m, exact up to
    its 8 bits; what is farther, the sky too, has the largest code. labels: there is a fourth field,
    the class of each pixel (`scene_classes.LABELS`); the others stay what they are. Memory: up to
    0.5 GiB of parts.
    """

    def __init__(
        self,
        count: int,
        size: int = 64,
        *,
        difficulty: float = 0.5,
        seed: int = 0,
        backgrounds: int | None = None,
        cutouts: int | None = None,
        placements: int = 20,
        fresh: bool = False,
        labels: bool = False,
    ) -> None:
        if count < 1 or size < SMALLEST_SIZE:
            raise ValueError(
                f"count is {count} and size {size}; at least 1 scene of {SMALLEST_SIZE} pixels "
                "is needed"
            )
        self.size, self.seed = size, seed
        self.knob, self.difficulty = difficulty, Difficulty.of(difficulty)
        self.depth_format = DepthFormat(kind="metric")
        self.fields: tuple[Field, ...] = triple_of(self.depth_format)
        if labels:
            self.fields += (LABELS,)
        self._count = count
        self._product = None if fresh else _product(count, backgrounds, cutouts, placements, seed)
        self._backgrounds = Shelf(self._background, shelf_places(21 * size * size))
        self._figures = Shelf(self._figure, shelf_places(50 * size * size))

    @property
    def description(self) -> dict[str, Any]:
        """What the scenes depend on: two playgrounds with the same description are the same."""
        product = self._product
        parts = {} if product is None else product.describe()
        labels = {"labels": True} if LABELS in self.fields else {}
        return {
            "name": "playground",
            "version": 1,
            "count": self._count,
            "size": self.size,
            "difficulty": self.knob,
            "seed": self.seed,
            "fresh": product is None,
            **parts,
            **labels,
        }

    def __len__(self) -> int:
        return self._count

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(background, cut-out) ids of int64 indices, each int64 [n]."""
        if self._product is None:
            numbers = np.asarray(indices, np.int64)
            return numbers, numbers.copy()
        return self._product.parts(indices)

    def key(self, index: int) -> str:
        return f"playground-{index:09d}"

    def load(self, index: int) -> Sample:
        """Triple `index`; its overlay is uint8 [size, size, 3], already through a JPEG."""
        scene = self._scene(index)
        background = self._backgrounds[scene.background]
        figure = self._figures[scene.cutout]
        rng = generator(
            "scene", self.seed, scene.background, scene.cutout, int(scene.flip), scene.placement
        )
        spot, rows = self._find_spot(rng, background, figure, flip=scene.flip)
        camera = background.camera
        distance = camera.ground_depth(spot.top + rows)
        rgb, depth = background.rgb.copy(), background.depth.copy()
        layer = self._dress(rng, background, figure, figure.sized(rows, flip=scene.flip), distance)
        cast_shadow(rgb, depth, spot, layer.alpha.shape, distance)
        mask = paste(rgb, depth, layer, spot)
        meta = {
            "background": f"bg-{scene.background:04d}",
            "cutout": f"fg-{scene.cutout:04d}",
            "flip": scene.flip,
            "placement": scene.placement,
            "scene": background.kind,
            "figure": figure.kind,
            "contact_row": spot.top + rows,
            "left": spot.left,
            "pixel_height": rows,
            "figure_height_m": round(rows * distance / camera.focal_px, 4),
            "distance_m": round(distance, 4),
            "focal_px": round(camera.focal_px, 4),
            "camera_height_m": round(camera.height_m, 4),
            "horizon_row": round(camera.horizon_row, 4),
        }
        overlay = develop(rng, rgb, self.difficulty)
        arrays = {"overlay": overlay, "mask": mask, "depth": self.depth_format.encode(depth)}
        if LABELS in self.fields:
            arrays[LABELS.name] = label_map(background.labels, mask)
        return Sample(self.key(index), arrays, meta)

    def _scene(self, index: int) -> Scene:
        if self._product is None:
            if not 0 <= index < self._count:
                raise IndexError(f"index {index} is outside 0..{self._count - 1}")
            flip = generator("flip", self.seed, index).random() < 0.5
            return Scene(index, index, bool(flip), 0)
        return self._product.scene(index)

    def _background(self, number: int) -> Background:
        return build_background(self.seed, number, self.size, self.difficulty)

    def _figure(self, number: int) -> Figure:
        return build_figure(self.seed, number, self.size, self.difficulty)

    def _find_spot(
        self, rng: np.random.Generator, background: Background, figure: Figure, *, flip: bool
    ) -> tuple[Spot, int]:
        """(where, how many rows tall): the first draw that shows enough of the figure.

        When no draw does, the ground is searched, near to far and left to right.
        """
        camera, size = background.camera, self.size
        tallest = TALLEST * min(1.0, figure.cover.shape[0] / figure.cover.shape[1])
        shortest = self.difficulty.least_height * tallest
        draws = rng.uniform((shortest, 0.0), (tallest, 1.0), (_DRAWS, 2))
        for wanted, across in (*draws, *_search(tallest)):
            contact = round(min(camera.contact_row(figure.height_m, wanted * size), size))
            rows = round(camera.pixel_height(figure.height_m, contact))
            alpha = figure.sized(max(rows, 4), flip=flip)[0][..., 0]
            rows, width = alpha.shape
            spot = Spot(contact - rows, round(across * (size - 0.6 * width) - 0.2 * width))
            seen = visible_fraction(alpha, camera.ground_depth(contact), background.depth, spot)
            if seen >= LEAST_VISIBLE_SHARE and alpha.max() * 255 >= FOREGROUND:
                return spot, rows
        raise FieldError(
            f"no place for the {figure.kind} figure is free in this {background.kind}: less than "
            f"{LEAST_VISIBLE_SHARE:.0%} of it would be seen anywhere; use another seed"
        )

    def _dress(
        self,
        rng: np.random.Generator,
        background: Background,
        figure: Figure,
        drawing: tuple[np.ndarray, np.ndarray],
        distance: float,
    ) -> Layer:
        """The figure as a layer: its colours, blended with the background's, lit and hazed."""
        rows, columns = rng.integers(self.size // 3, self.size, (2, 4))
        behind = background.rgb[rows, columns].reshape(2, 2, 3).mean(1)
        middle = figure.colours.reshape(2, 2, 3).mean(1)
        shift = self.difficulty.camouflage * (behind - middle)
        colours = np.clip(figure.colours + shift.repeat(2, axis=0), 0, 1)
        cover, light = drawing
        alpha = cover[..., 0]
        relief = cover[..., 1] / np.maximum(alpha, 1e-3)
        tall_m = cover.shape[0] * distance / background.camera.focal_px
        lit = np.minimum(light @ colours, alpha[..., None])
        return Layer(
            rgb=background.hazed(lit, alpha, distance),
            alpha=alpha,
            depth=(distance - relief * tall_m).astype(np.float32),
        )


def _product(
    count: int, backgrounds: int | None, cutouts: int | None, placements: int, seed: int
) -> Product:
    """The product with what was not asked for filled in, and enough placements for `count`."""
    if backgrounds is None:
        backgrounds = min(max(100, count // 10), 1000)
    if cutouts is None:
        cutouts = min(max(100, count // 50), 400)
    if placements < 1:
        raise ValueError(f"placements is {placements}; a scene needs at least 1 of them")
    needed = math.ceil(count / (2 * max(1, backgrounds * cutouts)))
    return Product(
        backgrounds=backgrounds,
        cutouts=cutouts,
        placements=max(placements, needed),
        count=count,
        seed=seed,
    )


def _search(tallest: float) -> list[tuple[float, float]]:
    """(pixel height as a share of the picture, place from left to right): the last resort."""
    across = np.linspace(0, 1, 13)
    return [
        (height * tallest, place)
        for height in (1.4, 1.2, 1.0, 0.8, 0.6, 0.4, 0.25)
        for place in across
    ]
