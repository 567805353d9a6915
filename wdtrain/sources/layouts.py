"""Layouts that many people have, by name: what `--field` would have to declare of each.

A layout is a table of fields with the patterns of their files; `--field` beside `--layout` replaces
the field of its name, or adds one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wdtrain.disk.failures import StoreError
from wdtrain.sources.field_options import FieldOption, parse_field
from wdtrain.sources.pattern_source import PatternSource
from wdtrain.sources.seed_parts import SeedParts

_PICTURE: Final = "jpg|jpeg|png"
_LISTS: Final = "ImageSets/Segmentation"
_VOC_LISTS: Final = {"train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """fields: as `--field` has them. needs: folders that must be there. what: one line of help."""

    fields: tuple[str, ...]
    needs: tuple[str, ...]
    what: str

    def is_in(self, folder: Path) -> bool:
        """Whether the folders of this layout are there."""
        return bool(self.needs) and all((folder / name).is_dir() for name in self.needs)


LAYOUTS: Final = {
    "seed": Layout(
        (
            "overlay=image:fg/{key}.jpg|jpeg|jpe|jfif|png",
            "mask=mask:mask/mask_{key}.jpg|jpeg|jpe|jfif|png",
            "depth=depth:depth/depth_{key}.jpg|jpeg|jpe|jfif|png,unit=relative,bits=8",
        ),
        ("fg", "mask", "depth"),
        "fg/KEY.jpg, mask/mask_KEY.jpg, depth/depth_KEY.jpg",
    ),
    "yolo-depth": Layout(
        (
            f"image=image:images/{{split}}/{{key}}.{_PICTURE}",
            "depth=depth:depth/{split}/{key}.npy,unit=m",
        ),
        ("images", "depth"),
        "images/SPLIT/KEY.jpg, depth/SPLIT/KEY.npy in metres",
    ),
    "voc": Layout(
        (
            "image=image:JPEGImages/{key}.jpg",
            "labels=classes:SegmentationClass/{key}.png,classes=21",
        ),
        ("JPEGImages", "SegmentationClass"),
        f"JPEGImages/KEY.jpg, SegmentationClass/KEY.png, {_LISTS}/train.txt and val.txt",
    ),
    "nyu": Layout(
        (
            "image=image:**/{key}_{colors,rgb,color}.png|jpg",
            "depth=depth:**/{key}_depth.png,unit=mm",
        ),
        (),
        "KEY_colors.png, KEY_depth.png of 16 bits in millimetres",
    ),
}
"""By name, those whose files patterns can say; `triples` and `hf` are sources of their own."""


def open_layout(name: str, folder: Path, declared: Sequence[FieldOption]) -> PatternSource:
    """The source of a folder in a layout. StoreError for a folder of another layout."""
    layout = LAYOUTS[name]
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; --layout {name} is {layout.what}")
    if missing := [each for each in layout.needs if not (folder / each).is_dir()]:
        raise StoreError(
            f"{folder} has no folder {missing[0]}/; --layout {name} is {layout.what}; name the "
            "folder above, or say with --field how the files lie"
        )
    options = merged([parse_field(text) for text in layout.fields], declared)
    return _MAKERS.get(name, PatternSource)(folder, options)


def layout_with(patterns: Mapping[str, str]) -> str | None:
    """The layout whose fields lie where these lie; patterns: by name, options behind them or not.
    A layout may tell more than patterns do: split lists, parts."""
    for name, layout in LAYOUTS.items():
        fields = map(parse_field, layout.fields)
        if all(patterns.get(each.name, "").split(",")[0] == each.pattern for each in fields):
            return name
    return None


def merged(first: Sequence[FieldOption], more: Sequence[FieldOption]) -> list[FieldOption]:
    """Declared fields, those of the same name replaced by what was declared later."""
    found = {option.name: option for option in (*first, *more)}
    return list(found.values())


def _seed(folder: Path, options: Sequence[FieldOption]) -> PatternSource:
    return PatternSource(folder, options, parts=SeedParts)


def _voc(folder: Path, options: Sequence[FieldOption]) -> PatternSource:
    """Pictures without labels are many there, and of no list."""
    return PatternSource(folder, options, lists=_voc_lists(folder) or _with_labels(folder))


def _voc_lists(folder: Path) -> Mapping[str, list[str]]:
    """The names of each split, as the lists have them: one a line, without what follows it."""
    found = {}
    for name, split in _VOC_LISTS.items():
        path = folder / _LISTS / f"{name}.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            found[split] = [re.split(r"\s", line.strip())[0] for line in lines if line.strip()]
    twice = set(found.get("train", ())) & set(found.get("val", ()))
    if twice:
        raise StoreError(
            f"{folder / _LISTS}: {min(twice)} stands in train.txt and in val.txt; keep one"
        )
    return found


def _with_labels(folder: Path) -> Mapping[str, list[str]]:
    """All that has labels, where there are no lists."""
    return {"train": [path.stem for path in (folder / "SegmentationClass").glob("*.png")]}


_MAKERS: Final[dict[str, Callable[[Path, Sequence[FieldOption]], PatternSource]]] = {
    "seed": _seed,
    "voc": _voc,
}
