"""What some files are at a glance, pictures of many colours or not, and which can be decoded at
all: a few broken ones do not hide what the others are.

Used where a source is looked at, so that a folder with a truncated picture is still understood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from wdtrain.fields import FieldError, levels, npy

_FEW_VALUES: Final = 32

Contents = list[tuple[bytes | np.ndarray, str]]
"""Of some files or cells of one field: what is in them, and their names."""


def divided(contents: Contents) -> tuple[Contents, list[str]]:
    """Those that can be decoded, and the names of the others; where these are half of them or more,
    all are kept, and none is called broken."""
    broken = [name for data, name in contents if not _is_readable(data, name)]
    if 2 * len(broken) >= len(contents):
        return contents, []
    return [each for each in contents if each[1] not in broken], broken


def is_photo(data: bytes | np.ndarray) -> bool:
    """Whether contents are a picture of many colours or greys."""
    if isinstance(data, np.ndarray) or npy.is_npy(data):
        return False
    found = levels.read(data, file="picture")
    return found.full == 255 and (not found.is_exact or len(np.unique(found.values)) > _FEW_VALUES)


def share_to_allow(num_broken: int, num_read: int) -> float:
    """What --max-rejects has to be where so many of those that were read are broken: twice their
    share, since only some were read, to two digits, up."""
    return min(1.0, math.ceil(200 * num_broken / num_read) / 100)


def left_out(broken: Sequence[str]) -> str:
    """The message for broken files."""
    return f"samples whose files cannot be decoded ({', '.join(broken[:3])})"


def _is_readable(data: bytes | np.ndarray, name: str) -> bool:
    if isinstance(data, np.ndarray):
        return True
    try:
        if npy.is_npy(data):
            npy.read_npy(data, file=name)
        else:
            levels.read(data, file=name)
    except FieldError:
        return False
    return True
