"""The seed project's folders: fg/NAME.jpg, mask/mask_NAME.jpg, depth/depth_NAME.jpg.

Overlays keep their JPEG bytes. Masks are the JPEG's greys, kept as alpha (its ringing is what the
files hold). Depth greys are relative: 0..255 becomes 0..1, brighter stays larger.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.disk.sourcefiles import (
    PassedOver,
    bytes_or_none,
    content_of,
    is_clutter,
    read_regular,
    signal_of,
)
from wdtrain.fields import DepthFormat, FieldError, Sample, Value, triple_of
from wdtrain.fields.pictures import read_grey, read_picture_header

_FOLDERS = (("fg", ""), ("mask", "mask_"), ("depth", "depth_"))
_ENDINGS: Final = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Of JPEGs, in any case of letters; the first is the usual one."""
_PARTS: Final = (("bg", "background"), ("fg", "cutout"))


class SeedFolder:
    """A source of the triples in a folder of that layout.

    A name with a part missing, damaged, or of another size than its overlay is rejected when it is
    loaded. Parts: the numbers behind `bg` and `fg` where a name has both (`bg12_fg7_3`), and where
    these numbers come again in other names; else they are not known, and nothing is made up: the
    running number of `fg_bg_17` is of no background.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        for name, _ in _FOLDERS:
            if not (self.folder / name).is_dir():
                raise ValueError(
                    f"{self.folder} has no folder {name}/; the seed project's layout is "
                    "fg/NAME.jpg, mask/mask_NAME.jpg, depth/depth_NAME.jpg"
                )
        self.passed_over = PassedOver()
        self._digest = 0  # of the names of files; what is in them, packing finds as it reads
        self._unusual: dict[tuple[str, str], list[str]] = {}
        self.names = sorted({name for part in _FOLDERS for name in self._names_in(*part)})
        if not self.names:
            raise ValueError(f"{self.folder} holds no {_ENDINGS[0]} file in fg/, mask/ or depth/")
        self._pass_over_the_rest()
        self._knows_parts = _are_parts(self.names)
        self.depth_format = DepthFormat(kind="relative")
        self.fields = triple_of(self.depth_format)
        self.description: dict[str, Any] = {
            "name": "import-seed",
            "version": 2,
            "count": len(self.names),
            "files_digest": f"{self._digest & (1 << 64) - 1:016x}",
        }
        self._loaded = (-1, 0)

    def _names_in(self, folder: str, prefix: str) -> Iterator[str]:
        """The names in one folder, each once for every file; all that has none is passed over."""
        with os.scandir(self.folder / folder) as entries:
            for entry in entries:
                stem, ending = os.path.splitext(entry.name)
                is_one = ending.lower() in _ENDINGS and stem.startswith(prefix)
                if not is_one or stem == prefix or stem.startswith("."):
                    self._pass_over(f"{folder}/{entry.name}")
                    continue
                self._digest += xxhash.xxh3_64_intdigest(os.fsencode(f"{folder}/{entry.name}"))
                name = stem[len(prefix) :]
                if ending != _ENDINGS[0]:
                    self._unusual.setdefault((folder, name), []).append(ending)
                yield name

    def _pass_over_the_rest(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in dict(_FOLDERS):
                self._pass_over(path.name)

    def _pass_over(self, name: str) -> None:
        if not is_clutter(name.rpartition("/")[2]):
            self.passed_over.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(background, cut-out) numbers found in the names, each int64 [n]; -1 where unknown."""
        names = [self.names[int(index)] for index in np.asarray(indices)]
        found = np.array([self._numbers(name) for name in names], np.int64).reshape(-1, 2)
        return found[:, 0].copy(), found[:, 1].copy()

    def _numbers(self, name: str) -> tuple[int, int]:
        return numbers_in(name) if self._knows_parts else (-1, -1)

    def key(self, index: int) -> str:
        """The name, with what a key may not hold replaced; numbered, so that no two are equal."""
        return f"{re.sub(r'[^A-Za-z0-9_-]', '_', self.names[index])}-{index:07d}"

    def load(self, index: int) -> Sample:
        """Triple `index`; FieldError says which of its files is missing or cannot be used."""
        name = self.names[index]
        overlay, mask, depth = (self._bytes(part, index) for part in _FOLDERS)
        self._loaded = index, content_of((overlay, mask, depth))
        shape = read_picture_header(overlay, name="overlay").shown
        greys = [read_grey(data, name=part) for data, part in ((mask, "mask"), (depth, "depth"))]
        for part, grey in zip(("mask", "depth"), greys, strict=True):
            if grey.shape != shape:
                raise FieldError(
                    f"{part} is {grey.shape[1]} x {grey.shape[0]} pixels, its overlay "
                    f"{shape[1]} x {shape[0]}; they cannot lie on each other"
                )
        unit = greys[1].astype(np.float64) / 255
        meta: dict[str, Any] = {"name": name}
        for number, (part, field) in zip(self._numbers(name), _PARTS, strict=True):
            if number >= 0:
                meta[field] = f"{part}-{number:04d}"
        codes = self.depth_format.encode(unit)
        arrays: dict[str, Value] = {"overlay": overlay, "mask": greys[0], "depth": codes}
        return Sample(self.key(index), arrays, meta)

    def signal(self, index: int) -> int:
        """Of the files of a triple: see `sourcefiles.signal_of`."""
        return signal_of(self._all_paths(index))

    def content(self, index: int) -> int:
        """Of the files of a triple, as they were loaded where it was loaded last: see
        `sourcefiles.content_of`."""
        if self._loaded[0] == index:
            return self._loaded[1]
        return content_of(map(bytes_or_none, self._all_paths(index)))

    def _all_paths(self, index: int) -> list[str]:
        return [path for part in _FOLDERS for path in self._paths(part, index)]

    def _paths(self, part: tuple[str, str], index: int) -> list[str]:
        """The files that a part of a triple may be: the usual one, or what there is besides."""
        folder, prefix = part
        start = f"{self.folder / folder}/{prefix}{self.names[index]}"
        others = [
            start + ending for ending in sorted(self._unusual.get((folder, self.names[index]), ()))
        ]
        usual = start + _ENDINGS[0]
        if others and not os.path.lexists(usual):
            return others
        return [usual, *others]

    def _bytes(self, part: tuple[str, str], index: int) -> bytes:
        folder = part[0]
        what = "overlay" if folder == "fg" else folder
        paths = self._paths(part, index)
        file = f"{folder}/{os.path.basename(paths[0])}"
        if len(paths) > 1:
            names = " and ".join(os.path.basename(path) for path in paths)
            raise FieldError(f"more than one {what}: {names}; keep one")
        try:
            return read_regular(paths[0])
        except FileNotFoundError:
            if os.path.lexists(paths[0]):
                raise FieldError(
                    f"{what} is missing: {file} is a link, and what it links to is gone"
                ) from None
            raise FieldError(f"{what} is missing: there is no {file}") from None
        except OSError as error:
            raise FieldError(f"{what} is unreadable: {file}: {error.strerror}") from None


def numbers_in(name: str) -> tuple[int, int]:
    """The numbers behind `bg` and `fg` in a name that has both, each a word of its own; else -1."""
    found = [re.search(rf"(?<![A-Za-z]){part}[-_]?(\d+)", name) for part, _ in _PARTS]
    if found[0] is None or found[1] is None:
        return -1, -1
    return int(found[0][1]), int(found[1][1])


def _are_parts(names: list[str]) -> bool:
    """Whether the numbers in the names group anything: where each comes once, they only count."""
    pairs = [pair for pair in map(numbers_in, names) if pair != (-1, -1)]
    return any(len({pair[place] for pair in pairs}) < len(pairs) for place in (0, 1))
