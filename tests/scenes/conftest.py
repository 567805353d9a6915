"""A small kit of pictures, drawn here: no test needs pictures from elsewhere."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


def draw_background(number: int, size: int = 80) -> np.ndarray:
    """A light wall over a dark floor, BGR; the wall's foot at 60 % to 75 % of the height."""
    rng = np.random.default_rng([1, number])
    picture = np.empty((size, size, 3), np.uint8)
    foot = round(size * (0.60 + 0.15 * rng.random()))
    picture[:foot], picture[foot:] = rng.integers(170, 230, 3), rng.integers(40, 110, 3)
    return picture


def draw_cutout(number: int) -> np.ndarray:
    """An ellipse on a transparent ground, BGRA, with a soft edge and a margin."""
    rng = np.random.default_rng([2, number])
    height, width = (int(side) for side in rng.integers(30, 70, 2))
    alpha = np.zeros((height + 6, width + 6), np.uint8)
    middle, axes = (width // 2 + 3, height // 2 + 3), (width // 2, height // 2)
    cv2.ellipse(alpha, middle, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    colour = np.broadcast_to(rng.integers(0, 255, 3).astype(np.uint8), (*alpha.shape, 3))
    return np.dstack([colour, alpha])


def write_kit(folder: Path, *, backgrounds: int, cutouts: int) -> tuple[Path, Path]:
    """(backgrounds' folder, cut-outs' folder)."""
    places = folder / "bg", folder / "fg"
    for place in places:
        place.mkdir(parents=True)
    for number in range(backgrounds):
        cv2.imwrite(str(places[0] / f"bg{number:03d}.png"), draw_background(number))
    for number in range(cutouts):
        cv2.imwrite(str(places[1] / f"fg{number:03d}.png"), draw_cutout(number))
    return places


@pytest.fixture
def kit(tmp_path: Path) -> tuple[Path, Path]:
    """(backgrounds, cut-outs): 5 and 4 pictures."""
    return write_kit(tmp_path / "kit", backgrounds=5, cutouts=4)
