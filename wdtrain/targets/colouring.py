"""Colours of what networks learn: maps for numbers, a fixed palette for ids, grey for unknown.

numpy and OpenCV, RGB uint8 throughout.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

UNKNOWN_COLOUR: Final = (128, 128, 128)
HIT, MISS, FALSE_ALARM = (60, 190, 90), (50, 110, 250), (235, 60, 50)
_DARKENED, _TINTED = 0.35, 0.6


def coloured(values: np.ndarray, colour_map: int) -> np.ndarray:
    """uint8 [h, w, 3] of values 0..1 [h, w] by one of OpenCV's maps; NaN is grey."""
    codes = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    picture = cv2.cvtColor(cv2.applyColorMap(codes, colour_map), cv2.COLOR_BGR2RGB)
    return greyed(picture, ~np.isnan(values))


def greyed(picture: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The picture, in place, grey where it is not valid (bool [h, w])."""
    if valid is not None:
        picture[~valid] = UNKNOWN_COLOUR
    return picture


def tinted(picture: np.ndarray, *regions: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    """A uint8 picture [h, w, 3], darkened, its regions (bool [h, w]) in their colours."""
    dark = (picture.astype(np.float32) * _DARKENED).astype(np.uint8)
    for region, colour in regions:
        dark[region] = (1 - _TINTED) * dark[region] + _TINTED * np.array(colour)
    return dark


def palette(count: int) -> np.ndarray:
    """uint8 [count, 3]: a colour for each id, those of PASCAL VOC, black for id 0.

    The bits of an id are dealt to the high bits of red, green and blue: the first 256 all differ,
    further ids begin anew.
    """
    ids = np.arange(count) % 256
    colours = np.zeros((count, 3), np.uint8)
    for shift in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= ((ids >> channel & 1) << shift).astype(np.uint8)
        ids = ids >> 3
    return colours
