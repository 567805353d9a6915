"""Whether a reader's batches hold every picture once, with the right pixels.

A sample is known by its depth map, which no reader averages, and among the few with the same depth
by what is nearest. So overlay and mask are compared with the neutral copy pixel by pixel, in any
order, and the checksum depends on no order either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from peers.job import Batch
from peers.shared import Shared


def checksum_of(overlay: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> int:
    """64 bits of one sample's decoded bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (overlay, mask, depth):
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little")


def identity(depth: np.ndarray) -> bytes:
    """What tells a sample from nearly all others."""
    return hashlib.blake2b(np.ascontiguousarray(depth).data, digest_size=16).digest()


def difference(one: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """The largest and the mean absolute difference of two uint8 pictures."""
    off = np.abs(one.astype(np.int16) - other)
    return int(off.max()), float(off.mean())


def arrays_of(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch as overlay [n, h, w, 3], mask and depth [n, h, w], whatever its layout was."""
    overlay, mask, depth = (np.asarray(part) for part in batch)
    if overlay.shape[-1] != 3:
        overlay = overlay.transpose(0, 2, 3, 1)
    shape = overlay.shape[:3]
    return overlay, mask.reshape(shape), depth.reshape(shape)


def verify(batches: Iterable[Batch], shared: Shared, pixels: str) -> dict[str, Any]:
    """What one epoch of batches holds, against the arrays of `shared` (`pixels`: which overlay).

    `checksum`: sum over the samples, 64 bits in hex; `missing`, `again`, `unknown`: how many
    samples came never, more than once, or are none of ours; `overlay_difference`,
    `mask_difference`: the largest over all pixels, 0 where they are the same.
    """
    overlays, masks = shared.array(pixels), shared.array("mask")
    numbers: dict[bytes, list[int]] = {}
    for name in ("depth", "depth_median"):  # a peer's smaller depth is the nearest pixel's
        for number, depth in enumerate(shared.array(name)):
            alike = numbers.setdefault(identity(depth), [])
            if number not in alike:
                alike.append(number)
    seen = np.zeros(len(masks), np.int64)
    total = unknown = overlay_difference = mask_difference = 0
    difference_sum = 0.0
    for batch in batches:
        for overlay, mask, depth in zip(*arrays_of(batch), strict=True):
            total += checksum_of(overlay, mask, depth)
            alike = numbers.get(identity(depth))
            if alike is None:
                unknown += 1
                continue
            number, off_mask, off, off_mean = min(
                (
                    (n, difference(mask, masks[n])[0], *difference(overlay, overlays[n]))
                    for n in alike
                ),
                key=lambda match: match[1:],
            )
            seen[number] += 1
            overlay_difference = max(overlay_difference, off)
            mask_difference = max(mask_difference, off_mask)
            difference_sum += off_mean
    return {
        "samples": int(seen.sum()) + unknown,
        "missing": int((seen == 0).sum()),
        "again": int((seen > 1).sum()),
        "unknown": unknown,
        "checksum": f"{total % 2**64:016x}",
        "overlay_difference": overlay_difference,
        "mean_overlay_difference": difference_sum / max(int(seen.sum()), 1),
        "mask_difference": mask_difference,
    }


def reference(folder: Path) -> dict[str, Any]:
    """The checksums of the neutral copy itself, by name of the overlay."""
    shared = Shared(folder)
    found = {}
    for name in ("overlay_jpeg", "overlay_raw"):
        if (folder / f"{name}.npy").exists():
            arrays = (shared.array(name), shared.array("mask"), shared.array("depth"))
            total = sum(checksum_of(*sample) for sample in zip(*arrays, strict=True))
            found[name] = f"{total % 2**64:016x}"
    return found
