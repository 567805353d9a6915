"""Pictures of what a network does: grids of input | truth | prediction | error, with captions.

Pure numpy and OpenCV, RGB uint8 throughout. Depth is coloured by a perceptual map, near bright and
far dark; unknown depth is grey. A mask's error shows the input darkened with hits green, misses
blue and false alarms red; a depth's error is the absolute difference, blue to yellow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from wdtrain.disk.durable import write_whole

COLUMNS = ("input", "truth", "prediction", "error")
UNKNOWN_COLOUR = (128, 128, 128)
LARGEST_ERROR = 0.25
"""Unit depth difference that is drawn in the brightest colour of a depth's error."""

_TILE_PX = 144
_GAP_PX = 6
_CAPTION_PX = 20
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_HIT, _MISS, _FALSE_ALARM = (60, 190, 90), (50, 110, 250), (235, 60, 50)


@dataclass(frozen=True)
class Example:
    """One sample of a grid.

    overlay: uint8 [h, w, 3]. truth, prediction: float [h, w], a mask's probability or unit depth;
    NaN in the truth is unknown. score: printed beside the key, e.g. "IoU 0.61".
    """

    key: str
    overlay: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    kind: Literal["mask", "depth"]
    score: str = ""


def colour_depth(unit: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of unit depth [h, w], 0 near to 1 far; NaN is grey."""
    return _coloured(1.0 - unit, cv2.COLORMAP_INFERNO)


def colour_error(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of the absolute difference of unit depths; unknown is grey."""
    return _coloured(np.abs(prediction - truth) / LARGEST_ERROR, cv2.COLORMAP_CIVIDIS)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3], black to white, of probabilities [h, w]; NaN is grey."""
    grey = np.rint(np.clip(np.nan_to_num(mask), 0, 1) * 255).astype(np.uint8)
    return _greyed(np.repeat(grey[..., None], 3, 2), mask)


def colour_mask_error(overlay: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]: the input, darkened; hits green, misses blue, false alarms red."""
    picture = (overlay.astype(np.float32) * 0.35).astype(np.uint8)
    inside, found = truth >= 0.5, prediction >= 0.5
    for region, colour in (
        (inside & found, _HIT), (inside & ~found, _MISS), (~inside & found, _FALSE_ALARM)
    ):  # fmt: skip
        picture[region] = 0.4 * picture[region] + 0.6 * np.array(colour)
    return _greyed(picture, truth)


def tiles(example: Example) -> list[np.ndarray]:
    """The four pictures of an example, uint8 [h, w, 3] each, in the order of `COLUMNS`."""
    truth, prediction = example.truth, example.prediction
    if example.kind == "mask":
        error = colour_mask_error(example.overlay, truth, prediction)
        return [example.overlay, colour_mask(truth), colour_mask(prediction), error]
    error = colour_error(truth, prediction)
    return [example.overlay, colour_depth(truth), colour_depth(prediction), error]


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


def _coloured(values: np.ndarray, colour_map: int) -> np.ndarray:
    codes = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    picture = cv2.cvtColor(cv2.applyColorMap(codes, colour_map), cv2.COLOR_BGR2RGB)
    return _greyed(picture, values)


def _greyed(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    picture[np.isnan(values)] = UNKNOWN_COLOUR
    return picture


def _row(example: Example) -> np.ndarray:
    pictures = [_magnified(picture) for picture in tiles(example)]
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
