"""Whatever a sample goes through, the edges of all its fields stay at one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.store.test_filling import target_of
from wdtrain.fields import (
    ClassesField,
    DepthField,
    DepthFormat,
    Field,
    ImageField,
    MaskField,
    Sample,
    Value,
)
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.resize import Size
from wdtrain.packing.fit import Fit, fit_to
from wdtrain.packing.options import PackingOptions
from wdtrain.packing.plan import make_plan
from wdtrain.packing.prepare import prepare
from wdtrain.store import tar
from wdtrain.store.filling import Filler, MemberPlaces, WindowSlice
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row, parse_block

Packed = Callable[..., Manifest]
Arrays = Mapping[str, np.ndarray]

SHORTER = 24
NEAR, FAR = 60, 200
PAIRS = [
    (160, 64), (171, 64), (220, 64), (225, 64), (78, 64), (78, 32), (128, 64), (160, 80), (160, 40),
    (96, 64), (96, 32), (64, 32), (65, 32), (100, 99), (100, 50), (101, 50), (130, 64), (150, 64),
    (170, 64), (200, 64), (224, 64), (240, 64), (250, 64), (256, 64), (192, 160), (161, 160),
    (210, 160), (219, 96), (137, 96), (139, 48), (90, 70), (91, 37), (64, 63), (99, 33), (123, 41),
    (181, 91), (233, 128), (129, 128), (64, 96), (96, 128),
]  # fmt: skip
FIELDS: tuple[Field, ...] = (
    ImageField("photo"),
    MaskField("mask"),
    MaskField("partly", partly=True),
    DepthField("depth", format=DepthFormat(), unit="codes"),
    DepthField("inverse", format=DepthFormat(kind="inverse", bits=16), unit="inverse"),
    ClassesField("ids", classes=3),
    ClassesField("many", classes=900, bits=16),
)
FAST = tuple(field for field in FIELDS if field.name in ("photo", "mask", "depth"))
"""Those that compiled loops resize."""
LIMITS = {"image": 0.2, "mask": 0.02, "depth": 0.5, "classes": 0.5}
"""By kind, new pixels by which a single edge may have moved. On average it is 0.02 for all."""
FORMATS = ("jpeg packed", "png packed", "jpeg read", "raw read")


class Edges:
    """Steps at 64 places of a side, both ways round: a source of samples of every kind."""

    def __init__(
        self, side: int, *, across: bool, as_jpeg: bool, fields: tuple[Field, ...] = FIELDS
    ) -> None:
        self.fields, self.description = fields, dict[str, Any](name="edges")
        places = range(max(1, side // 2 - 32), min(side, side // 2 + 32))
        self.steps = [(place, turned) for place in places for turned in (False, True)]
        self.side, self.across, self.as_jpeg = side, across, as_jpeg

    def __len__(self) -> int:
        return len(self.steps)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(indices), -1), np.full(len(indices), -1)

    def key(self, index: int) -> str:
        return f"edge-{index}"

    def load(self, index: int) -> Sample:
        place, turned = self.steps[index]
        is_on = (np.arange(self.side) >= place) != turned
        is_on = np.broadcast_to(is_on, (SHORTER, self.side))
        is_on = is_on if self.across else is_on.T
        arrays: dict[str, Value] = {}
        for field in self.fields:
            low, high = self.values(field)
            array = np.where(is_on, high, low).astype(field.dtype)
            arrays[field.name] = np.repeat(array[..., None], 3, 2) if field.channels == 3 else array
        if self.as_jpeg:
            arrays["photo"] = encode_jpeg(arrays["photo"], quality=98)  # type: ignore[arg-type]
        return Sample(self.key(index), arrays)

    @staticmethod
    def values(field: Field) -> tuple[int, int]:
        """Of pixels before and behind the step."""
        if isinstance(field, DepthField):
            return (200, 60) if field.format.bits == 8 else (9000, 40000)
        if isinstance(field, ClassesField):
            return (2, 1) if field.classes == 3 else (40, 600)
        return (60, 187) if isinstance(field, ImageField) else (0, 255)

    def shifts(self, found: list[Arrays], fit: Fit) -> dict[str, np.ndarray]:
        """By field [n]: by how many new pixels each edge has moved that is still to be seen."""
        start, kept = (fit.kept.left, fit.kept.size[1])
        first, length = fit.lies.left, fit.lies.size[1]
        if not self.across:
            start, kept = fit.kept.top, fit.kept.size[0]
            first, length = fit.lies.top, fit.lies.size[0]
        middle = sum(fit.lies[not self.across : 1 + (not self.across)])  # of the other side
        moved: dict[str, list[float]] = {field.name: [] for field in self.fields}
        for (place, turned), arrays in zip(self.steps, found, strict=True):
            expected = (place - start) * length / kept
            if not 1 <= expected <= length - 1:
                continue
            for field in self.fields:
                low, high = self.values(field)
                array = arrays[field.name]
                array = array[..., 1] if field.channels == 3 else array
                line = (array if self.across else array.T)[middle + 2, first : first + length]
                unit = (line.astype(float) - low) / (high - low)
                unit = np.clip(unit, 0, 1) if field.kind == "mask" else unit
                seen = unit.sum() if turned else length - unit.sum()
                moved[field.name].append(seen - expected)
        return {name: np.array(values) for name, values in moved.items()}

    def sized(self, side: int, other: int = SHORTER) -> Size:
        return (other, side) if self.across else (side, other)


def check_shifts(source: Edges, found: list[Arrays], fit: Fit) -> None:
    for name, shifts in source.shifts(found, fit).items():
        (field,) = (one for one in source.fields if one.name == name)
        assert len(shifts) >= 4, (fit, name)
        assert abs(shifts.mean()) <= 0.02, (fit, name, shifts.mean())
        assert np.abs(shifts).max() <= LIMITS[field.kind] + 1e-6, (fit, name, np.abs(shifts).max())


def packed_to(source: Edges, size: Size, fit: str) -> list[Arrays]:
    options = PackingOptions(encoding="raw", compression="none", size=size, fit=fit)
    plan = make_plan(source, options)
    samples = [prepare(plan, index) for index in range(len(source))]
    names = [field.name for field in source.fields]
    return [dict(zip(names, sample.arrays, strict=True)) for sample in samples]


def read_at(source: Edges, manifest: Manifest, size: Size) -> list[Arrays]:
    """By many rows at once, which must be those of row by row."""
    height, width = source.sized(source.side)
    fields = {field.name: field for field in source.fields}
    manifest = dataclasses.replace(manifest, height=height, width=width, fields=fields)
    data = b""
    for index in range(len(source)):
        sample = source.load(index)
        members = [
            value
            if isinstance(value, bytes)
            else field.encode(value, manifest.encoding, stored=True)
            for field, value in zip(source.fields, sample.arrays.values(), strict=True)
        ]
        for name, member in zip(manifest.member_suffixes, [*members, b"{}"], strict=True):
            data += tar.member(f"{sample.key}.{name}".encode(), member)
    block = parse_block(data, manifest)
    count, target = len(source), target_of(manifest, len(source), size)
    rows = MemberPlaces.of_blocks([block], np.zeros(count, int), np.arange(count), manifest)
    if Filler(manifest, size).fill([WindowSlice(rows, 0, count, 0)], target).parts:
        alone = decode_row(block, 3, size=size)
        for name, got in target.arrays.items():
            np.testing.assert_array_equal(got[3], alone[name])
        return [{name: array[row] for name, array in target.arrays.items()} for row in range(count)]
    return [decode_row(block, row, size=size) for row in range(count)]


@pytest.mark.parametrize("form", FORMATS)
def test_edges_of_every_kind_stay_on_each_other(packed: Packed, form: str) -> None:
    for number, (stored, new) in enumerate(PAIRS):
        fields = FIELDS if number % 5 == 0 else FAST
        source = Edges(stored, across=number % 2 == 0, as_jpeg="jpeg" in form, fields=fields)
        size = source.sized(new, SHORTER // 2)
        if "packed" in form:
            found = packed_to(source, size, "stretch")
        else:
            found = read_at(
                source, packed("raw" if form == "raw read" else "image", "zstd:3"), size
            )
        check_shifts(source, found, fit_to(source.sized(stored), size, "stretch"))


@pytest.mark.parametrize("as_jpeg", [False, True])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_edges_stay_on_each_other_where_samples_are_cut_or_padded(fit: str, as_jpeg: bool) -> None:
    for number, (stored, new) in enumerate(PAIRS[::3]):
        fields = FIELDS if number % 4 == 0 else FAST
        source = Edges(stored, across=number % 2 == 0, as_jpeg=as_jpeg, fields=fields)
        for other in (SHORTER // 2, 2 * SHORTER):
            size = source.sized(new, other)
            found = packed_to(source, size, fit)
            check_shifts(source, found, fit_to(source.sized(stored), size, fit))
