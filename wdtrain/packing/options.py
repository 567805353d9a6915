"""What kinds of values the options of packing take: checked where they are given, by name.

Which values of a kind are possible (a known encoding, a size above 0) is judged where they are
used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from wdtrain.disk.failures import StoreError
from wdtrain.packing.splits import Holdout


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


def check_options(options: Mapping[str, Any]) -> None:
    """StoreError names the first option whose value is of another kind than it takes."""
    for name, (is_right, words, may_be_none) in _KINDS.items():
        value = options[name]
        if not (may_be_none and value is None) and not is_right(value):
            raise StoreError(f"{name} is {value!r}; {words} is needed")
    if not 0 <= options["max_rejects"] <= 1:
        raise StoreError(f"max_rejects is {options['max_rejects']}; it is a share from 0 to 1")
