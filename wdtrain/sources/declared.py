"""What a folder's `triples.json` declares of its files: what depth and mask values mean.

Owns the words of that file. Depth that is linear in metres is converted here to the codes that are
stored, labels to alpha. What the values themselves speak against is not taken in silence: such a
sample is rejected, with the declarations that it could be meant by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields.alpha_or_labels import holds_labels
from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.errors import FieldError
from wdtrain.fields.labels import shown_values
from wdtrain.fields.mask import FOREGROUND, MaskField

VALUES_PER_METRE: Final = {"mm": 1000.0, "cm": 100.0, "m": 1.0}
"""Values a metre, by the unit."""
CODES: Final = "code"
_WORDS: Final = {
    "": ("depth", "mask", "source", "count", "rejects"),
    "depth": ("kind", "near_m", "far_m", "bits", "unit", "scale"),
    "mask": ("foreground", "background"),
}
_MILLIMETRES: Final = (100, 20_000)
"""Values between which depth is likelier to be millimetres (0.1 to 20 m) than 16-bit codes."""
_FULL: Final = 255
_MOST_BEYOND: Final = 0.5


@dataclass(frozen=True)
class Declared:
    """How the values of a folder's depth and mask files are to be read.

    depth: what is stored. bits: of the depth files. per_metre: their values a metre where they are
    linear, else None. is_sure: whether nothing else can be meant by them. labels: uint8 [256], the
    alpha of each label, and bool [256], whether it is declared; None where masks are alpha.
    """

    depth: DepthFormat
    bits: int
    per_metre: float | None = None
    is_sure: bool = True
    labels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def depth_dtype(self) -> np.dtype:
        """Of the depth files."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Depth codes [h, w] as they are stored, of the values of a file, of which 0 is unknown."""
        if self.per_metre is None and self.is_sure:
            return values
        known = values[values > 0]
        if self.per_metre is None:
            if known.size and _are_like_millimetres(known):
                raise FieldError(_ambiguous(self.depth, known))
            return values
        metres = values / self.per_metre
        beyond = (known > self.depth.far_m * self.per_metre) | (
            known < self.depth.near_m * self.per_metre
        )
        if known.size and beyond.mean() > _MOST_BEYOND:
            raise FieldError(
                f"depth beyond its limits: most of it is {known.min() / self.per_metre:.4g} to "
                f"{known.max() / self.per_metre:.4g} m, and triples.json keeps "
                f"{self.depth.near_m:g} to {self.depth.far_m:g} m; declare its unit or scale, or "
                "near_m and far_m, as they are"
            )
        return self.depth.encode(metres)

    def alpha(self, mask: np.ndarray) -> np.ndarray:
        """Alpha [h, w] of the values of a mask file."""
        if self.labels is None:
            _check_alpha(mask)
            return mask
        values, is_declared = self.labels
        if not is_declared[mask].all():
            raise FieldError(
                f"mask of other labels: {shown_values(mask)} were found, and triples.json does not "
                'say what all of them are; name them under "foreground" or "background"'
            )
        alpha: np.ndarray = values[mask]
        return alpha


def _are_like_millimetres(known: np.ndarray) -> bool:
    low, high = _MILLIMETRES
    return bool(known.dtype == np.uint16 and known.min() >= low and known.max() < high)


def _ambiguous(depth: DepthFormat, known: np.ndarray) -> str:
    near, far = depth.decode(np.array([known.min(), known.max()]))
    return (
        f"depth that may be millimetres: its values are {known.min():,} to {known.max():,}, which "
        f"as logarithmic codes would be {near:.3f} to {far:.3f} m; add to depth in triples.json "
        '"unit": "mm" (or "cm", "m"), or "scale" with the values a metre (TUM 5000, KITTI 256), or '
        '"unit": "code" if codes they are'
    )


def _check_alpha(mask: np.ndarray) -> None:
    """FieldError for a mask of labels with 255 for "leave out", which alpha would turn around."""
    if holds_labels(mask):
        raise FieldError(
            f"mask of labels: {shown_values(mask)} were found, and foreground counts from "
            f"{FOREGROUND}, so that 255 alone would be it; say in triples.json which are: "
            '{"mask": {"foreground": [1], "background": [0, 255]}}'
        )


# ---------------------------------------------------------------------------- reading the words


def read_declared(document: dict[str, Any], guess: DepthFormat | None) -> Declared:
    """What a `triples.json` declares; guess: the depth's format where it says nothing of it.

    StoreError in words of the file for what it cannot say.
    """
    _check_words("", document)
    labels = None if "mask" not in document else _labels(_section("mask", document))
    if "depth" not in document:
        assert guess is not None, "nothing is known of the depth"
        return Declared(guess, guess.bits, labels=labels)
    words = dict(_section("depth", document))
    unit, scale = words.pop("unit", None), words.pop("scale", None)
    try:
        depth = DepthFormat(**words)
    except FieldError as error:
        raise StoreError(f"triples.json declares a depth that cannot be: {error}") from error
    per_metre = _per_metre(unit, scale, depth)
    if per_metre is None:
        is_sure = "source" in document or unit == CODES or not depth.is_logarithmic
        return Declared(depth, depth.bits, None, is_sure, labels)
    stored = DepthFormat(kind=depth.kind, near_m=depth.near_m, far_m=depth.far_m, bits=16)
    return Declared(stored, words.get("bits", 16), per_metre, True, labels)


def declaration_note(folder: object, document: dict[str, Any]) -> str | None:
    """What a user should know of how the depth of a folder is read; None where it is declared."""
    if "depth" not in document:
        lacks = "'s triples.json does not declare depth" if document else " has no triples.json"
        return (
            f"{folder}{lacks}, so its depth is packed as relative, with the bits of its PNGs "
            "(pack-shards --help says how to declare it)"
        )
    declared = read_declared(document, None)
    if declared.is_sure or declared.bits == 8:
        return None
    depth = declared.depth
    code = int(depth.encode(np.array([4.0]))[0])
    return (
        f"the depth of {folder} is taken for logarithmic codes of {depth.near_m:g} to "
        f"{depth.far_m:g} m, {code:,} being 4 m, since its triples.json names no unit; if it is "
        "linear, declare its unit or scale and pack it again (pack-shards --help)"
    )


def _section(name: str, document: dict[str, Any]) -> dict[str, Any]:
    section = document[name]
    if not isinstance(section, dict):
        raise StoreError(f"triples.json: {name} is {section!r}; an object is needed")
    _check_words(name, section)
    for word in ("near_m", "far_m", "bits", "scale"):
        value = section.get(word, 1)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise StoreError(f"triples.json: {name}.{word} is {value!r}; a number is needed")
    return section


def _check_words(section: str, words: Iterable[str]) -> None:
    for word in words:
        if (section, word) == (MaskField.kind, "unknown"):
            raise StoreError(
                "triples.json declares unknown mask labels, and a stored mask cannot leave pixels "
                "out: each is foreground or background; name them under one of these"
            )
        if word not in _WORDS[section]:
            of = f"of its {section}" if section else "of it"
            raise StoreError(
                f"triples.json: {word!r} is no word {of}; there are {', '.join(_WORDS[section])}"
            )


def _per_metre(unit: Any, scale: Any, depth: DepthFormat) -> float | None:
    """Values a metre of linear depth; None where files hold codes."""
    if unit is None and scale is None:
        return None
    if unit is not None and scale is not None:
        raise StoreError("triples.json declares a unit and a scale of its depth; keep one")
    if unit is not None and unit not in (CODES, *VALUES_PER_METRE):
        raise StoreError(
            f"triples.json: depth.unit is {unit!r}; it must be {', '.join(VALUES_PER_METRE)}, or "
            f"{CODES} for codes as they are stored"
        )
    if unit == CODES:
        return None
    if not depth.is_logarithmic:
        raise StoreError(
            f"triples.json declares {depth.kind} depth in metres; only metric or geometric depth "
            "has a unit or scale"
        )
    per_metre = VALUES_PER_METRE[unit] if unit else float(scale)
    if not 0 < per_metre < float("inf"):
        raise StoreError(f"triples.json: depth.scale is {scale}; it is the values a metre, above 0")
    return per_metre


def _labels(section: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Alpha of each label, and which are declared: the background, where it is left out, is all
    others but 255, which most label sets leave out."""
    chosen: dict[str, list[int]] = {}
    for word, labels in section.items():
        if not isinstance(labels, list) or not all(
            isinstance(label, int) and not isinstance(label, bool) and 0 <= label <= _FULL
            for label in labels
        ):
            raise StoreError(
                f"triples.json: mask.{word} is {labels!r}; a list of labels from 0 to 255 is needed"
            )
        chosen[word] = labels
    foreground = chosen.get("foreground", [])
    if not foreground:
        raise StoreError('triples.json: mask names no foreground; say {"foreground": [1]}')
    background = chosen.get("background", [n for n in range(_FULL) if n not in foreground])
    if both := set(foreground) & set(background):
        raise StoreError(
            f"triples.json: mask label {min(both)} is foreground and background; choose"
        )
    alpha, is_declared = np.zeros(256, np.uint8), np.zeros(256, bool)
    alpha[foreground] = _FULL
    is_declared[[*foreground, *background]] = True
    return alpha, is_declared
