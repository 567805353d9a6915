"""Read a kit of pictures from a folder: which files, their names, their digest, their pixels.

A name is a file's name without its ending; it becomes the group id of a triple, so two files of a
folder may not share it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from wdtrain.disk.sourcefiles import read_regular
from wdtrain.fields import levels
from wdtrain.fields.errors import FieldError
from wdtrain.fields.levels import read_rgb

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_pictures(folder: Path, what: str) -> list[Path]:
    """The pictures of `folder`, sorted by name; ValueError if there are none or a name is twice."""
    if not folder.is_dir():
        raise ValueError(f"{what} folder {folder} does not exist; name a folder of pictures")
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(
            f"{what} folder {folder} holds no picture ({', '.join(PICTURE_ENDINGS)}); name another "
            "folder"
        )
    seen: dict[str, Path] = {}
    for path in paths:
        if (first := seen.setdefault(path.stem, path)) is not path:
            raise ValueError(
                f"{first.name} and {path.name} in {folder} have the same name; they would be "
                "one group in the splits; rename one"
            )
    return paths


def kit_digest(paths: list[Path]) -> str:
    """BLAKE2b of the names and bytes of files, 16 hex digits: the same kit, the same digest."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        data = hashlib.blake2b(read_regular(path), digest_size=16).digest()
        digest.update(path.name.encode() + b"\0" + data)
    return digest.hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise FieldError(f"{path.name} cannot be read ({error.strerror})") from error


def read_background(path: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3] RGB: the middle square of a photo, resized by area."""
    pixels = read_rgb(_bytes_of(path), name=path.name)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side != size:
        shrinks = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        square = cv2.resize(square, (size, size), interpolation=shrinks)
    return np.ascontiguousarray(square)


def read_cutout(path: Path) -> np.ndarray:
    """uint8 [h, w, 4] RGBA, cropped to where alpha is not 0: its last row touches the ground."""
    found = levels.read(_bytes_of(path), file=path.name)
    alpha = found.alpha_bytes()
    if alpha is None:
        raise FieldError(
            f"{path.name} has no alpha channel, so its outline is unknown; save the cut-out as a "
            "PNG with transparency"
        )
    inside = alpha >= 8
    if not (alpha >= 128).any():
        raise FieldError(f"{path.name} is transparent everywhere; there is nothing to place")
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    pixels = np.dstack([found.colours(file=path.name), alpha])
    cropped = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(cropped)
