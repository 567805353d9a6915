"""Depth of a room photo without a model: a floor plane that ends at one back wall.

The foot of the back wall is the row where the picture changes most from one row to the next;
horizon, focal length and camera height are stated, not measured. So the depth is `geometric`:
consistent with itself and with figures that stand on the floor, not ground truth. The numbers are
fractions of the picture's size, in a small JSON that a person can correct.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from wdtrain.scenes.camera import Camera

_ROWS = 160
_SEARCHED = (0.56, 0.86)
_EXPECTED, _SPREAD = 0.66, 0.11


@dataclass(frozen=True, kw_only=True)
class Lift:
    """The geometry of one photo; rows from 0 (top) to 1 (bottom).

    wall: the row of the back wall's foot; horizon: the row of the camera's own height;
    focal: the focal length in picture heights; camera_height_m: in metres.
    """

    wall: float
    horizon: float = 0.48
    focal: float = 0.85
    camera_height_m: float = 1.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int | float):
                raise ValueError(f"{name} is {value!r}; a number is needed")
        if not 0 <= self.horizon < self.wall <= 1:
            raise ValueError(
                f"wall is {self.wall} and horizon {self.horizon}; the wall's foot must lie below "
                "the horizon: 0 <= horizon < wall <= 1"
            )
        if self.focal <= 0 or self.camera_height_m <= 0:
            raise ValueError(
                f"focal is {self.focal} and camera_height_m {self.camera_height_m}; "
                "both must be above 0"
            )

    def camera(self, size: int) -> Camera:
        """The camera of this photo at size x size pixels."""
        return Camera(
            size=size,
            focal_px=self.focal * size,
            height_m=self.camera_height_m,
            horizon_row=self.horizon * size,
        )

    def depth(self, size: int) -> np.ndarray:
        """Metres, float32 [size, size]: the floor at f H / (v - h0), above it the back wall."""
        camera = self.camera(size)
        wall_m = camera.ground_depth(self.wall * size)
        _, down = camera.rays()
        floor_m = np.float32(camera.height_m) / np.maximum(down, np.float32(1e-6))
        column = np.minimum(floor_m, np.float32(wall_m)).astype(np.float32)
        return np.repeat(column[:, None], size, axis=1)


def fit_lift(rgb: np.ndarray) -> Lift:
    """The lift of a photo, uint8 [h, w, 3]: its back wall's foot is the strongest horizontal edge.

    An edge counts more near where feet of walls usually are (two thirds down the picture).
    """
    small = cv2.resize(rgb, (_ROWS, _ROWS), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    window = _ROWS // 32
    sums = np.concatenate([np.zeros((1, _ROWS, 3), np.float32), lab.cumsum(axis=0)])
    rows = np.arange(window, _ROWS - window)
    below = sums[rows + window] - sums[rows]
    above = sums[rows] - sums[rows - window]
    change = np.sqrt((((below - above) / window) ** 2).sum(axis=-1))
    strength = (change * 40 / (change + 40)).mean(axis=1)  # one dark door must not decide
    at = rows / _ROWS
    strength *= np.exp(-0.5 * ((at - _EXPECTED) / _SPREAD) ** 2)
    strength[(at < _SEARCHED[0]) | (at > _SEARCHED[1])] = -1
    return Lift(wall=round(float(at[int(strength.argmax())]), 4))


def read_lifts(path: Path) -> dict[str, Lift]:
    """The lifts in a JSON file, by the background's name; ValueError says what is wrong where."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); correct it") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} holds no object of backgrounds; write {{NAME: {{...}}}}")
    lifts = {}
    for name, numbers in entries.items():
        try:
            lifts[name] = Lift(**numbers)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    return lifts


def lifts_json(lifts: dict[str, Lift]) -> str:
    """The text of such a file, one background a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(asdict(lifts[name]))}" for name in sorted(lifts)]
    return "{\n" + ",\n".join(lines) + "\n}\n"
