"""Whether the numbers of a mask are alpha or labels, as far as they tell.

The soft edge of an alpha is as thin as a pixel, or changes; a label fills an area evenly.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from wdtrain.fields import labels, levels, npy
from wdtrain.fields.base import plane
from wdtrain.fields.levels import Levels

_FULL: Final = 255
_HIGHEST_LABEL: Final = 40
_FIRST_ALPHA: Final = np.uint8(_HIGHEST_LABEL + 1)
_NEAR: Final = 16
"""Values within so many parts of the range from an end are that end, as a JPEG left it."""


def greys_of(data: bytes | np.ndarray, file: str) -> Levels | None:
    """The whole numbers of contents that are taken for alpha by how bright they are; None of others
    (JPEG, alpha channels, floats), which are alpha or were thresholded."""
    if isinstance(data, bytes) and not npy.is_npy(data):
        found = levels.read(data, file=file)
        greys = found.greys() if found.is_exact and found.is_opaque else None
        return greys if greys is not None and greys.full and greys.values.size else None
    array = npy.read_npy(data, file=file) if isinstance(data, bytes) else data
    values = labels.whole(plane(array, file=file)) if array.dtype.kind in "iu" else None
    if values is None or values.min() < 0:
        return None
    return Levels(values.astype(np.uint16), _FULL if values.max() <= _FULL else 65535)


def fills_areas(found: Levels) -> bool:
    """Whether values that are neither near 0 nor near full, as those of JPEGs that were saved as
    PNG are, fill areas evenly: the soft edge of an alpha is as thin as a pixel, or changes."""
    values, near = found.values, found.full // _NEAR
    return bool((_is_even(values) & (values > near) & (values < found.full - near)).any())


def holds_labels(alpha: np.ndarray) -> bool:
    """Whether values are labels with 255 for "leave out", which alpha would turn around."""
    if (alpha - _FIRST_ALPHA < _FULL - _FIRST_ALPHA).any():  # unsigned: above labels, below 255
        return False
    low = (alpha > 0) & (alpha <= _HIGHEST_LABEL)
    if not low.any() or not (alpha == _FULL).any():
        return False
    return bool((_is_even(alpha) & low).any())


def _is_even(values: np.ndarray) -> np.ndarray:
    """bool [h, w]: whether a pixel and all around it have one value."""
    kernel = np.ones((3, 3), np.uint8)
    even: np.ndarray = cv2.erode(values, kernel) == cv2.dilate(values, kernel)
    return even
