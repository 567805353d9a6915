"""What a sample may be: rules that packing keeps and that reading holds every stored byte to.

A digest shows that a dataset is what somebody wrote, not that its writer meant well. So sizes are
judged here, from what the manifest says, before anything is inflated, decoded or made room for.
"""

from __future__ import annotations

import re
from typing import Final

from wdtrain.store import tar

IMAGE_MEMBERS: Final = {
    "overlay": "overlay.jpg",
    "mask": "mask.png",
    "depth": "depth.png",
    "meta": "json",
}
RAW_MEMBERS: Final = {
    "overlay": "overlay.npy",
    "mask": "mask.npy",
    "depth": "depth.npy",
    "meta": "json",
}
KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A WebDataset's key ends at its first dot; and a key must be no path, since files are named after
it. `is_key` of `_rows.c` is the same."""

_LONGEST_SUFFIX: Final = max(
    len(f".{suffix}") for names in (IMAGE_MEMBERS, RAW_MEMBERS) for suffix in names.values()
)
MAX_KEY: Final = tar.MAX_NAME - _LONGEST_SUFFIX

_ROOM: Final = 192 << 10
"""What a JPEG's metadata and a sample's JSON may take beyond the pixels."""

_FRAME: Final = 64 << 10
"""Headers, padding and what PNG adds to its pixels, all of them generously."""


def most_free_bytes(height: int, width: int) -> int:
    """The bytes that JPEG and JSON of a sample may take together."""
    return 2 * 3 * height * width + _ROOM


def most_sample_bytes(height: int, width: int, code_bytes: int) -> int:
    """The bytes that a sample may take in an inflated block; code_bytes: of a depth's pixel."""
    return most_free_bytes(height, width) + 2 * (1 + code_bytes) * height * width + _FRAME
