"""`classes`: one class id a pixel, 0 to `classes` - 1, or `ignore` where none is known.

A person's file may be a grey or palette PNG (the indices) or `.npy`, its values brought to ids by
`map`; or a picture of colours, by `colours`. Ids beyond the classes are refused, with their name.
The surprise: ids are never averaged; a smaller picture has the id that covers most of the pixel.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from wdtrain.fields import labels, levels, resize
from wdtrain.fields.base import Field, Resizing, plane
from wdtrain.fields.errors import AmbiguousError, FieldError, shown
from wdtrain.fields.labels import is_colour, is_number
from wdtrain.fields.levels import Levels
from wdtrain.fields.resize import Size

Range = tuple[int | None, int | None, int]
"""Values `first` to `last` of files, and the id of the first; None, None: every other value."""
_MAP: Final = re.compile(r"(?:\*|(-?\d{1,5})(?:-(\d{1,5}))?):(\d{1,5})")
_MOST: Final = {8: 255, 16: 65_535}
_MOST_NAME: Final = 80
_MOST_CHOICES: Final = 8
_IGNORED_GREY: Final = 192


def _read_map(text: str) -> tuple[Range, ...]:
    """ "7:0|8:1|*:255", or "0:255|1-150:0": of a range each value the next id"""
    found: list[Range] = []
    for word in text.split("|"):
        match = _MAP.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is none of VALUE:ID, FIRST-LAST:ID and *:ID")
        first, last, target = match.groups()
        start = None if first is None else int(first)
        found.append((start, start if last is None else int(last), int(target)))
    return tuple(found)


def _read_colours(text: str) -> tuple[tuple[str, int], ...]:
    """ "#804080:0|#f423e8:1" """
    found = []
    for word in text.split("|"):
        colour, _, target = word.lower().partition(":")
        if not is_colour(colour):
            raise ValueError(f"{word!r} is not #rrggbb:ID")
        found.append((colour, labels.read_number(target)))
    return tuple(found)


@dataclass(frozen=True)
class ClassesField(Field):
    """classes: how many there are; by default as many as `names`, or as `map` or `colours` name.
    names: of each. bits: 8 or 16, of the stored ids; by default 8 where they fit. ignore: the id
    that counts nowhere; by default the largest of the bits. map: (first, last, id) of values of
    files: `first` becomes `id`, and so on to `last`; (None, None, id) is every other value.
    colours: ("#rrggbb", id) of coloured files."""

    kind: ClassVar[str] = "classes"
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "classes": labels.read_number,
        "names": lambda text: tuple(text.split("|")),
        "bits": labels.read_number,
        "ignore": labels.read_number,
        "map": _read_map,
        "colours": _read_colours,
    }

    classes: int = 0
    names: tuple[str, ...] = ()
    bits: int = 0
    ignore: int = -1
    map: tuple[Range, ...] = ()
    colours: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_types()
        if self.bits == 0:
            object.__setattr__(self, "bits", 8 if self._least_count() <= _MOST[8] else 16)
        if self.bits not in _MOST:
            self._refuse("bits", "ids are stored in 8 or 16 bits")
        if self.ignore == -1:
            object.__setattr__(self, "ignore", _MOST[self.bits])
        if self.classes == 0:
            object.__setattr__(self, "classes", self._least_count())
        most = _MOST[self.bits]
        if not 0 <= self.ignore <= most:
            self._refuse("ignore", f"ids are 0 to {most}")
        if not 1 <= self.classes <= most:
            raise FieldError(
                f"field {self.name} has {self.classes} classes; it is 1 to {most}: declare "
                "classes=40, or names=wall|floor|..."
            )
        if self.names and len(self.names) != self.classes:
            self._refuse("names", f"there are {self.classes} classes, each with a name, or none")
        for target in self._targets():
            if target != self.ignore and not 0 <= target < self.classes:
                raise FieldError(
                    f"field {self.name}: id {target} is declared; ids are 0 to {self.classes - 1}, "
                    f"and {self.ignore} (ignore)"
                )

    def typed(self) -> dict[str, str]:
        """Without names that an option cannot hold, since a | or a comma stands in one."""
        if any("|" in name or "," in name for name in self.names):
            return replace(self, names=()).typed()
        found = super().typed()
        spans = [
            ("*" if first is None else f"{first}" if first == last else f"{first}-{last}", of)
            for first, last, of in self.map
        ]
        for option, pairs in (("map", spans), ("colours", self.colours)):
            if pairs:
                found[option] = "|".join(f"{value}:{of}" for value, of in pairs)
        bits, ignore = found.pop("bits", ""), found.pop("ignore", "")
        if self.declared(self.name, found) != self and ignore:
            found["ignore"] = ignore
        return found if self.declared(self.name, found) == self else {**found, "bits": bits}

    def _least_count(self) -> int:
        """The fewest classes that the declaration speaks of."""
        ignored = (_MOST[8], _MOST[16]) if self.ignore == -1 else (self.ignore,)
        targets = [target for target in self._targets() if target not in ignored]
        return max(self.classes, len(self.names), 1 + max(targets, default=-1))

    def _targets(self) -> list[int]:
        """Every id that is declared."""
        spans = [
            (start or 0, start or 0 if last is None else last, of) for start, last, of in self.map
        ]
        ends = [of + last - first for first, last, of in spans]
        return [*(of for _, _, of in self.map), *ends, *(of for _, of in self.colours)]

    def _check_types(self) -> None:
        for word in ("classes", "bits", "ignore"):
            if not is_number(getattr(self, word)):
                self._refuse(word, "a whole number is needed")
        if not isinstance(self.names, tuple) or not all(
            isinstance(name, str) and 0 < len(name) <= _MOST_NAME for name in self.names
        ):
            self._refuse("names", f"names are texts of up to {_MOST_NAME} characters")
        if len(set(self.names)) < len(self.names):
            self._refuse("names", "no two classes have the same name")
        if not isinstance(self.colours, tuple) or not all(map(_is_pair, self.colours)):
            self._refuse("colours", 'pairs of a colour "#rrggbb" and an id are needed')
        if not isinstance(self.map, tuple) or not all(map(_is_range, self.map)):
            self._refuse("map", "FIRST, LAST and ID are needed of each range of values")
        if self.map and self.colours:
            raise FieldError(f"field {self.name} declares map and colours; files have one of them")
        sources = [colour for colour, _ in self.colours]
        if len(set(sources)) < len(sources):
            self._refuse("colours", "a colour stands twice")
        spans = sorted(
            (first, last) for first, last, _ in self.map if first is not None and last is not None
        )
        if any(start <= last for (_, last), (start, _) in itertools.pairwise(spans)):
            self._refuse("map", "a value stands twice")
        if sum(first is None for first, _, _ in self.map) > 1:
            self._refuse("map", "* stands twice")

    def _refuse(self, word: str, why: str) -> None:
        raise FieldError(f"field {self.name}: {word} is {shown(getattr(self, word))}; {why}")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def blank(self) -> int:
        return self.ignore

    def check(self, array: np.ndarray) -> None:
        """Also for ids that no class has."""
        super().check(array)
        self._check_ids(array, self.name)

    @property
    def resizing(self) -> Resizing:
        return Resizing("majority", unknown=self.ignore)

    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        return resize.majority(array, size, ignore=self.ignore)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w] ids: what is stored."""
        return array

    def preview(self, array: np.ndarray) -> np.ndarray:
        """A colour for each class, far from those of its neighbours; what is ignored in grey."""
        # PASCAL VOC's palette: the bits of the id, the lowest as the highest of red, green, blue.
        rgb = np.zeros((*array.shape, 3), np.uint8)
        for place in range(16):
            is_set = (array.astype(np.uint16) >> place & 1).astype(np.uint8)
            rgb[..., place % 3] |= is_set << (7 - place // 3)
        rgb[array == self.ignore] = _IGNORED_GREY
        return rgb

    # ------------------------------------------------------------------ a person's files

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        if self.colours and array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8:
            return self._of_colours(np.ascontiguousarray(array), file)
        values = labels.whole(plane(array, file=file))
        if values is None:
            raise FieldError(f"{file} holds numbers that are no ids: not whole, or too large")
        return self._of_values(values, file)

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        found = levels.read(data, file=file)
        if not found.is_exact:
            raise FieldError(
                f"{file} is a lossy picture, which does not keep ids as they were; fetch the PNG "
                "that it was made of"
            )
        if not found.is_opaque and found.palette is None:
            raise FieldError(
                f"{file} is transparent in parts, and nothing says what is there; save it without "
                "transparency"
            )
        if self.colours:
            rgb = found.rgb()
            if rgb is None:
                raise FieldError(f"{file} holds numbers and no colours; declare map, not colours")
            return self._of_colours(rgb, file)
        values = found.values if found.palette is not None else None
        if values is None:
            greys = found.greys()
            if greys is None:
                raise self._no_colours(found, file)
            if 0 < greys.full < 255 and not self.map:
                raise self._few_bits(greys, file)
            values = labels.whole(greys.values)
        if values is None:
            raise FieldError(f"{file} holds numbers that are no ids: not whole, or too large")
        return self._of_values(values, file)

    def _of_values(self, values: np.ndarray, file: str) -> np.ndarray:
        if not self.map:
            self._check_ids(values, file)
            return np.ascontiguousarray(values, self.dtype)
        present, places = np.unique(values, return_inverse=True)
        others = [target for first, _, target in self.map if first is None]
        ids = np.full(len(present), others[0] if others else -1, np.int64)
        for first, last, target in self.map:
            if first is not None and last is not None:
                inside = (present >= first) & (present <= last)
                ids[inside] = target + present[inside] - first
        if (ids < 0).any():
            left = present[ids < 0]
            raise FieldError(
                f"{file} has {labels.shown_values(left)}, which map does not name; add *:"
                f"{self.ignore} to it if all others are to be ignored"
            )
        return ids.astype(self.dtype)[places].reshape(values.shape)

    def _check_ids(self, ids: np.ndarray, file: str) -> None:
        bad = ids[((ids >= self.classes) | (ids < 0)) & (ids != self.ignore)]
        if bad.size:
            raise FieldError(
                f"{file} has {labels.shown_values(bad)}, and ids are 0 to {self.classes - 1}, and "
                f"{self.ignore} (ignore); declare classes={int(bad.max()) + 1}, or what becomes of "
                f"the others: map=0-{self.classes - 1}:0|*:{self.ignore}"
            )

    def _of_colours(self, rgb: np.ndarray, file: str) -> np.ndarray:
        codes = labels.codes_of(rgb)
        known = np.array([labels.number_of(colour) for colour, _ in self.colours])
        targets = np.array([target for _, target in self.colours])
        order = np.argsort(known)
        known, targets = known[order], targets[order]
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        other = known[at] != codes
        if other.any():
            raise FieldError(
                f"{file} has {labels.shown_colours(codes[other])}, which colours does not name; "
                f"add each with its id, or with {self.ignore} to ignore it"
            )
        return targets[at].astype(self.dtype)

    def _no_colours(self, found: Levels, file: str) -> AmbiguousError:
        rgb = found.rgb()
        assert rgb is not None, "a picture of colours has a range"
        present, counts = np.unique(labels.codes_of(rgb), return_counts=True)
        common = [int(code) for code in present[np.argsort(-counts)][:_MOST_CHOICES]]
        words = "|".join(f"{labels.colour_of(code)}:{at}" for at, code in enumerate(common))
        more = " and so on" if len(present) > len(common) else ""
        return AmbiguousError(
            f"{file} is a picture of {len(present):,} colours, and nothing says the class of each",
            {f"colours={words}": f"with the id of each{more}"},
            name=self.name,
            kind=self.kind,
        )

    def _few_bits(self, greys: Levels, file: str) -> AmbiguousError:
        """Of a grey PNG of 1, 2 or 4 bits: programs write ids so, and others shrink greys so."""
        present = np.unique(greys.values).tolist()
        as_shown = "|".join(f"{value}:{value * (255 // greys.full)}" for value in present)
        return AmbiguousError(
            f"{file} is a grey PNG of {greys.full.bit_length()} bits",
            {
                f"map=0-{greys.full}:0": "its values are the ids",
                f"map={as_shown}": "the ids are the greys that viewers show",
            },
            name=self.name,
            kind=self.kind,
        )


def _is_pair(found: object) -> bool:
    return (
        isinstance(found, tuple) and len(found) == 2 and is_colour(found[0]) and is_number(found[1])
    )


def _is_range(found: object) -> bool:
    if not isinstance(found, tuple) or len(found) != 3 or not is_number(found[2]):
        return False
    first, last, _ = found
    if first is None or last is None:
        return first is last
    return is_number(first) and is_number(last) and first <= last
