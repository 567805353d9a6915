"""Whatever a triple goes through, its picture, mask and depth have their edges at one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.store.test_filling import target_of
from wdtrain.fields import DepthFormat, Sample, triple_of
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.npy import encode_npy
from wdtrain.fields.png import encode_png
from wdtrain.packing.plan import Settings
from wdtrain.packing.prepare import prepare
from wdtrain.packing.splits import Holdout
from wdtrain.store import tar
from wdtrain.store.filling import Filler, MemberPlaces, WindowSlice
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row, parse_block

Packed = Callable[..., Manifest]

SHORTER = 24
NEAR, FAR = 60, 200
PAIRS = [
    (160, 64), (171, 64), (220, 64), (225, 64), (78, 64), (78, 32), (128, 64), (160, 80), (160, 40),
    (96, 64), (96, 32), (64, 32), (65, 32), (100, 99), (100, 50), (101, 50), (130, 64), (150, 64),
    (170, 64), (200, 64), (224, 64), (240, 64), (250, 64), (256, 64), (192, 160), (161, 160),
    (210, 160), (219, 96), (137, 96), (139, 48), (90, 70), (91, 37), (64, 63), (99, 33), (123, 41),
    (181, 91), (233, 128), (129, 128), (64, 96), (96, 128),
]  # fmt: skip
FORMATS = ("jpeg packed", "png packed", "jpeg read", "raw read")


class Edges:
    """Steps at 64 places of a side, both ways round: a source of triples."""

    fields = triple_of(DepthFormat())

    def __init__(self, side: int, *, across: bool, as_jpeg: bool) -> None:
        places = range(max(1, side // 2 - 32), min(side, side // 2 + 32))
        self.steps = [(place, turned) for place in places for turned in (False, True)]
        self.side, self.across, self.as_jpeg = side, across, as_jpeg

    def __len__(self) -> int:
        return len(self.steps)

    def key(self, index: int) -> str:
        return f"edge-{index}"

    def load(self, index: int) -> Sample:
        place, turned = self.steps[index]
        mask = np.zeros((SHORTER, self.side), np.uint8)
        mask[:, place:] = 255
        mask = 255 - mask if turned else mask
        mask = mask if self.across else np.ascontiguousarray(mask.T)
        depth = np.where(mask > 0, NEAR, FAR).astype(np.uint8)
        overlay = np.repeat(mask[..., None], 3, 2) // 2 + 60
        jpeg = encode_jpeg(overlay, quality=98) if self.as_jpeg else overlay
        return Sample(self.key(index), {"overlay": jpeg, "mask": mask, "depth": depth})

    def shifts(self, arrays: list[tuple[np.ndarray, ...]], new: int) -> np.ndarray:
        """[3, n] by how many new pixels each edge of pictures, masks and depths has moved."""
        moved = []
        for (place, turned), (overlay, mask, depth) in zip(self.steps, arrays, strict=True):
            unit = ((overlay[..., 1] - 60.0) / 127, mask / 255, (depth == NEAR) * 1.0)
            for values in unit:
                line = values[SHORTER // 4] if self.across else values[:, SHORTER // 4]
                found = line.sum() if turned else new - line.sum()
                moved.append(found - place * new / self.side)
        return np.array(moved).reshape(-1, 3).T

    def sized(self, side: int) -> tuple[int, int]:
        return (SHORTER, side) if self.across else (side, SHORTER)


def packed_to(source: Edges, size: tuple[int, int]) -> list[tuple[np.ndarray, ...]]:
    settings = Settings(
        encoding="raw", compression="none", height=size[0], width=size[1], resize=True,
        keep_shape=False, jpeg_quality=90, seed=0, shard_samples=8, samples_per_block=8,
        holdout=Holdout(), splits="deal",
    )  # fmt: skip
    samples = [prepare(source, index, settings) for index in range(len(source))]  # type: ignore[arg-type]
    return [(sample.overlay, sample.mask, sample.depth) for sample in samples]


def read_at(
    source: Edges, manifest: Manifest, size: tuple[int, int]
) -> list[tuple[np.ndarray, ...]]:
    """By many rows at once, which must be those of row by row."""
    height, width = source.sized(source.side)
    manifest = dataclasses.replace(manifest, height=height, width=width)
    block, data = [], b""
    for index in range(len(source)):
        sample = source.load(index)
        if manifest.encoding == "raw":
            arrays = sample.arrays.values()
            members = [encode_npy(np.asarray(array)) for array in arrays]
        else:
            pngs = [encode_png(one, stored=True) for one in list(sample.arrays.values())[1:]]
            members = [sample.arrays["overlay"], *pngs]
        for name, member in zip(manifest.member_suffixes, [*members, b"{}"], strict=True):
            data += tar.member(f"{sample.key}.{name}".encode(), member)
    block = parse_block(data, manifest)
    count, target = len(source), target_of(manifest, len(source), size)
    rows = MemberPlaces.of_blocks([block], np.zeros(count, int), np.arange(count), manifest)
    if Filler(manifest, size).fill([WindowSlice(rows, 0, count, 0)], target).parts:
        for got, alone in zip(
            target.arrays.values(),
            decode_row(block, 3, size=size).values(),
            strict=True,
        ):
            np.testing.assert_array_equal(got[3], alone)
        return list(zip(*target.arrays.values(), strict=True))
    return [tuple(decode_row(block, row, size=size).values()) for row in range(count)]


@pytest.mark.parametrize("form", FORMATS)
def test_edges_of_picture_mask_and_depth_stay_on_each_other(packed: Packed, form: str) -> None:
    for number, (stored, new) in enumerate(PAIRS):
        source = Edges(stored, across=number % 2 == 0, as_jpeg="jpeg" in form)
        size = source.sized(new)
        size = tuple(SHORTER // 2 if side == SHORTER else side for side in size)  # type: ignore[assignment]
        if "packed" in form:
            arrays = packed_to(source, size)
        else:
            manifest = packed("raw" if form == "raw read" else "image", "zstd:3")
            arrays = read_at(source, manifest, size)
        shifts = source.shifts(arrays, new)
        means, single = np.abs(shifts.mean(1)), np.abs(shifts).max(1)
        assert means.max() <= 0.02, (stored, new, shifts.mean(1))
        assert single[0] <= 0.2, (stored, new, single)
        assert single[1] <= 0.02, (stored, new, single)
        assert single[2] <= 0.5 + 1e-6, (stored, new, single)
