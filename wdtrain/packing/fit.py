"""Where a sample's arrays come to lie in those of the dataset: stretched, cropped or padded.

Owns the geometry alone, in whole pixels, so that all fields of a sample are cut and placed alike
and an edge in the picture stays at the same place in all of them; and in which words a sample of
another size is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from wdtrain.fields import Field, ImageField
from wdtrain.fields.resize import Size, size_for

FITS: Final = ("stretch", "crop", "pad")


class Place(NamedTuple):
    """Of arrays [h, w]: `size` pixels from (top, left) on."""

    top: int
    left: int
    size: Size

    @property
    def slices(self) -> tuple[slice, slice]:
        (height, width), top, left = self.size, self.top, self.left
        return slice(top, top + height), slice(left, left + width)


class Fit(NamedTuple):
    """Of a sample's arrays of the stored size, which part is kept, and where it lies in those of
    the dataset, at which size."""

    stored: Size
    kept: Place
    lies: Place

    @property
    def is_whole(self) -> bool:
        return self.kept.size == self.stored


def measured(fields: Sequence[Field]) -> Field:
    """The field whose size is that of a sample: the first image, or else the first."""
    return next((field for field in fields if isinstance(field, ImageField)), fields[0])


def has_aspect(stored: Size, size: Size) -> bool:
    """Whether pictures of the stored size become `size` and are stretched by no more than sides
    are rounded."""
    return stored == size or size_for(stored, min(size)) == size


def misfit(stored: Size, size: Size, *, is_resized: bool, fit: str | None) -> str | None:
    """Why a sample of the stored size cannot be brought to `size` without a declared `fit`."""
    if stored == size:
        return None
    if not is_resized:
        return (
            f"wrong size: {stored}, the others are {size}; --size S brings all to a shorter side "
            "of S, and --fit stretch, crop or pad also those of another shape"
        )
    if fit is not None or has_aspect(stored, size):
        return None
    return (
        f"wrong shape: {stored} would be squeezed to {size}; say what becomes of another shape: "
        "--fit stretch, --fit crop (its middle is kept) or --fit pad (black, and unknown in all "
        "that is learned)"
    )


def fit_to(stored: Size, size: Size, fit: str | None) -> Fit:
    """How arrays of the stored (height, width) come to lie in those of `size`. One that has the
    aspect is brought to it whole, whatever `fit` says."""
    (height, width), whole, filled = stored, Place(0, 0, stored), Place(0, 0, size)
    if fit not in ("crop", "pad") or has_aspect(stored, size):
        return Fit(stored, whole, filled)
    is_wide = width * size[0] > height * size[1]
    if fit == "crop":
        kept = (
            (height, max(1, round(height * size[1] / size[0])))
            if is_wide
            else (max(1, round(width * size[0] / size[1])), width)
        )
        return Fit(stored, _centred(kept, stored), filled)
    inner = (
        (max(1, round(height * size[1] / width)), size[1])
        if is_wide
        else (size[0], max(1, round(width * size[0] / height)))
    )
    return Fit(stored, whole, _centred(inner, size))


def _centred(inner: Size, outer: Size) -> Place:
    return Place((outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2, inner)
