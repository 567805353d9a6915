"""Samples of any fields are packed, whole, and read back as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain import fields
from wdtrain.commands.contact_sheet import contact_sheet
from wdtrain.disk.failures import StoreError
from wdtrain.fields import (
    ClassesField,
    DepthField,
    DepthFormat,
    Field,
    FieldError,
    ImageField,
    MaskField,
    Sample,
)
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.packing.audit import audit
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import verify, walk_blocks
from wdtrain.store import tar
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

SIZE = (20, 28)
PHOTO, SECOND = ImageField("photo", lossless=True), ImageField("ir-2")
KINDS: list[Field] = [
    PHOTO,
    SECOND,
    MaskField("hair"),
    MaskField("sky", optional=True),
    ClassesField("parts", classes=8),
    ClassesField("many", classes=1000, bits=16),
    DepthField("z", format=DepthFormat(bits=16), unit="m"),
    DepthField("far", format=DepthFormat(kind="inverse"), unit="inverse"),
]


def silent(done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Pixels:
    """Samples of the given fields, of random pixels; `lacking` are absent in every third."""

    fields: tuple[Field, ...]
    count: int = 40
    size: tuple[int, int] = SIZE
    lacking: tuple[str, ...] = ()
    as_jpeg: bool = False

    @property
    def description(self) -> dict[str, Any]:
        return {"name": "any", "count": self.count, "size": list(self.size)}

    def __len__(self) -> int:
        return self.count

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unknown = np.full(len(indices), -1, np.int64)
        return unknown, unknown

    def key(self, index: int) -> str:
        return f"s{index:04d}"

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        arrays: dict[str, Any] = {}
        for field in self.fields:
            if field.name in self.lacking and index % 3 == 0:
                continue
            arrays[field.name] = self.array(field, rng)
            if self.as_jpeg and field.codec("image") == "jpeg":
                arrays[field.name] = encode_jpeg(arrays[field.name])
        return Sample(self.key(index), arrays, {"index": index})

    def array(self, field: Field, rng: np.random.Generator) -> np.ndarray:
        shape = field.shape(*self.size)
        if isinstance(field, MaskField):
            return (rng.integers(0, 2, shape) * 255).astype(np.uint8)
        if isinstance(field, ClassesField):
            ids = rng.integers(0, field.classes, shape)
            return np.where(rng.random(shape) < 0.1, field.ignore, ids).astype(field.dtype)
        if isinstance(field, ImageField):
            ramp = np.linspace(0, 200, self.size[1]).astype(int)[None, :, None]
            return (ramp + rng.integers(0, 50, (1, 1, 3)) + np.zeros(shape, int)).astype(np.uint8)
        return rng.integers(0, np.iinfo(field.dtype).max, shape, field.dtype)


def stored(manifest: Manifest) -> dict[int, dict[str, np.ndarray]]:
    return {
        int(key[1:]): {name: array.copy() for name, array in decode_row(block, row).items()}
        for split in manifest.splits.values()
        for _, _, block in walk_blocks(manifest, split)
        for row, key in enumerate(block.keys)
    }


@given(
    chosen=st.lists(st.sampled_from(KINDS), min_size=1, unique=True),
    encoding=st.sampled_from(["image", "raw"]),
    compression=st.sampled_from(["zstd:3", "none"]),
    as_jpeg=st.booleans(),
)
@settings(max_examples=25)
def test_every_field_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    chosen: list[Field],
    encoding: str,
    compression: str,
    as_jpeg: bool,
) -> None:
    source = Pixels(tuple(chosen), as_jpeg=as_jpeg)
    target = tmp_path_factory.mktemp("any") / "set"
    how: dict[str, Any] = {"encoding": encoding, "compression": compression, "processes": 1}
    manifest = pack(source, target, samples_per_block=8, **how)
    assert list(manifest.fields.values()) == chosen
    assert manifest.version == 2
    for index, arrays in stored(manifest).items():
        given = source.load(index).arrays
        assert list(arrays) == [field.name for field in chosen]
        for field in chosen:
            array, value = arrays[field.name], given[field.name]
            assert (array.dtype, array.shape) == (field.dtype, field.shape(*SIZE))
            if isinstance(value, np.ndarray) and field.codec(manifest.encoding) != "jpeg":
                np.testing.assert_array_equal(array, value)
    assert verify(manifest, silent) == []
    audit(manifest, silent)
    sheet = contact_sheet(manifest, split="train", count=2)
    assert sheet.shape[1] >= len(chosen) * SIZE[1]
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert pack(source, target, samples_per_block=8, **how) == manifest
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_members_lie_in_the_order_of_the_fields_and_json_is_the_last(tmp_path: Path) -> None:
    source = Pixels((KINDS[4], PHOTO, KINDS[6], SECOND))
    for encoding, ends in (
        ("image", ["parts.png", "photo.png", "z.png", "ir-2.jpg", "json"]),
        ("raw", ["parts.npy", "photo.npy", "z.npy", "ir-2.npy", "json"]),
    ):
        manifest = pack(
            source, tmp_path / encoding, encoding=encoding, compression="none", processes=1
        )
        shard = manifest.split("train").shards[0]
        names = [member.name for member in tar.walk(Path(manifest.shard_url(shard)).read_bytes())]
        assert names[:5] == [f"{names[0].split('.')[0]}.{end}" for end in ends]


def test_the_statistics_of_each_image_are_those_of_its_stored_pixels(tmp_path: Path) -> None:
    manifest = pack(Pixels((SECOND, KINDS[2], PHOTO)), tmp_path / "set", processes=1)
    of_train = [
        {name: array.copy() for name, array in decode_row(block, row).items()}
        for _, _, block in walk_blocks(manifest, manifest.split("train"))
        for row in range(block.num_samples)
    ]
    for name in ("ir-2", "photo"):
        pixels = np.concatenate([arrays[name].reshape(-1, 3) for arrays in of_train]) / 255
        mean, std = manifest.mean_and_std(name)
        np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-9)
        np.testing.assert_allclose(std, pixels.std(0), rtol=1e-9)


def test_a_field_that_is_optional_is_unknown_where_it_is_missing(tmp_path: Path) -> None:
    optional = [replace(field, optional=True) for field in KINDS[2:]]
    source = Pixels((PHOTO, *optional), lacking=tuple(field.name for field in optional))
    manifest = pack(source, tmp_path / "set", processes=1)
    for index, arrays in stored(manifest).items():
        for field in optional:
            assert (arrays[field.name] == field.blank).all() == (index % 3 == 0)


def test_a_field_that_is_missing_and_not_optional_is_a_reject_by_its_name(tmp_path: Path) -> None:
    source = Pixels(tuple(KINDS), lacking=("z", "sky"))
    manifest = pack(source, tmp_path / "set", processes=1, max_rejects=0.5)
    assert manifest.rejects["reasons"] == {"missing z": 14}


@dataclass(frozen=True)
class Wrong(Pixels):
    """The sample 5 is made wrong."""

    make: Callable[[dict[str, Any]], Any] = dict.clear

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        if index == 5:
            arrays = dict(sample.arrays)
            self.make(arrays)
            return replace(sample, arrays=arrays)
        return sample


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda arrays: arrays.update(sky=arrays["sky"][1:]), "sky of another size"),
        (lambda arrays: arrays.update(parts=arrays["parts"] + 9), "parts has"),
        (lambda arrays: arrays.update(parts=arrays["parts"].astype(np.uint16)), "parts"),
        (lambda arrays: arrays.update(z=arrays["z"].astype(np.float32)), "z"),
        (lambda arrays: arrays.update(photo=arrays["photo"][..., :2]), "photo"),
        (lambda arrays: arrays.update(photo=arrays["photo"][0]), "photo"),
        (lambda arrays: arrays.update(hair=arrays["hair"] // 9), "hair without foreground"),
        (lambda arrays: arrays.update(other=arrays["hair"]), "not declared"),
        (dict.clear, "missing all"),
    ],
)
def test_a_sample_that_is_not_as_declared_is_a_reject_that_names_the_field(
    tmp_path: Path, make: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    source = Wrong(tuple(KINDS), make=make)
    manifest = pack(source, tmp_path / "set", processes=1, max_rejects=0.03)
    (found,) = manifest.rejects["list"]
    assert found["key"] == "s0005"
    assert found["reason"].startswith(reason)


def test_an_empty_mask_is_a_mask(tmp_path: Path) -> None:
    source = Wrong((PHOTO, KINDS[2]), make=lambda arrays: arrays.update(hair=arrays["hair"] * 0))
    manifest = pack(source, tmp_path / "set", processes=1)
    assert manifest.rejects["count"] == 0
    assert not stored(manifest)[5]["hair"].any()


@pytest.mark.parametrize("names", [(), ("photo", "photo")])
def test_a_source_without_fields_or_with_two_of_one_name_is_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    source = Pixels(tuple(ImageField(name) for name in names))
    with pytest.raises(StoreError, match="each needs a name of its own"):
        pack(source, tmp_path / "set", processes=1)


@dataclass(frozen=True)
class NormalsField(Field):
    """Three channels that are directions: a kind of one's own."""

    kind: ClassVar[str] = "normals-of-a-test"
    channels: ClassVar[int] = 3

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def blank(self) -> int:
        return 128

    def resize(self, array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST))

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        return array

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise FieldError(f"{file}: no pictures")

    def decode(self, array: np.ndarray) -> np.ndarray:
        return array / 127.5 - 1


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_a_kind_of_ones_own_is_packed_by_its_own_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setitem(fields.KINDS, NormalsField.kind, NormalsField)
    source = Pixels((SECOND, NormalsField("n")), size=(40, 56))
    manifest = pack(source, tmp_path / "set", encoding=encoding, size=20, processes=1)
    for index, arrays in stored(manifest).items():
        given = source.load(index).arrays["n"]
        assert isinstance(given, np.ndarray)
        np.testing.assert_array_equal(arrays["n"], NormalsField("n").resize(given, SIZE))
    assert manifest.fields["n"].kind == "normals-of-a-test"
    monkeypatch.delitem(fields.KINDS, NormalsField.kind)
    with pytest.raises(StoreError, match="--kind normals-of-a-test="):
        Manifest.load(manifest.url)
