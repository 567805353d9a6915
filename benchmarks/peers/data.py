"""The pictures that everybody reads: our own datasets, and the neutral copy the peers write from.

Runs in the project's environment. Everything is made once into a cache folder and gets its final
name when it is whole. The neutral copy is read from the `.tar` shards with Python's own tarfile,
so that nothing that is measured has had a hand in what it is measured against.
"""

from __future__ import annotations

import io
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.lib.format import open_memmap

from peers.shared import Shared
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.scenes.playground import Playground

DIFFICULTY = 0.3
OURS = {
    "image-zst": ("image", "zstd:9"),
    "image-tar": ("image", "none"),
    "raw-zst": ("raw", "zstd:-1"),
    "raw-tar": ("raw", "none"),
}
"""Kind -> encoding and compression."""

EVERYTHING = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)
"""All pictures are in `train`."""


@dataclass(frozen=True)
class Pictures:
    """`count` playground triples of size x size in `cache`; read_size: what a batch holds."""

    cache: Path
    count: int
    size: int
    read_size: int

    @property
    def folder(self) -> Path:
        return self.cache / f"{self.count}x{self.size}"

    @property
    def shared(self) -> Path:
        return self.folder / f"shared-2-read-at-{self.read_size}"

    def ours(self, kind: str) -> Path:
        return self.folder / f"ours-{kind}"

    def make(self, kinds: tuple[str, ...]) -> None:
        """Our datasets of these kinds and the neutral copy are there."""
        for kind in kinds:
            if not (self.ours(kind) / "manifest.json").exists():
                source = Playground(self.count, self.size, difficulty=DIFFICULTY)
                encoding, compression = OURS[kind]
                pack(
                    source,
                    self.ours(kind),
                    encoding=encoding,
                    compression=compression,
                    holdout=EVERYTHING,
                )
        made_once(self.shared, self._make_shared)

    def _make_shared(self, folder: Path) -> None:
        shared, images = Shared(folder), self.ours("image-tar")
        shared.write_members(
            (sample["overlay.jpg"], sample["mask.png"], sample["depth.png"])
            for sample in samples_of(images)
        )
        side = self.read_size
        flat = dict.fromkeys(("mask", "depth", "depth_median"), (side, side))
        colour = dict.fromkeys(("overlay_jpeg", "overlay_raw"), (side, side, 3))
        if self.size != side:
            del colour["overlay_raw"]
        arrays = {
            name: open_memmap(folder / f"{name}.npy", "w+", np.uint8, (self.count, *shape))
            for name, shape in (colour | flat).items()
        }
        for row, (jpeg, mask, depth) in enumerate(shared.encoded()):
            arrays["overlay_jpeg"][row] = resized(simplejpeg.decode_jpeg(jpeg, "RGB"), side)
            arrays["mask"][row] = resized(png(mask), side)
            arrays["depth"][row] = nearest(png(depth), side)
            arrays["depth_median"][row] = median(png(depth), side)
        if "overlay_raw" in arrays:
            for row, sample in enumerate(samples_of(self.ours("raw-tar"))):
                arrays["overlay_raw"][row] = npy(sample["overlay.npy"])
        for array in arrays.values():
            array.flush()


def made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """`make` has filled `folder`, now or earlier, to its end."""
    if folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    make(aside)
    aside.rename(folder)


def samples_of(dataset: Path) -> Iterator[dict[str, bytes]]:
    """The members of each sample of a `.tar` dataset by extension, in the order of the shards."""
    for shard in sorted(dataset.glob("train-*.tar")):
        with tarfile.open(shard) as archive:
            sample: dict[str, bytes] = {}
            for info in archive:
                file = archive.extractfile(info)
                assert file is not None
                sample[info.name.split(".", 1)[1]] = file.read()
                if info.name.endswith(".json"):  # the last member of each
                    yield sample
                    sample = {}


def png(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def npy(data: bytes) -> np.ndarray:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def resized(picture: np.ndarray, side: int) -> np.ndarray:
    """By area: what the readers that make pictures smaller are compared with."""
    if picture.shape[0] == side:
        return picture
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))


def median(depth: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side]: of all that a pixel covers, cut into equal squares, the middle depth."""
    common = math.gcd(len(depth), side)
    up, down = side // common, len(depth) // common
    fine = depth.astype(np.int16).repeat(up, 0).repeat(up, 1).reshape(side, down, side, down)
    covered = fine.swapaxes(1, 2).reshape(side, side, -1)
    known = (covered > 0).sum(-1)
    ordered = np.sort(np.where(covered > 0, covered, 256), -1)
    middle = np.take_along_axis(ordered, np.maximum(known - 1, 0)[..., None] // 2, -1)[..., 0]
    return np.where(2 * known < covered.shape[-1], 0, middle).astype(np.uint8)


def nearest(picture: np.ndarray, side: int) -> np.ndarray:
    if picture.shape[0] == side:
        return picture
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_NEAREST_EXACT))
