"""`mask`: how much of a pixel is foreground, as alpha 0 to 255; foreground counts from 128.

A person's file may be a PNG of 1, 8 or 16 bits, a palette or RGBA, a JPEG (thresholded), `.npy` of
bool or numbers; `foreground` names the values or colours that are it. An empty mask is a mask.
The surprise: in a field that has unknown pixels (`optional`, `unknown`), alpha 1 means unknown, and
a real 1 becomes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

import numpy as np

from wdtrain.fields import labels, levels, resize
from wdtrain.fields.alpha_or_labels import fills_areas, greys_of, holds_labels
from wdtrain.fields.base import Field, Resizing, flag, plane
from wdtrain.fields.errors import AmbiguousError, FieldError, shown
from wdtrain.fields.labels import Label, shown_values
from wdtrain.fields.levels import Levels
from wdtrain.fields.resize import Size

FOREGROUND: Final = 128
"""A stored alpha from here up is foreground."""
UNKNOWN: Final = 1
"""The alpha of an unknown pixel, in fields that have them."""
ANY: Final = "any"
"""As foreground: every value but 0, and but those that are declared to be something else."""

_FULL: Final = 255
_UNKNOWN_COLOUR: Final = (160, 40, 40)
_MOST_CHOICES: Final = 3
_MOST_LEVELS: Final = 8
_LEAST_SHARE: Final = 0.25
"""Of the files that are looked at, those that have areas of a value between."""


def _read_labels(text: str) -> tuple[Label, ...]:
    """ "1|2", "#ff0000|#00ff00" or "any" """
    return (ANY,) if text == ANY else tuple(map(labels.read_label, text.split("|")))


@dataclass(frozen=True)
class MaskField(Field):
    """foreground, background, unknown: the values or colours of a person's files that mean it.
    Without `foreground` files hold alpha; without `background` it is every other value, but for the
    largest that there is, which most label sets leave out. partly: pixels may be unknown for
    another reason. alpha: files hold alpha, however few values they have."""

    kind: ClassVar[str] = "mask"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "foreground": _read_labels,
        "background": _read_labels,
        "unknown": _read_labels,
        "alpha": flag,
    }

    foreground: tuple[Label, ...] = ()
    background: tuple[Label, ...] = ()
    unknown: tuple[Label, ...] = ()
    partly: bool = False
    alpha: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in ("partly", "alpha"):
            if not isinstance(value := getattr(self, word), bool):
                raise FieldError(f"field {self.name}: {word} is {shown(value)}; it is yes or no")
        if self.alpha and self.foreground:
            raise FieldError(f"field {self.name}: alpha and foreground are declared; choose")
        seen: dict[Label, str] = {}
        for word in ("foreground", "background", "unknown"):
            for label in self._labels_declared(word):
                if label in seen:
                    raise FieldError(
                        f"field {self.name}: {label} is declared as {seen[label]} and as {word}; "
                        "choose"
                    )
                seen[label] = word
        if len({labels.is_colour(label) for label in seen if label != ANY}) > 1:
            raise FieldError(
                f"field {self.name}: values and colours are declared; a file has one or the other"
            )
        if self.background and not self.foreground:
            raise FieldError(f"field {self.name}: background is declared, and no foreground")

    def _labels_declared(self, word: str) -> tuple[Label, ...]:
        found = getattr(self, word)
        if word == "foreground" and found == (ANY,):
            return (ANY,)
        if not isinstance(found, tuple) or not all(
            labels.is_colour(label) or labels.is_number(label) for label in found
        ):
            raise FieldError(
                f"field {self.name}: {word} is {shown(found)}; it is one or several of the values "
                "of the files (1 or 1|2), or of their colours (#rrggbb)"
            )
        return found

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def has_unknown(self) -> bool:
        """Whether alpha 1 means unknown."""
        return self.partly or self.optional or bool(self.unknown)

    @property
    def blank(self) -> int:
        return UNKNOWN if self.has_unknown else 0

    def padded(self) -> Self:
        return self if self.has_unknown else replace(self, partly=True)

    def as_dict(self) -> dict[str, Any]:
        """alpha only where it is declared: older versions know nothing of it."""
        values = super().as_dict()
        return values if values.pop("alpha") is False else {**values, "alpha": True}

    def cleared(self, array: np.ndarray) -> np.ndarray:
        return np.where(array == UNKNOWN, 0, array).astype(np.uint8)

    def check(self, array: np.ndarray) -> None:
        """Also for values that are no alpha, unless they are declared to be: all are below
        foreground, and not all are 0."""
        super().check(array)
        known = array[array != UNKNOWN] if self.has_unknown else array
        if not self.alpha and 0 < known.max(initial=0) < FOREGROUND:
            raise FieldError(
                f"{self.name} without foreground: {shown_values(known)} were found; foreground "
                f"counts from {FOREGROUND}, and an empty mask is 0 everywhere; declare which "
                "values are foreground, behind its pattern in --field (foreground=1), or that they "
                f"are shares of {_FULL} (alpha)"
            )

    @property
    def resizing(self) -> Resizing:
        return Resizing("known_area", unknown=UNKNOWN) if self.has_unknown else Resizing("area")

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        if self.has_unknown:
            return resize.known_area(array, size, unknown=UNKNOWN)
        return resize.area(array, size)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 [h, w] alpha: what is stored, 1 being unknown where `has_unknown`."""
        return array

    def preview(self, array: np.ndarray) -> np.ndarray:
        """Alpha in grey; what is unknown in red."""
        rgb = super().preview(array)
        if self.has_unknown:
            rgb[array == UNKNOWN] = _UNKNOWN_COLOUR
        return rgb

    # ------------------------------------------------------------------ a person's files

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        """Of bools; of whole numbers as of a PNG; of floats 0 to 1, 1 being all foreground."""
        values = plane(array, file=file)
        if not self.foreground and not self.unknown:
            if values.dtype == bool:
                return self._stored(Levels(values.astype(np.uint8), 1), file)
            if values.dtype.kind == "f":
                return self._of_floats(values, file)
        numbers = labels.whole(values)
        if numbers is None:
            raise FieldError(
                f"{file} holds numbers that are not whole, or too large; save the mask as bool, or "
                "as whole numbers of 8 or 16 bits"
            )
        full = 65535 if numbers.max(initial=0) > _FULL else _FULL
        return self._stored(Levels(numbers, full), file)

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        return self._stored(levels.read(data, file=file), file)

    @property
    def is_open(self) -> bool:
        return not (self.foreground or self.unknown or self.alpha)

    def judge(self, contents: Sequence[tuple[bytes | np.ndarray, str]]) -> None:
        """AmbiguousError for masks of a few values of which some are neither 0 nor full, and fill
        areas: trimaps, classes. An alpha has such values at edges, and many of them."""
        if not self.is_open:
            return
        values: set[int] = set()
        filled, full = [], _FULL
        for data, file in contents:
            found = greys_of(data, file)
            if found is None:
                continue
            values |= set(np.unique(found.values).tolist())
            full = max(full, found.full)
            if len(values) > _MOST_LEVELS:
                return
            if fills_areas(found):
                filled.append(file)
        is_usual = len(filled) >= max(min(2, len(contents)), _LEAST_SHARE * len(contents))
        if is_usual and len(values) > 2:
            raise self._of_few_values(sorted(values), filled[0], full)

    def _of_few_values(self, values: list[int], file: str, full: int) -> AmbiguousError:
        between = [value for value in values if full // 4 <= value <= full - full // 4]
        ids = "|".join(f"{value}:{at}" for at, value in enumerate(values))
        classes = {f"classes:classes={len(values)},map={ids}": f"{len(values)} classes"}
        alpha = {"alpha": f"they are shares of {full}, which is all foreground"}
        choices = {**classes, **alpha, f"foreground={ANY}": "all but 0 is foreground"}
        if values[0] == 0 and len(values) == 3 and between:
            middle, high = values[1:]
            options = f"unknown={middle}" if high == full else f"foreground={high},unknown={middle}"
            trimap = {options: f"{high} is foreground, {middle} is left out: a trimap"}
            choices = {**trimap, **classes, **alpha}
        return AmbiguousError(
            f"{file} and others like it have {shown_values(np.array(values))}, which fill areas: "
            "as alpha, some would be half foreground",
            choices,
            name=self.name,
            kind=self.kind,
        )

    def _of_floats(self, values: np.ndarray, file: str) -> np.ndarray:
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise FieldError(
                f"{file} holds floats that are not all from 0 to 1, 1 being all foreground; save "
                "the mask as bool or as whole numbers, and declare which are foreground "
                f"(--field '{self.name}=mask:PATTERN,foreground=1')"
            )
        alpha = np.rint(values * _FULL).astype(np.uint8)
        # Where nothing reaches half, the mask is empty: values below foreground alone are no alpha,
        # unless they are declared to be.
        is_alpha = self.alpha or alpha.max() >= FOREGROUND
        return self._with_unknown(alpha if is_alpha else alpha * np.uint8(0), None)

    def _stored(self, found: Levels, file: str) -> np.ndarray:
        if not self.foreground and not self.unknown:
            return self._with_unknown(self._alpha(found, None, file), None)
        values = self._values(found, file)
        unknown = _is_one_of(self.unknown, values)
        if self.foreground:
            alpha = np.where(self._is_foreground(values, unknown, found.full, file), _FULL, 0)
        else:
            alpha = self._alpha(found, unknown, file)
        return self._with_unknown(alpha, unknown)

    def _with_unknown(self, alpha: np.ndarray, unknown: np.ndarray | None) -> np.ndarray:
        if self.has_unknown:
            alpha = np.where(alpha == UNKNOWN, 0, alpha)
        if unknown is not None:
            alpha = np.where(unknown, UNKNOWN, alpha)
        return np.ascontiguousarray(alpha, np.uint8)

    # ------------------------------------------------------------------ declared values

    @property
    def _reads_colours(self) -> bool:
        return any(map(labels.is_colour, (*self.foreground, *self.background, *self.unknown)))

    def _values(self, found: Levels, file: str) -> np.ndarray:
        """int [h, w]: what is declared of each pixel: its value, or its colour as 0xrrggbb."""
        if not found.is_exact:
            raise FieldError(
                f"{file} is a lossy picture, which keeps no values; save the mask as PNG, or "
                f"declare nothing of its values: then {FOREGROUND} and brighter is foreground"
            )
        if not self._reads_colours:
            if found.palette is not None:
                return found.values
            greys = found.greys()
            if greys is not None:
                return greys.values
            if self.foreground != (ANY,):
                raise self._of_colours(found, file)
        rgb = found.rgb()
        if rgb is None:
            raise FieldError(f"{file} holds numbers and no colours; declare numbers")
        return labels.codes_of(rgb)

    def _is_foreground(
        self, values: np.ndarray, unknown: np.ndarray, full: int, file: str
    ) -> np.ndarray:
        background = _is_one_of(self.background, values)
        if self.foreground == (ANY,):
            found: np.ndarray = (values != 0) & ~unknown & ~background
            return found
        foreground = _is_one_of(self.foreground, values)
        known = foreground | unknown | background
        if self._reads_colours or self.background:
            left = ~known if self.background else None
        else:
            left = ~known & (values == full) if full >= _FULL else None
        if left is not None and left.any():
            raise self._not_declared(values, ~(foreground | unknown), left, file)
        return foreground

    def _not_declared(
        self, values: np.ndarray, others: np.ndarray, left: np.ndarray, file: str
    ) -> AmbiguousError:
        """Of values that are not declared to be foreground, background or unknown."""

        def option(where: np.ndarray) -> str:
            found = np.unique(values[where]).tolist()
            words = map(labels.colour_of, found) if self._reads_colours else map(str, found)
            return "|".join(words)

        unknown = "|".join(map(str, self.unknown)) + "|" if self.unknown else ""
        shown = labels.shown_colours if self._reads_colours else shown_values
        return AmbiguousError(
            f"{file} has {shown(values)}, and nothing says what {option(left)} is",
            {
                f"unknown={unknown}{option(left)}": "it is left out",
                f"background={option(others)}": "it is background",
            },
            name=self.name,
            kind=self.kind,
        )

    # ------------------------------------------------------------------ alpha

    def _alpha(self, found: Levels, unknown: np.ndarray | None, file: str) -> np.ndarray:
        """uint8 [h, w] of a file whose foreground is not declared: its alpha, or how bright it is.
        What is unknown is not judged."""
        alpha = found.alpha_bytes()
        if alpha is not None and not found.is_opaque:
            return alpha
        greys = found.greys()
        if greys is None:
            raise self._of_colours(found, file)
        if greys.full == 0 or greys.values.dtype.kind not in "iu":
            raise FieldError(
                f"{file} holds {greys.values.dtype} values, whose range nothing says; save the "
                "mask with 8 or 16 bits"
            )
        if not found.is_exact:
            return np.where(greys.values >= FOREGROUND, _FULL, 0).astype(np.uint8)
        if self.alpha:
            return levels.bytes_of(np.maximum(greys.values, 0), greys.full)
        judged = greys.values if unknown is None else greys.values[~unknown]
        if judged.min(initial=0) < 0 or 0 < judged.max(initial=0) <= greys.full // 2:
            raise self._of_labels(judged, file)
        alpha = levels.bytes_of(np.maximum(greys.values, 0), greys.full)
        if holds_labels(alpha if unknown is None else np.where(unknown, 0, alpha)):
            raise self._of_labels(judged, file)
        return alpha

    def _of_labels(self, values: np.ndarray, file: str) -> AmbiguousError:
        """Of values that are labels rather than alpha."""
        found = [value for value in np.unique(values).tolist() if value]
        first = found[0]
        if found == [1]:
            choices = {
                "foreground=1": "0 is background and 1 foreground",
                "foreground=0": "0 is foreground and 1 background",
            }
        elif found[-1] == _FULL:
            rest = "|".join(map(str, [0, *found[1:]]))
            choices = {
                f"foreground={first},unknown=255": f"{first} is foreground, 255 is left out",
                f"foreground={first},background={rest}": f"{first} is foreground, 255 background",
                f"foreground={ANY}": "all but 0 is foreground",
            }
        else:
            choices = {
                f"foreground={first}": f"{first} alone is foreground; several: 1|2",
                f"foreground={ANY}": "all but 0 is foreground",
            }
        return AmbiguousError(
            f"{file} has {shown_values(values)}, and as alpha, foreground counts from {FOREGROUND}",
            choices,
            name=self.name,
            kind=self.kind,
        )

    def _of_colours(self, found: Levels, file: str) -> FieldError:
        """Of a palette or colours, of which nothing says which are foreground."""
        if not found.is_exact:
            return FieldError(
                f"{file} is a lossy picture of colours, from which the foreground cannot be told; "
                "save the mask as PNG, or in grey"
            )
        has_palette = found.palette is not None
        rgb = found.rgb()
        assert rgb is not None, "a picture of colours has a range"
        present, counts = np.unique(
            found.values if has_palette else labels.codes_of(rgb), return_counts=True
        )
        common = [value for value in present[np.argsort(-counts)].tolist() if value]
        ids = [value for value in present.tolist() if value != _FULL]
        classes = f"classes:classes={max(ids, default=0) + 1}"
        are_classes = has_palette and len(ids) > 2
        choices = {classes: "the palette's indices are those of classes"} if are_classes else {}
        words = [str(value) if has_palette else labels.colour_of(value) for value in common]
        of = "the palette's index" if has_palette else "the colour"
        choices |= {
            f"foreground={word}": f"{of} {word} is foreground; several are separated by |"
            for word in words[: _MOST_CHOICES - 1]
        }
        black = "the palette's index 0" if has_palette else "black"
        choices[f"foreground={ANY}"] = f"all but {black} is foreground"
        return AmbiguousError(
            f"{file} is a picture {'with a palette' if has_palette else 'of colours'}, and nothing "
            "says what in it is foreground",
            choices,
            name=self.name,
            kind=self.kind,
        )


def _is_one_of(wanted: tuple[Label, ...], values: np.ndarray) -> np.ndarray:
    """bool [h, w]"""
    found = np.zeros(values.shape, bool)
    for label in wanted:  # few: by far faster than np.isin, which sorts or makes a table
        if label != ANY:
            found |= values == labels.number_of(label)
    return found
