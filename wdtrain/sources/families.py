"""Files whose names differ in one part only, as patterns: what somebody's folder seems to hold.

Reads names alone, a bounded number of them. `suggest.py` looks into the files.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from wdtrain.disk.sourcefiles import PassedOver
from wdtrain.sources.division import FOLDERS
from wdtrain.sources.listing import files_below

MOST_FILES: Final = 50_000
ENDINGS: Final = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "tif", "tiff", "bmp", "npy", "npz", "pfm", "exr"
)  # fmt: skip
"""Of files that may be fields."""
WORDS: Final = {
    "image": "image images img imgs rgb color colors colour colours photo photos picture pictures "
    "overlay overlays jpegimages left input inputs frame frames fg bg fg_bg",
    "mask": "mask masks matte mattes alpha alphas silhouette silhouettes foreground saliency",
    "depth": "depth depths disp disparity disparities distance depthmap depth_map",
    "classes": "label labels labelids seg segs segm segmentation semantic annotation annotations "
    "class classes segmentationclass gt target targets ground_truth",
}
"""By kind: the words in names of folders and files that mean it."""
KIND_OF: Final = {word: kind for kind, words in WORDS.items() for word in words.split()}
_ANY: Final = "|".join(sorted(map(re.escape, KIND_OF), key=len, reverse=True))
_STEM: Final = re.compile(
    rf"(?P<before>(?:[A-Za-z]+[._ -])?(?:{_ANY})[._ -]+)?(?P<key>.+?)"
    rf"(?P<after>[._ -]+(?:{_ANY})(?:[._ -][A-Za-z]+)?)?",
    re.IGNORECASE | re.DOTALL,
)
_LETTERS: Final = re.compile(r"[A-Za-z_.-]+")
_WORD: Final = re.compile(rf"(?<![A-Za-z])(?:{_ANY})(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Family:
    """Files of one pattern: the folders in it ({split} and ** among them), what stands before and
    after the key, the endings, the keys (folders joined to them), and one path of each key."""

    folders: tuple[str, ...]
    before: str
    after: str
    endings: tuple[str, ...]
    paths: dict[str, str] = field(compare=False)

    @property
    def pattern(self) -> str:
        folders = "".join(f"{folder}/" for folder in self.folders)
        return f"{folders}{self.before}{{key}}{self.after}.{'|'.join(self.endings)}"

    @property
    def word(self) -> str:
        """The word in its names that says what it is; "" where none does."""
        for text in (self.after, self.before, *reversed(self.folders)):
            found = _WORD.findall(text.replace("_", "-") if text not in KIND_OF else text)
            if text.lower() in KIND_OF:
                return text.lower()
            if found:
                return str(found[-1]).lower()
        return ""


def families_in(folder: Path, *, by_folder: bool = False) -> list[Family]:
    """The families of files below a folder, the largest first. by_folder: files of different
    folders are never of one family, splits apart."""
    found: dict[tuple[tuple[str, ...], str, str, str], list[tuple[str, tuple[str, ...], str]]]
    found = defaultdict(list)
    for path in _paths(folder):
        *above, name = path.split("/")
        stem, _, ending = name.rpartition(".")
        if not stem or ending.lower() not in ENDINGS:
            continue
        match = _STEM.fullmatch(stem)
        assert match is not None, "every stem has a key"
        shape = tuple(map(_split_or_name if by_folder else _shape_of, above))
        place = shape, match["before"] or "", match["after"] or "", ending
        found[place].append((match["key"], tuple(above), path))
    families = [
        made
        for (shape, before, after, ending), files in found.items()
        if (made := _family(shape, before, after, ending, files)) is not None
    ]
    return sorted(_merged(families), key=lambda each: -len(each.paths))


def _paths(folder: Path) -> Iterator[str]:
    names = islice(files_below(os.fsencode(folder), PassedOver()), MOST_FILES)
    return (path for name in names if (path := _text(name)) is not None)


def _text(name: bytes) -> str | None:
    text = name.decode("utf-8", "replace")
    return text if "\ufffd" not in text and not set("{}*|,") & set(text) else None


def _split_or_name(folder: str) -> str:
    return "{split}" if folder.lower() in FOLDERS else folder


def _shape_of(folder: str) -> str:
    """What of a folder's name is of the pattern: its word, that it is a split, or nothing yet."""
    if folder.lower() in FOLDERS:
        return "{split}"
    return folder if _WORD.search(folder.replace("_", "-")) or folder.lower() in KIND_OF else "*"


def _family(
    shape: tuple[str, ...],
    before: str,
    after: str,
    ending: str,
    files: Sequence[tuple[str, tuple[str, ...], str]],
) -> Family | None:
    """Folders that are always the same are of the pattern; a run of others is `**`."""
    if shape.count("{split}") > 1:
        return None
    folders: list[str] = []
    for at, one in enumerate(shape):
        names = {above[at] for _, above, _ in files}
        if one != "*":
            folders.append(one)
        elif len(names) == 1:
            folders.append(names.pop())
        elif not folders or folders[-1] != "**":
            folders.append("**")
    if folders.count("**") > 1:
        return None
    loose = [at for at, one in enumerate(shape) if one in ("*", "{split}")]
    fixed = set(folders)
    paths = {}
    for key, above, path in files:
        varying = [above[at] for at in loose if above[at] not in fixed]
        paths["/".join([*varying, key])] = path
    return Family(tuple(folders), before, after, (ending.lower(),), paths)


def _merged(families: list[Family]) -> list[Family]:
    """Families that differ in their endings only, and share no key, are one."""
    found: dict[tuple[tuple[str, ...], str, str], list[Family]] = defaultdict(list)
    for family in families:
        same = found[family.folders, family.before, family.after]
        for at, other in enumerate(same):
            is_array = [set(each.endings) & {"npy", "npz"} for each in (family, other)]
            if not family.paths.keys() & other.paths.keys() and bool(is_array[0]) == bool(
                is_array[1]
            ):
                endings = tuple(dict.fromkeys([*other.endings, *family.endings]))
                same[at] = replace(other, endings=endings, paths={**other.paths, **family.paths})
                break
        else:
            same.append(family)
    return [family for same in found.values() for family in same]


def with_partner(leading: Family, others: Sequence[Family]) -> tuple[Family, list[Family]]:
    """The leading family and those that have keys in common with it: as they are, or without the
    letters that all names of a family begin and end with, so that `img_7` and `m7` are 7."""
    best: tuple[Family, list[Family]] = (leading, [])
    for first in dict.fromkeys((leading, _without_letters(leading))):
        found = []
        for other in others:
            for one in dict.fromkeys((other, _without_letters(other))):
                if first.paths.keys() & one.paths.keys():
                    found.append(one)
                    break
        if len(found) > len(best[1]):
            best = first, found
    return best


def _common_start(names: Sequence[str]) -> str:
    """What all of them begin with: as far as the first and the last in order agree."""
    first, last = min(names), max(names)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((at for at, pair in pairs if pair[0] != pair[1]), None)]


def _without_letters(family: Family) -> Family:
    names = [key.rpartition("/")[2] for key in family.paths]
    before = _common_start(names)
    match = _LETTERS.match(before)
    before = match[0] if match and len(names) > 1 else ""
    rest = [name[len(before) :][::-1] for name in names]
    after = _common_start(rest)[::-1]
    after = after[re.search(r"[A-Za-z_.-]*$", after).start() :] if len(names) > 1 else ""  # type: ignore[union-attr]
    if not all(len(name) > len(before) + len(after) for name in names):
        return family
    paths = {}
    for key, path in family.paths.items():
        above, slash, name = key.rpartition("/")
        paths[f"{above}{slash}{name[len(before) : len(name) - len(after)]}"] = path
    return replace(family, before=family.before + before, after=after + family.after, paths=paths)
