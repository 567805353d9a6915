"""Grids of pictures: input | truth | prediction | error, with captions.

Pure numpy and OpenCV, RGB uint8 throughout. How truth, prediction and error are coloured, the
targets say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from wdtrain.disk.durable import write_whole

COLUMNS = ("input", "truth", "prediction", "error")

_TILE_PX = 144
_GAP_PX = 6
_CAPTION_PX = 20
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class Example:
    """One sample of a grid.

    pictures: uint8 [h, w, 3] each, in the order of `COLUMNS`; score: printed beside the key, e.g.
    "IoU 0.61".
    """

    key: str
    pictures: tuple[np.ndarray, ...]
    score: str = ""


def picture_grid(examples: Sequence[Example], *, title: str = "") -> np.ndarray:
    """uint8 [height, width, 3]: a row per example, its caption below it, the columns named above.

    Small pictures are magnified by whole factors, so that a pixel stays a pixel.
    """
    if not examples:
        raise ValueError("a grid needs at least one example; none was given")
    rows = [_row(example) for example in examples]
    width = max(row.shape[1] for row in rows)
    tile = (width - _GAP_PX) // len(COLUMNS)
    head = _strip(width)
    for index, name in enumerate(COLUMNS):
        _write(head, name, _GAP_PX + index * tile)
    top = [_strip(width, title)] if title else []
    return np.concatenate([*top, head, *(_padded(row, width) for row in rows)], 0)


def png_of(picture: np.ndarray) -> bytes:
    """PNG of a uint8 [h, w, 3] RGB picture."""
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        raise ValueError(f"a picture of shape {picture.shape} cannot be written as PNG")
    return bytes(data)


def save_png(path: Path | str, picture: np.ndarray) -> None:
    """The RGB picture is at `path`, whole; the folder is made where it is missing."""
    data = png_of(picture)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), data)


def _row(example: Example) -> np.ndarray:
    pictures = [_magnified(picture) for picture in example.pictures]
    height = pictures[0].shape[0]
    gap = np.full((height, _GAP_PX, 3), _PAPER, np.uint8)
    row = np.concatenate([gap, *(part for picture in pictures for part in (picture, gap))], 1)
    caption = f"{example.key}   {example.score}".rstrip()
    return np.concatenate([row, _strip(row.shape[1], caption)], 0)


def _magnified(picture: np.ndarray) -> np.ndarray:
    factor = max(1, round(_TILE_PX / picture.shape[1]))
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)


def _strip(width: int, text: str = "") -> np.ndarray:
    strip = np.full((_CAPTION_PX, width, 3), _PAPER, np.uint8)
    _write(strip, text, _GAP_PX)
    return strip


def _write(strip: np.ndarray, text: str, left_px: int) -> None:
    """ASCII text in the strip; the fonts of OpenCV have no other letters."""
    safe = text.encode("ascii", "replace").decode()
    cv2.putText(strip, safe, (left_px, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)


def _padded(row: np.ndarray, width: int) -> np.ndarray:
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_PAPER[0])
