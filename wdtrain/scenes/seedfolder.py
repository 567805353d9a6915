"""The seed project's folders: fg/NAME.jpg, mask/mask_NAME.jpg, depth/depth_NAME.jpg.

Overlays keep their JPEG bytes. Masks are the JPEG's greys, kept as alpha (its ringing is what the
files hold). Depth greys are relative: 0..255 becomes 0..1, brighter stays larger.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from wdtrain.pictures import look, read_grey
from wdtrain.triple import DepthFormat, Triple, TripleError

_FOLDERS = (("fg", ""), ("mask", "mask_"), ("depth", "depth_"))
_ENDING = ".jpg"


class SeedFolder:
    """A source of the triples in a folder of that layout.

    A name with a part missing, damaged, or of another size than its overlay is rejected when it is
    loaded. Groups: numbers behind `bg` and `fg` in a name (`bg12_fg7_3`), else unknown (-1).
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        for name, _ in _FOLDERS:
            if not (self.folder / name).is_dir():
                raise ValueError(
                    f"{self.folder} has no folder {name}/; the seed project's layout is "
                    "fg/NAME.jpg, mask/mask_NAME.jpg, depth/depth_NAME.jpg"
                )
        self.names = sorted({name for part in _FOLDERS for name in self._names_in(*part)})
        if not self.names:
            raise ValueError(f"{self.folder} holds no {_ENDING} file in fg/, mask/ or depth/")
        self.depth_format = DepthFormat(kind="relative")
        self.description: dict[str, Any] = {
            "name": "import-seed",
            "version": 1,
            "count": len(self.names),
            "files_digest": self._files_digest(),
        }

    def _names_in(self, folder: str, prefix: str) -> list[str]:
        return [
            path.name[len(prefix) : -len(_ENDING)]
            for path in (self.folder / folder).iterdir()
            if path.name.startswith(prefix) and path.name.lower().endswith(_ENDING)
        ]

    def _files_digest(self) -> str:
        """BLAKE2b of the names and sizes of all files: reading 400,000 of them would take long."""
        digest = hashlib.blake2b(digest_size=8)
        for folder, _ in _FOLDERS:
            for path in sorted((self.folder / folder).iterdir()):
                digest.update(f"{folder}/{path.name} {path.stat().st_size}\0".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(background, cut-out) numbers found in the names, each int64 [n]; -1 where unknown."""
        names = [self.names[int(index)] for index in np.asarray(indices)]
        found = [[_number(name, part) for name in names] for part in ("bg", "fg")]
        return np.array(found[0], np.int64), np.array(found[1], np.int64)

    def key(self, index: int) -> str:
        """The name, with what a key may not hold replaced; numbered, so that no two are equal."""
        return f"{re.sub(r'[^A-Za-z0-9_-]', '_', self.names[index])}-{index:07d}"

    def load(self, index: int) -> Triple:
        """Triple `index`; TripleError says which of its files is missing or cannot be used."""
        name = self.names[index]
        overlay, mask, depth = (self._bytes(part, name) for part in _FOLDERS)
        shape = look(overlay, name="overlay").shown
        greys = [read_grey(data, name=part) for data, part in ((mask, "mask"), (depth, "depth"))]
        for part, grey in zip(("mask", "depth"), greys, strict=True):
            if grey.shape != shape:
                raise TripleError(
                    f"{part} is {grey.shape[1]} x {grey.shape[0]} pixels, its overlay "
                    f"{shape[1]} x {shape[0]}; they cannot lie on each other"
                )
        unit = greys[1].astype(np.float64) / 255
        meta: dict[str, Any] = {"name": name}
        for part, field in (("bg", "background"), ("fg", "cutout")):
            if (number := _number(name, part)) >= 0:
                meta[field] = f"{part}-{number:04d}"
        return Triple(self.key(index), overlay, greys[0], self.depth_format.encode(unit), meta)

    def _bytes(self, part: tuple[str, str], name: str) -> bytes:
        folder, prefix = part
        path = self.folder / folder / f"{prefix}{name}{_ENDING}"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            what = "overlay" if folder == "fg" else folder
            raise TripleError(f"{what} is missing: there is no {folder}/{path.name}") from None


def _number(name: str, part: str) -> int:
    found = re.search(rf"{part}[-_]?(\d+)", name)
    return int(found.group(1)) if found else -1
