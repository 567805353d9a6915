"""What a sample may be: rules that packing keeps and that reading holds every stored byte to.

A digest shows that a dataset is what somebody wrote, not that its writer meant well. So sizes are
judged here, from what the manifest says, before anything is inflated, decoded or made room for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, get_args

from wdtrain.fields import Encoding, Field
from wdtrain.store import tar

KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A WebDataset's key ends at its first dot; and a key must be no path, since files are named after
it. `is_key` of `_rows.c` is the same."""

MOST_FIELDS: Final = 64
"""Of a dataset: what is taken for each row of a batch, and for each block, grows with them."""

_ROOM: Final = 192 << 10
"""What a JPEG's metadata and a sample's JSON may take beyond the pixels."""

_FRAME: Final = 16 << 10
"""Header, padding and what PNG adds to its pixels, of one member, all of them generously."""


def max_key(fields: Iterable[Field]) -> int:
    """Letters of a key, so that the names of all members fit into a tar's header."""
    encodings = get_args(Encoding)
    longest = max(len(f".{field.member(one)}") for field in fields for one in encodings)
    return tar.MAX_NAME - longest


def most_free_bytes(height: int, width: int, fields: Iterable[Field]) -> int:
    """The bytes that JPEGs and JSON of a sample may take together."""
    return (
        2 * sum(_pixel_bytes(field) for field in fields if _is_jpeg(field)) * height * width + _ROOM
    )


def most_sample_bytes(height: int, width: int, fields: Iterable[Field]) -> int:
    """The bytes that a sample may take in an inflated block."""
    fields = list(fields)
    rest = 2 * sum(_pixel_bytes(field) for field in fields if not _is_jpeg(field)) * height * width
    return most_free_bytes(height, width, fields) + rest + (1 + len(fields)) * _FRAME


def _is_jpeg(field: Field) -> bool:
    return field.codec("image") == "jpeg"


def _pixel_bytes(field: Field) -> int:
    """Bytes of a pixel as it is stored."""
    return field.channels * field.dtype.itemsize
