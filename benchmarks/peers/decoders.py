"""The fast decoders that every peer reading pictures is given: simplejpeg (libjpeg-turbo, accurate
integer DCT) and OpenCV, one picture at a time, straight into the batch's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

cv2.setNumThreads(0)  # the peer's own workers share the pictures out; one gains nothing


def decode_batch(
    samples: Sequence[Sequence[Any]], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """overlay uint8 [n, size, size, 3], mask and depth uint8 [n, size, size] of n samples, each
    its JPEG, the PNG of its mask and that of its depth: bytes or a view of them."""
    count = len(samples)
    overlay = np.empty((count, size, size, 3), np.uint8)
    mask = np.empty((count, size, size), np.uint8)
    depth = np.empty((count, size, size), np.uint8)
    for row, (jpeg, mask_png, depth_png) in enumerate(samples):
        simplejpeg.decode_jpeg(jpeg, "RGB", buffer=overlay[row])
        mask[row] = decode_png(mask_png)
        depth[row] = decode_png(depth_png)
    return overlay, mask, depth


def decode_png(data: Any) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def split_raw(flat: Any, size: int) -> tuple[Any, Any, Any]:
    """The three arrays (or tensors) of samples stored as overlay, mask, depth one after the other:
    uint8 [n, 5 * size * size] in; views, since the batch is one block of memory already."""
    pixels, count = size * size, len(flat)
    return (
        flat[:, : 3 * pixels].reshape(count, size, size, 3),
        flat[:, 3 * pixels : 4 * pixels].reshape(count, size, size),
        flat[:, 4 * pixels :].reshape(count, size, size),
    )


def join_raw(overlay: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> bytes:
    """One sample as `split_raw` expects it."""
    return overlay.tobytes() + mask.tobytes() + depth.tobytes()
