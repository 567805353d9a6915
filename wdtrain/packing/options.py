"""What may be chosen of a packing: one frozen object, handed on whole.

Owns which kinds of values each option takes, checked where they are given, by name. Which values of
a kind are possible (a known encoding, a size above 0) is judged where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from wdtrain.disk.failures import StoreError
from wdtrain.packing.splits import Holdout

PackingProgress = Callable[[int, int], None]
"""Called with (samples packed, samples in all), from the packing process."""
Say = Callable[[str], None]
"""Called with a sentence that a person should read."""


class PackingKeywords(TypedDict, total=False):
    """The options of a packing as keywords: those of `PackingOptions`, by the same names."""

    encoding: str
    compression: str | None
    size: int | tuple[int, int] | None
    fit: str | None
    processes: int | None
    seed: int
    max_rejects: float
    shard_samples: int | None
    samples_per_block: int | None
    jpeg_quality: int
    holdout: Holdout | None
    engine: str
    splits: str
    progress: PackingProgress | None
    say: Say | None


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """What may be chosen of a packing. StoreError names the first whose value is of another kind
    than it takes.

    encoding: "image" (JPEG and PNG) or "raw" (arrays). compression: "none" or "zstd:LEVEL"; None:
    what suits the encoding (image zstd:9, raw zstd:-1). size: the shorter side in pixels, or
    (height, width); None: the commonest of the source. fit: what becomes of a sample of another
    aspect: "stretch", "crop" (the middle is kept) or "pad" (what is added is black in images,
    unknown in all else); None: it is rejected. max_rejects: the share of samples that may be left
    out. shard_samples, samples_per_block: None means 8,192 and about 1 MiB, fewer for a small
    source. processes: None takes the usable cores. engine: "processes" of this machine, or "ray".
    part (i, n): every n-th shard is packed, from the i-th of 1..n. splits: "own" keeps folders
    named train, val and test, "deal" divides anew, "auto" keeps them where every sample is in
    one. say: called with what the user should know; None: it is logged.
    """

    encoding: str = "image"
    compression: str | None = None
    size: int | tuple[int, int] | None = None
    fit: str | None = None
    processes: int | None = None
    seed: int = 0
    max_rejects: float = 0.001
    shard_samples: int | None = None
    samples_per_block: int | None = None
    jpeg_quality: int = 90
    holdout: Holdout | None = None
    part: tuple[int, int] | None = None
    engine: str = "processes"
    splits: str = "auto"
    progress: PackingProgress | None = None
    say: Say | None = None

    def __post_init__(self) -> None:
        for name, (is_right, words, may_be_none) in _KINDS.items():
            value = getattr(self, name)
            if not (may_be_none and value is None) and not is_right(value):
                raise StoreError(f"{name} is {value!r}; {words} is needed")
        if not 0 <= self.max_rejects <= 1:
            raise StoreError(f"max_rejects is {self.max_rejects}; it is a share from 0 to 1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_two(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_whole, value))


def _is_size(value: Any) -> bool:
    return _is_whole(value) or _are_two(value)


_KINDS: Final[dict[str, tuple[Callable[[Any], bool], str, bool]]] = {
    "encoding": (_is_text, "image or raw", False),
    "compression": (_is_text, "text such as zstd:9, or None,", True),
    "size": (_is_size, "a whole number, a tuple (height, width) or None", True),
    "fit": (_is_text, "stretch, crop, pad or None", True),
    "processes": (_is_whole, "a whole number or None", True),
    "seed": (_is_whole, "a whole number", False),
    "max_rejects": (_is_number, "a share from 0 to 1", False),
    "shard_samples": (_is_whole, "a whole number or None", True),
    "samples_per_block": (_is_whole, "a whole number or None", True),
    "jpeg_quality": (_is_whole, "a whole number from 1 to 100", False),
    "holdout": (lambda value: isinstance(value, Holdout), "a Holdout or None", True),
    "part": (_are_two, "a tuple (i, n) or None", True),
    "engine": (_is_text, "processes or ray", False),
    "splits": (_is_text, "auto, own or deal", False),
}
"""By option: what it must be, in words too, and whether it may be None."""
