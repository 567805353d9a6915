"""A contact sheet of stored samples: overlay, mask and depth side by side, their keys below.

For a person's eye, so small pictures are enlarged by whole factors with hard pixels: what is seen
is what is stored. Depth is coloured from near (bright) to far (dark); unknown depth is grey.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row
from wdtrain.store.version1 import depth_of

_CELL_PX: Final = 128
_GAP_PX: Final = 6
_CAPTION_PX: Final = 18
_BACKGROUND: Final = 32
_UNKNOWN: Final = 128
_ACROSS: Final = 3


def contact_sheet(manifest: Manifest, *, split: str, count: int) -> np.ndarray:
    """uint8 [height, width, 3] RGB picture of the first `count` samples of a split."""
    cells: list[np.ndarray] = []
    for _, _, block in walk_blocks(manifest, manifest.split(split)):
        rows_wanted = range(min(block.num_samples, count - len(cells)))
        for row in rows_wanted:
            overlay, mask, depth = decode_row(block, row).values()
            cells.append(_cell(block.keys[row], overlay, mask, depth, manifest))
        if len(cells) == count:
            break
    blank = np.full_like(cells[0], _BACKGROUND)
    cells += [blank] * (-len(cells) % _ACROSS)
    rows = [np.hstack(cells[at : at + _ACROSS]) for at in range(0, len(cells), _ACROSS)]
    return np.vstack(rows)


def depth_tile(codes: np.ndarray, max_code: int) -> np.ndarray:
    """uint8 [h, w, 3] RGB of depth codes [h, w]: near bright, far dark, unknown grey."""
    near = 1.0 - np.clip((codes.astype(np.float32) - 1) / (max_code - 1), 0, 1)
    coloured = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    coloured[codes == 0] = _UNKNOWN
    rgb: np.ndarray = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
    return rgb


def _cell(
    key: str, overlay: np.ndarray, mask: np.ndarray, depth: np.ndarray, manifest: Manifest
) -> np.ndarray:
    """One sample with its caption and a gap around it."""
    pictures = [
        overlay,
        cv2.cvtColor(np.ascontiguousarray(mask), cv2.COLOR_GRAY2RGB),
        depth_tile(depth, depth_of(manifest.fields).max_code),
    ]
    factor = max(1, -(-_CELL_PX // manifest.height))
    large = [picture.repeat(factor, 0).repeat(factor, 1) for picture in pictures]
    strip = np.hstack(large)
    caption = np.full((_CAPTION_PX, strip.shape[1], 3), _BACKGROUND, np.uint8)
    place = (2, _CAPTION_PX - 6)
    cv2.putText(caption, key, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (220, 220, 220), 1, cv2.LINE_AA)
    edges = ((_GAP_PX, 0), (_GAP_PX, _GAP_PX), (0, 0))
    return np.pad(np.vstack([strip, caption]), edges, constant_values=_BACKGROUND)
