"""A contact sheet of stored samples: all their fields side by side, their keys below.

For a person's eye, so small pictures are enlarged by whole factors with hard pixels: what is seen
is what is stored, coloured as the kind of each field is (`preview`).
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

_CELL_PX: Final = 128
_GAP_PX: Final = 6
_CAPTION_PX: Final = 18
_BACKGROUND: Final = 32
_TILES_ACROSS: Final = 9


def contact_sheet(manifest: Manifest, *, split: str, count: int) -> np.ndarray:
    """uint8 [height, width, 3] RGB picture of the first `count` samples of a split."""
    cells: list[np.ndarray] = []
    for _, _, block in walk_blocks(manifest, manifest.split(split)):
        rows_wanted = range(min(block.num_samples, count - len(cells)))
        for row in rows_wanted:  # foreign ones may be of several sizes
            arrays = decode_row(block, row, size=(manifest.height, manifest.width))
            cells.append(_cell(block.keys[row], arrays, manifest))
        if len(cells) == count:
            break
    across = max(1, _TILES_ACROSS // len(manifest.fields))
    blank = np.full_like(cells[0], _BACKGROUND)
    cells += [blank] * (-len(cells) % across)
    rows = [np.hstack(cells[at : at + across]) for at in range(0, len(cells), across)]
    return np.vstack(rows)


def _cell(key: str, arrays: dict[str, np.ndarray], manifest: Manifest) -> np.ndarray:
    """One sample with its caption and a gap around it."""
    pictures = [field.preview(arrays[name]) for name, field in manifest.fields.items()]
    factor = max(1, -(-_CELL_PX // manifest.height))
    large = [picture.repeat(factor, 0).repeat(factor, 1) for picture in pictures]
    strip = np.hstack(large)
    caption = np.full((_CAPTION_PX, strip.shape[1], 3), _BACKGROUND, np.uint8)
    place = (2, _CAPTION_PX - 6)
    cv2.putText(caption, key, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (220, 220, 220), 1, cv2.LINE_AA)
    edges = ((_GAP_PX, 0), (_GAP_PX, _GAP_PX), (0, 0))
    return np.pad(np.vstack([strip, caption]), edges, constant_values=_BACKGROUND)
