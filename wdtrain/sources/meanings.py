"""What the contents of a field may mean: its kind, its name, and the options that are read as said.

Owns the guesses of `suggest.py`: what could mean several things is tried as its likeliest first,
and what else it could be is said.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from wdtrain.fields import DepthField, FieldError, labels, levels, npy
from wdtrain.fields.errors import AmbiguousError
from wdtrain.sources.asking import readable
from wdtrain.sources.families import KIND_OF
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.readable import Contents

_MOST_ROUNDS: Final = 3
_PIXELS_A_FILE: Final = 250_000
_MOST_ID: Final = 65_535
_FEW: Final = 8
_APART: Final = 16
"""So few values, and so far from each other, may be the greys of classes instead of ids."""
_FULL: Final = (255, 65_535)
_PLENTY: Final = 64
"""More classes than this are the numbers of objects, or a depth."""


NAMES: Final = {"image": "image", "mask": "mask", "classes": "labels", "depth": "depth"}
"""By kind, what a field is called that is the only one of it: as recipes/ ask for it."""

Meaning = tuple[str, str]
"""The name of a field, and what was taken for meant by it."""


@dataclass(frozen=True)
class Candidate:
    """A field that may be: its word or name, where it lies, what it is by its words, some contents,
    and whether every picture has one."""

    name: str
    pattern: str
    kind: str
    contents: Contents
    is_complete: bool = True
    is_named: bool = False
    broken: Sequence[str] = ()


def settled(
    each: Candidate, taken: set[str], meanings: list[Meaning], wrong: list[str]
) -> Iterator[FieldOption]:
    """Declarations with which all contents are read, the likeliest first. wrong: why others are
    not."""
    for kind in [each.kind] if each.kind else _kinds_by_look(each.contents):
        kind = _settled_kind(kind, each)
        name = each.name if each.is_named else _name_of(each.name, kind)
        while name in taken:
            name += "2"
        options, told = _classes_of(each.contents) if kind == "classes" else ({}, "")
        if not each.is_complete and kind != "image":
            options["optional"] = ""
        option = FieldOption(name, kind, each.pattern, options)
        for found in answered_each(option, each, meanings, wrong):
            if told:
                meanings.append((name, told))
            yield found


def _name_of(word: str, kind: str) -> str:
    """What a field is called: the word of its files, where that is of its kind."""
    word = word.removesuffix("s") if word in ("masks", "depths") else word
    is_of_kind = KIND_OF.get(word) == kind and kind != "image"
    return word if is_of_kind else NAMES.get(kind, kind)


def _kinds_by_look(contents: Contents) -> list[str]:
    """The kinds that contents without a telling name may be."""
    data = contents[0][0]
    if isinstance(data, bytes) and not npy.is_npy(data):
        found = levels.read(data, file="picture")
        if found.full == 65535:
            return ["depth"]
        return ["mask", "classes", "depth"]
    return ["depth", "mask", "classes"] if _array(data).dtype.kind == "f" else ["classes", "mask"]


def _settled_kind(kind: str, each: Candidate) -> str:
    """`gt`, `seg` and their like are masks where there are two values, else classes."""
    if kind not in ("classes", "mask") or each.kind not in ("classes", ""):
        return kind
    values: set[int] = set()
    for data, _ in each.contents:
        values |= _values(data)
        if len(values) > _PLENTY:
            return kind
    return "mask" if len(values - {255}) <= 2 or values <= {0, 255} else "classes"


def _values(data: bytes | np.ndarray) -> set[int]:
    """The numbers of a picture or array, colours as one."""
    if isinstance(data, bytes) and not npy.is_npy(data):
        found = levels.read(data, file="picture")
        if found.values.ndim == 3:
            wide = found.values.astype(np.int64)
            return set(np.unique(wide[..., 0] << 32 | wide[..., 1] << 16 | wide[..., 2]).tolist())
        return set(np.unique(found.values).tolist())
    return set(np.unique(_array(data)).tolist())


def _array(data: bytes | np.ndarray) -> np.ndarray:
    return npy.read_npy(data, file="array") if isinstance(data, bytes) else data


def _classes_of(contents: Contents) -> tuple[dict[str, str], str]:
    """How many classes there are by the ids in some files; of coloured ones, the id of each. With
    what has to be said of it, where the values may be greys as well as ids."""
    ids: set[int] = set()
    for data, _ in contents:
        ids |= _values(data)
    if max(ids) <= _MOST_ID:
        return _ids_or_greys(sorted(ids))
    codes = sorted(value >> 32 << 16 | (value >> 16 & 255) << 8 | value & 255 for value in ids)
    named = "|".join(f"{labels.colour_of(code)}:{at}" for at, code in enumerate(codes))
    return ({"colours": named} if len(codes) <= _PLENTY else {"classes": "1"}), ""


def _ids_or_greys(values: list[int]) -> tuple[dict[str, str], str]:
    """Ids as they are; greys that are spread evenly from 0 to full, as 0, 85, 170 and 255 are, by a
    map. Few values far apart could be either, so both are said."""
    count = str(max([value for value in values if 0 <= value < 255], default=0) + 1)
    if not 2 < len(values) <= _FEW or np.diff(values).min() < _APART:
        return {"classes": count}, ""
    ids = f"classes={count}", "values are ids" + ", 255 is left out" * (values[-1] == 255)
    mapped = "|".join(f"{value}:{at}" for at, value in enumerate(values))
    greys = f"map={mapped}", f"values are the greys of {len(values)} classes"
    even = np.linspace(0, values[-1], len(values))
    is_even = values[-1] in _FULL and np.abs(values - even).max() <= 1
    (first, meaning), (other, meant) = (greys, ids) if is_even else (ids, greys)
    told = f"{first} ({meaning}; or it is {other}: {meant})"
    return ({"map": mapped} if is_even else {"classes": count}), told


def answered_each(
    option: FieldOption,
    each: Candidate,
    meanings: list[Meaning],
    wrong: list[str],
    rounds: int = 0,
) -> Iterator[FieldOption]:
    """The option with answers to what its contents leave open, each in turn: first to what they ask
    together (as `asking.ask` puts it), since a trimap without 255 looks as if its grey were all."""
    try:
        if option.field.is_open:
            option.field.judge(readable(option.field, each.contents))
        for data, file in each.contents:
            read = option.field.load if isinstance(data, bytes) else option.field.from_array
            read(data, file=file)  # type: ignore[arg-type]
    except AmbiguousError as error:
        if rounds == _MOST_ROUNDS:
            return
        choices = _asked_of_all(error, option, each.contents).choices
        for choice, meaning in choices.items():
            with contextlib.suppress(FieldError):
                better = _fitted(option, choice, each.contents)
                for found in answered_each(better, each, meanings, wrong, rounds + 1):
                    others = "; ".join(
                        f"{other}: {meant}" for other, meant in choices.items() if other != choice
                    )
                    told = f"{meaning}; or it is {others}" if others else meaning
                    meanings.append((option.name, f"{choice} ({told})"))
                    yield found
        return
    except FieldError as error:
        wrong.append(str(error))
        return
    yield option


def _asked_of_all(error: AmbiguousError, option: FieldOption, contents: Contents) -> AmbiguousError:
    """The question of a depth, put to pixels of all files that were read: one may be near alone."""
    if not isinstance(option.field, DepthField):
        return error
    pixels = []
    for data, _ in contents:
        values = _numbers(data).ravel()
        step = max(1, len(values) // _PIXELS_A_FILE)
        pixels += [values[::step], values.max(initial=0)[None]]
        if (above := values[values > 0]).size:
            pixels.append(above.min()[None])
    try:
        option.field.from_array(np.concatenate(pixels)[None], file=option.pattern)
    except AmbiguousError as asked:
        return asked
    return error


def _fitted(option: FieldOption, choice: str, contents: Contents) -> FieldOption:
    """With a choice, and with what all contents ask for where it tells of one file alone."""
    better = option.with_options(choice)
    if better.kind != option.kind and better.kind == "classes" and "map" not in better.options:
        return replace(better, options={**better.options, **_classes_of(contents)[0]})
    return _within_limits(better, contents)


def _within_limits(option: FieldOption, contents: Contents) -> FieldOption:
    """Depth in metres with limits that hold what was found, where the usual ones do not."""
    declared = option.field
    if not isinstance(declared, DepthField) or not declared.format.is_logarithmic:
        return option
    per_metre = declared.scale or {"m": 1.0, "cm": 100.0, "mm": 1000.0}.get(declared.unit or "", 0)
    values = [_known(data) / per_metre for data, _ in contents] if per_metre else []
    metres = np.concatenate(values) if values else np.empty(0)
    near, far = declared.format.near_m, declared.format.far_m
    if not metres.size or (metres.min() >= near and metres.max() <= far):
        return option
    low, high = _rounded(metres.min(), math.floor), _rounded(metres.max(), math.ceil)
    return option.with_options(f"near={min(near, low):g},far={max(far, high):g}")


def _known(data: bytes | np.ndarray) -> np.ndarray:
    """The depths of contents that are any."""
    values = _numbers(data).astype(np.float64)
    return values[np.isfinite(values) & (values > 0)]


def _numbers(data: bytes | np.ndarray) -> np.ndarray:
    """The numbers of a picture or an array."""
    is_picture = isinstance(data, bytes) and not npy.is_npy(data)
    return levels.read(data, file="depth").values if is_picture else _array(data)  # type: ignore[arg-type]


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """To one digit that counts, down or up."""
    unit = 10.0 ** math.floor(math.log10(value))
    return to(value / unit) * unit
