"""A look at a few samples of a source before a packing is planned: of which size they are.

What most samples would be rejected for is found here, in seconds and not after hours, and
reported with the option that settles it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import comb
from typing import Final, NamedTuple

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError
from wdtrain.fields.resize import Size
from wdtrain.fields.source import Source
from wdtrain.packing.fit import measured

_SPREAD: Final = 9
_ANYWHERE: Final = 16
_BY_CHANCE: Final = 1e-3


class MisfitsError(StoreError):
    """Samples have several sizes, and no `fit` is declared."""


class SampleSize(NamedTuple):
    """A sample and its size (height, width)."""

    key: str
    size: Size


def spread(source: Source) -> list[SampleSize]:
    """Up to 9 samples spread over a source; StoreError where none of them can be used."""
    return _probes(source, np.linspace(0, len(source) - 1, _SPREAD))


def anywhere(source: Source) -> list[SampleSize]:
    """As `spread`, of samples at places that follow no pattern: sources may be periodic."""
    rng = np.random.default_rng(len(source))
    return _probes(source, rng.integers(0, len(source), _ANYWHERE))


def _probes(source: Source, places: np.ndarray) -> list[SampleSize]:
    found, reasons = [], []
    for index in dict.fromkeys(places.astype(int).tolist()):
        try:
            arrays = source.load(index).arrays
            field = measured([field for field in source.fields if field.name in arrays])
            found.append(SampleSize(source.key(index), field.size_of(arrays[field.name])))
        except FieldError as error:
            reasons.append(f"{source.key(index)}: {error}")
    if not found:
        raise StoreError(
            f"none of {len(reasons)} samples tried can be used, the first: {reasons[0]}"
        )
    return found


def commonest(probes: list[SampleSize]) -> Size:
    """The size that most of them have."""
    return Counter(size for _, size in probes).most_common(1)[0][0]


def check_probes(
    probes: list[SampleSize],
    misfit_of: Callable[[Size], str | None],
    *,
    samples: int,
    max_rejects: float,
) -> None:
    """MisfitsError where so many of these are misfits that too many of all will be: more than may
    be rejected, or as many as come together once in a thousand times where that share is
    rejected."""
    misfits = [(key, why) for key, size in probes if (why := misfit_of(size))]
    chances = (
        comb(len(probes), count) * max_rejects**count * (1 - max_rejects) ** (len(probes) - count)
        for count in range(len(misfits), len(probes) + 1)
    )
    if misfits and (len(misfits) > int(max_rejects * samples) or sum(chances) < _BY_CHANCE):
        key, why = misfits[0]
        raise MisfitsError(
            f"{len(misfits)} of {len(probes)} samples looked at cannot be brought to one size, and "
            f"of all more would be rejected than --max-rejects allows ({max_rejects:g}); the "
            f"first: {key}: {why}"
        )
