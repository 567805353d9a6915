"""Compose triples from a kit of pictures: cut-outs over backgrounds.

n backgrounds x n cut-outs x {as is, mirrored} x k placements: exactly that many, or a keyed sample
of them. A cut-out stands on the floor that the background's lift describes, as tall as perspective
makes it there. With depth `none` it is placed the same way, but every depth is 0: unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wdtrain.fields import DepthFormat, FieldError, Sample, triple_of
from wdtrain.fields.mask import FOREGROUND
from wdtrain.scenes.camera import Camera
from wdtrain.scenes.cutouts import Cutout, prepare_cutout, relief_m
from wdtrain.scenes.keyed import generator
from wdtrain.scenes.kit_pictures import kit_digest, list_pictures, read_background, read_cutout
from wdtrain.scenes.lift import Lift, fit_lift, read_lifts
from wdtrain.scenes.pasting import Layer, Spot, paste, visible_fraction
from wdtrain.scenes.product import Product, Scene, Shelf, shelf_places

LEAST_VISIBLE = 0.6
_DRAWS = 12
_FIT_SIZE = 160


class Composition:
    """A source of triples made from two folders: backgrounds, and cut-outs with alpha.

    depth: "lift" (geometric, metres) or "none" (all unknown); placements: k; count: a sample of
    the product instead of all of it; size: the triples are size x size; lift: a file of corrected
    lifts, background by background. A damaged picture rejects its triples one by one.
    """

    def __init__(
        self,
        backgrounds: Path | str,
        cutouts: Path | str,
        *,
        depth: str = "lift",
        placements: int = 20,
        count: int | None = None,
        size: int = 64,
        seed: int = 0,
        lift: Path | str | None = None,
    ) -> None:
        if depth not in ("lift", "none"):
            raise ValueError(f"depth is {depth!r}; it must be lift or none")
        if size < 16:
            raise ValueError(f"size is {size}; at least 16 pixels are needed")
        self.size, self.seed, self.depth = size, seed, depth
        self.backgrounds = list_pictures(Path(backgrounds), "backgrounds")
        self.cutouts = list_pictures(Path(cutouts), "cutouts")
        self.depth_format = DepthFormat(kind="geometric")
        self.fields = triple_of(self.depth_format)
        self._given = read_lifts(Path(lift)) if lift is not None else {}
        self._product = Product(
            backgrounds=len(self.backgrounds),
            cutouts=len(self.cutouts),
            placements=placements,
            count=count,
            seed=seed,
        )
        self.description = self._describe(lift)
        self._backgrounds = Shelf(self._background, shelf_places(20 * size * size))
        self._cutouts = Shelf(self._cutout, shelf_places(20 * 512 * 512))

    def _describe(self, lift: Path | str | None) -> dict[str, Any]:
        product = self._product
        return {
            "name": "compose",
            "version": 1,
            **product.describe(),
            "backgrounds_digest": kit_digest(self.backgrounds),
            "cutouts_digest": kit_digest(self.cutouts),
            "product": product.size,
            "count": len(product),
            "depth": self.depth,
            "size": self.size,
            "seed": self.seed,
            "lift_digest": None if lift is None else kit_digest([Path(lift)]),
        }

    def __len__(self) -> int:
        return len(self._product)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(background, cut-out) ids of int64 indices, each int64 [n]."""
        return self._product.parts(indices)

    def key(self, index: int) -> str:
        return f"compose-{index:09d}"

    def lifts(self) -> dict[str, Lift]:
        """The geometry of every background that can be read, by its name."""
        found = {}
        for number, path in enumerate(self.backgrounds):
            try:
                found[path.stem] = self._lift(number)
            except FieldError:
                continue  # its triples are rejected, with the reason, when they are loaded
        return found

    def load(self, index: int) -> Sample:
        """Triple `index`; FieldError names the picture that cannot be used, and why."""
        scene = self._product.scene(index)
        photo, floor, lift = self._backgrounds[scene.background]
        cutout = self._cutouts[scene.cutout]
        camera = lift.camera(self.size)
        spot, rows, height_m = self._find_spot(scene, lift, camera, cutout, floor)
        distance = camera.ground_depth(spot.top + rows)
        rgb, alpha, bulge = cutout.sized(rows, flip=scene.flip)
        picture = photo.astype(np.float32) / 255
        depth = floor.copy()
        layer = Layer(rgb, alpha, distance - relief_m(bulge, alpha, height_m))
        mask = paste(picture, depth, layer, spot)
        meta = {
            "background": self.backgrounds[scene.background].stem,
            "cutout": self.cutouts[scene.cutout].stem,
            "flip": scene.flip,
            "placement": scene.placement,
            "contact_row": spot.top + rows,
            "pixel_height": rows,
            "left": spot.left,
            "cutout_height_m": round(height_m, 4),
            "distance_m": round(distance, 4),
            "wall": lift.wall,
            "horizon": lift.horizon,
            "focal": lift.focal,
            "camera_height_m": lift.camera_height_m,
        }
        overlay = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
        codes = self.depth_format.encode(depth)
        if self.depth == "none":
            codes = np.zeros_like(codes)
        arrays = {"overlay": overlay, "mask": mask, "depth": codes}
        return Sample(self.key(index), arrays, meta)

    def _lift(self, number: int) -> Lift:
        path = self.backgrounds[number]
        return self._given.get(path.stem) or fit_lift(read_background(path, _FIT_SIZE))

    def _background(self, number: int) -> tuple[np.ndarray, np.ndarray, Lift]:
        """(photo, its depth in metres, its lift)."""
        photo = read_background(self.backgrounds[number], self.size)
        lift = self._lift(number)
        return photo, lift.depth(self.size), lift

    def _cutout(self, number: int) -> Cutout:
        return prepare_cutout(read_cutout(self.cutouts[number]))

    def _find_spot(
        self, scene: Scene, lift: Lift, camera: Camera, cutout: Cutout, floor: np.ndarray
    ) -> tuple[Spot, int, float]:
        """(where, rows, physical height in metres) of a placement; the last draw always fits."""
        rng = generator(
            "compose", self.seed, scene.background, scene.cutout, int(scene.flip), scene.placement
        )
        size = self.size
        for attempt in range(_DRAWS + 1):
            height_m = cutout.height_m * float(np.exp(rng.uniform(-0.15, 0.15)))
            nearness, across = rng.uniform(0, 1, 2) ** (0.6, 1.0)
            if attempt == _DRAWS:
                nearness, across = 0.0, 0.5
            farthest = lift.wall + 0.03
            contact = round(size * min(1.0, farthest + nearness * (1 - farthest)))
            rows = max(4, round(camera.pixel_height(height_m, contact)))
            alpha = cutout.sized(rows, flip=scene.flip)[1]
            if attempt == _DRAWS and max(alpha.shape) > 0.95 * size:
                rows = max(4, int(rows * 0.95 * size / max(alpha.shape)))
                alpha = cutout.sized(rows, flip=scene.flip)[1]
                height_m = rows * camera.ground_depth(contact) / camera.focal_px
            spot = Spot(contact - rows, round(across * (size - alpha.shape[1])))
            seen = visible_fraction(alpha, camera.ground_depth(contact), floor, spot)
            if seen >= LEAST_VISIBLE and (alpha * 255 >= FOREGROUND).any():
                return spot, rows, height_m
        raise FieldError(
            f"{self.cutouts[scene.cutout].name} finds no place in "
            f"{self.backgrounds[scene.background].name}: less than {LEAST_VISIBLE:.0%} of it would "
            "be seen"
        )
