"""The neutral copy of all pictures that every peer's own writer reads, and that verifies readers.

A folder of plain files that numpy maps: members as they lie in the shards (`jpeg`, `mask_png`,
`depth_png`), one after the other with their offsets, and decoded arrays. The surprise: there are
two overlays, what the JPEG decodes to and what the raw encoding stores: packing encodes once more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEMBERS = ("jpeg", "mask_png", "depth_png")
ARRAYS = ("overlay_jpeg", "overlay_raw", "mask", "depth", "depth_median")


@dataclass(frozen=True)
class Shared:
    """The copy in a folder, as long as it is there."""

    folder: Path

    def member(self, name: str) -> Iterator[bytes]:
        """The bytes of one member of every sample, in order."""
        blob = np.memmap(self.folder / f"{name}.bin", np.uint8, "r")
        offsets = np.load(self.folder / f"{name}.offsets.npy")
        for start, stop in itertools.pairwise(offsets):
            yield blob[start:stop].tobytes()

    def encoded(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(JPEG, PNG of the mask, PNG of the depth) of every sample."""
        yield from zip(*(self.member(name) for name in MEMBERS), strict=True)

    def array(self, name: str) -> np.ndarray:
        """uint8 [samples, h, w] or [samples, h, w, 3], mapped."""
        array: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def raw(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(overlay, mask, depth) of every sample, as the raw encoding stores them."""
        yield from zip(*map(self.array, ("overlay_raw", "mask", "depth")), strict=True)

    def write_members(self, samples: Iterable[tuple[bytes, ...]]) -> None:
        """The members of all samples lie in the folder, with their offsets."""
        ends: list[list[int]] = [[0] for _ in MEMBERS]
        with ExitStack() as stack:
            files = [
                stack.enter_context((self.folder / f"{name}.bin").open("wb")) for name in MEMBERS
            ]
            for sample in samples:
                for file, data, end in zip(files, sample, ends, strict=True):
                    file.write(data)
                    end.append(end[-1] + len(data))
        for name, end in zip(MEMBERS, ends, strict=True):
            np.save(self.folder / f"{name}.offsets.npy", np.array(end, np.int64))
