"""Values and colours that people declare to mean something: "1|2", "#ff0000"; and those found."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

Label = int | str
"""A value of a person's file: a number, or a colour "#rrggbb"."""
MOST: Final = 65_535
_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,5}")
_SHOWN: Final = 6


def is_colour(label: object) -> bool:
    return isinstance(label, str) and _COLOUR.fullmatch(label) is not None


def is_number(label: object) -> bool:
    """Whether it is a value that files can have: of 16 bits, or a negative one of an array."""
    return isinstance(label, int) and not isinstance(label, bool) and -MOST <= label <= MOST


def read_label(text: str) -> Label:
    """A number or a colour. ValueError for what is neither."""
    if is_colour(text.lower()):
        return text.lower()
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is neither a whole number nor a colour #rrggbb")
    return int(text)


def read_number(text: str) -> int:
    """ValueError for what is no whole number."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def number_of(label: Label) -> int:
    """A label as it is compared: a colour as 0xrrggbb."""
    return int(label[1:], 16) if isinstance(label, str) else label


def codes_of(rgb: np.ndarray) -> np.ndarray:
    """int32 [h, w]: the colours uint8 [h, w, 3] as 0xrrggbb."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def colour_of(code: int) -> str:
    return f"#{code:06x}"


def whole(values: np.ndarray) -> np.ndarray | None:
    """Numbers as whole ones of at most 16 bits (int32 where negative or of another width); None
    where they are not."""
    if values.dtype == bool or values.dtype in (np.uint8, np.uint16):
        return values.astype(np.uint8) if values.dtype == bool else values
    if values.dtype.kind == "f" and not (np.isfinite(values) & (np.rint(values) == values)).all():
        return None
    if values.size and (values.min() < -MOST or values.max() > MOST):
        return None
    return values.astype(np.int32)


def shown_values(values: np.ndarray) -> str:
    """The different values of an array in words: "values 0, 1 and 255"."""
    return _listed([str(value) for value in np.unique(values)])


def shown_colours(codes: np.ndarray) -> str:
    """The different colours (0xrrggbb) of an array in words."""
    return _listed([colour_of(int(code)) for code in np.unique(codes)])


def _listed(words: list[str]) -> str:
    if len(words) > _SHOWN:
        return f"{len(words)} values from {words[0]} to {words[-1]}"
    if len(words) == 1:
        return f"no value but {words[0]}"
    return f"values {', '.join(words[:-1])} and {words[-1]}"
