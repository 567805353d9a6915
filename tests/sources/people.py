"""Folders as people have them: pictures, masks, classes and depths under their own names."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
COUNT = 12


def photo(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width, 3] of many colours, one of its own for each number."""
    few = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC)


def figure(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width] of 0 and 1: a disk."""
    y, x = np.mgrid[:height, :width]
    return ((y - 8 - number % 5) ** 2 + (x - 12 - number % 7) ** 2 < 40).astype(np.uint8)


def trimap(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width] of 0, 128 and 255: a disk with a broad rim that is not known."""
    y, x = np.mgrid[:height, :width]
    far = (y - 8 - number % 5) ** 2 + (x - 12 - number % 7) ** 2
    return np.where(far < 40, 255, np.where(far < 130, 128, 0)).astype(np.uint8)


def metres(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """float32 [height, width] of 1 to 10 m."""
    far = np.linspace(1, 9, height * width, dtype=np.float32).reshape(height, width)
    return far + np.float32(number % 10 / 10)


def classes(number: int, count: int = 8) -> np.ndarray:
    """uint8 [h, w] ids from 0 to count - 1, each of them there."""
    columns = np.arange(WIDTH) * count // WIDTH
    return np.tile(((columns + number) % count).astype(np.uint8), (HEIGHT, 1))


def with_palette(ids: np.ndarray) -> Image.Image:
    """The picture of a palette of loud colours."""
    picture = Image.new("P", ids.shape[::-1])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [200, 90, 10] * 252)
    picture.putdata(ids.ravel().tolist())
    return picture


def write(path: Path, values: np.ndarray | Image.Image) -> Path:
    """A file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, np.ndarray) and path.suffix == ".npy":
        np.save(path, values)
    else:
        picture = Image.fromarray(values) if isinstance(values, np.ndarray) else values
        picture.save(path, **({"quality": 95} if path.suffix in (".jpg", ".jpeg") else {}))
    return path


def coded(values: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, form)
    return stream.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(numbers: Iterable[int], *, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of a WebDataset: a JPEG, a PNG of classes and a JSON of each sample."""
    members = []
    for number in numbers:
        key = f"{number - start:06d}"
        members += [
            (f"{key}.jpg", coded(photo(number), "JPEG")),
            (f"{key}.seg.png", coded(figure(number) * np.uint8(255), "PNG")),
            (f"{key}.json", b'{"number": %d}' % number),
        ]
    return members
