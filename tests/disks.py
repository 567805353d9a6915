"""A small synthetic source, and its triples as a folder: what the tests of the store pack."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wdtrain.fields import DepthFormat, Field, FieldError, Sample, triple_of
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.png import encode_png

FORMS = [
    (encoding, compression) for encoding in ("image", "raw") for compression in ("zstd:3", "none")
]


@dataclass(frozen=True)
class Disks:
    """A disk of each cut-out's colour and size on each background's gradient; parts known."""

    count: int = 300
    height: int = 24
    width: int = 32
    backgrounds: int = 10
    cutouts: int = 8
    bits: int = 8
    as_jpeg: bool = False
    broken: tuple[int, ...] = ()
    twins: dict[int, int] = field(default_factory=dict)
    knows_parts: bool = True

    @property
    def depth_format(self) -> DepthFormat:
        return DepthFormat(bits=self.bits)

    @property
    def fields(self) -> tuple[Field, ...]:
        return triple_of(self.depth_format)

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "disks", **{k: repr(v) for k, v in vars(self).items()}}

    def __len__(self) -> int:
        return self.count

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.knows_parts:
            unknown = np.full(len(indices), -1, np.int64)
            return unknown, unknown
        return indices % self.backgrounds, indices // self.backgrounds % self.cutouts

    def key(self, index: int) -> str:
        return f"disk-{self.twins.get(index, index):06d}"

    def load(self, index: int) -> Sample:
        if index in self.broken:
            raise FieldError("broken: on purpose")
        background, cutout = (int(part[0]) for part in self.parts(np.array([index], np.int64)))
        rng = np.random.default_rng(index)
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        overlay = np.stack([x * 7, y * 9, x + y + 5 * background], -1) % 256
        inside = (x - rng.integers(8, 24)) ** 2 + (y - 12) ** 2 < (5 + cutout % 5) ** 2
        overlay[inside] = (30 * cutout % 256, 200, 90)
        overlay += rng.integers(0, 9, overlay.shape)
        depth = np.where(inside, 2.0, 4.0 + y / 4)
        rgb = np.clip(overlay, 0, 255).astype(np.uint8)
        return Sample(
            key=self.key(index),
            arrays={
                "overlay": encode_jpeg(rgb, 95) if self.as_jpeg else rgb,
                "mask": (inside * 255).astype(np.uint8),
                "depth": self.depth_format.encode(depth),
            },
            meta={
                "background": f"bg-{background}",
                "cutout": f"fg-{cutout}",
                "x": "i" * (index % 9),
            },
        )


def write_folder(folder: Path, source: Disks, *, declare: bool = True) -> Path:
    """The triples of a source as files, as `make-triples` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(source)):
        write_triple(folder, source.load(index))
    if declare:
        text = json.dumps({"depth": source.depth_format.as_dict(), "count": len(source)})
        (folder / "triples.json").write_text(text)
    return folder


def write_triple(folder: Path, sample: Sample) -> None:
    """KEY.overlay.jpg, KEY.mask.png, KEY.depth.png, KEY.json."""
    overlay, mask, depth = sample.arrays.values()
    jpeg = overlay if isinstance(overlay, bytes) else encode_jpeg(overlay)
    (folder / f"{sample.key}.overlay.jpg").write_bytes(jpeg)
    for name, array in (("mask", mask), ("depth", depth)):
        assert isinstance(array, np.ndarray)
        (folder / f"{sample.key}.{name}.png").write_bytes(encode_png(array))
    (folder / f"{sample.key}.json").write_text(json.dumps(sample.meta))
