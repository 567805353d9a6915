"""Samples of any fields: each column is read as its field says, whatever others lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import FORMS
from tests.store.blocks import block_of
from tests.store.datasets import MANY, arrays_of, manifest_of, members_of, write_dataset
from tests.store.test_filling import hidden, hide, needs_library, target_of
from wdtrain.disk.failures import DamagedSample, StoreError
from wdtrain.fields import ClassesField, Codec, Encoding, Field, ImageField, MaskField, resize
from wdtrain.store import native
from wdtrain.store.filling import Filler, MemberPlaces, RowBuffers, WindowSlice
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, decode_row, parse_block
from wdtrain.stream import open_stream

SIZES = [None, (12, 16), (6, 8), (10, 30), (31, 40)]


class Normals(Field):
    """A kind of one's own: three channels in a PNG, as every field decodes them."""

    kind = "normals"
    channels = 3
    dtype = np.dtype(np.uint8)
    blank = 0

    def resize(self, array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return resize.area(array, size)[..., ::-1].copy()  # of nobody else

    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        return array

    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, array: np.ndarray) -> np.ndarray:
        return array


class Packed(Normals):
    """One whose members are arrays also among pictures."""

    def codec(self, encoding: Encoding) -> Codec:
        return "npy"


class Upside(Normals):
    """One that decodes in a way of its own."""

    def decode_member(self, data: Any, encoding: Encoding, *, size: Any = None) -> np.ndarray:
        return super().decode_member(data, encoding, size=size)[::-1]


OWN: tuple[Field, ...] = (Packed("packed"), Normals("plain"), ImageField("seen"), Upside("upside"))


def block_in(manifest: Manifest, count: int = 3) -> BlockIndex:
    """A block of `arrays_of` 0, 1, ..."""
    size = manifest.height, manifest.width
    samples = [
        (f"s{seed}", members_of(manifest, arrays_of([*manifest.fields.values()], *size, seed)))
        for seed in range(count)
    ]
    return parse_block(block_of(samples), manifest)


def fill(block: BlockIndex, target: RowBuffers, names: list[str] | None = None) -> int:
    count = block.num_samples
    rows = MemberPlaces.of_blocks([block], np.zeros(count, int), np.arange(count), block.manifest)
    filler = Filler(block.manifest, target.size, fields=names)
    return filler.fill([WindowSlice(rows, 0, count, 0)], target).parts


def only(target: RowBuffers, names: list[str]) -> RowBuffers:
    return RowBuffers({name: target.arrays[name] for name in names}, target.names)


def stored(field: Field, array: np.ndarray, encoding: Encoding) -> np.ndarray:
    """What is read of an array that was stored."""
    return field.decode_member(field.encode(array, encoding), encoding)


@pytest.mark.parametrize("fields", [MANY, OWN], ids=["many", "own"])
@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_a_row_is_what_was_stored(
    fields: tuple[Field, ...], encoding: Encoding, compression: str
) -> None:
    block = block_in(manifest_of(fields, encoding=encoding, compression=compression))
    for row in range(block.num_samples):
        arrays = arrays_of(fields, 24, 32, row)
        found = decode_row(block, row)
        assert list(found) == [field.name for field in fields]
        for field in fields:
            expected = arrays[field.name]
            if encoding == "image":
                expected = stored(field, expected, encoding)
            np.testing.assert_array_equal(found[field.name], expected)
    assert block.keys == ["s0", "s1", "s2"]
    assert block.meta(1) == {"seen": int(arrays_of(fields, 24, 32, 1)[fields[0].name].flat[0])}


@needs_library
@hidden
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", [MANY, OWN], ids=["many", "own"])
@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_many_rows_at_once_are_those_of_row_by_row(
    fields: tuple[Field, ...],
    encoding: Encoding,
    compression: str,
    size: tuple[int, int] | None,
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(hidden, monkeypatch)
    block = block_in(manifest_of(fields, encoding=encoding, compression=compression))
    target = target_of(block.manifest, block.num_samples, size)
    assert fill(block, target) == 1
    for row in range(block.num_samples):
        for name, expected in decode_row(block, row, size=size).items():
            np.testing.assert_array_equal(target.arrays[name][row], expected)
        assert target.names[row].tobytes().rstrip(b"\0").decode() == (
            f"s{row}.{block.manifest.member_suffixes[0]}"
        )


@needs_library
@pytest.mark.parametrize("size", [(10, 17), (7, 11), (20, 34), (5, 40)])
def test_pictures_of_odd_sizes_at_a_fraction(size: tuple[int, int]) -> None:
    block = block_in(manifest_of(MANY, size=(21, 35)))
    target = target_of(block.manifest, block.num_samples, size)
    assert fill(block, target) == 1
    for row in range(block.num_samples):
        for name, expected in decode_row(block, row, size=size).items():
            np.testing.assert_array_equal(target.arrays[name][row], expected)


@needs_library
@given(
    names=st.lists(st.sampled_from([field.name for field in MANY]), min_size=1, unique=True),
    form=st.sampled_from(FORMS),
    size=st.sampled_from(SIZES),
)
def test_only_the_fields_that_are_asked_for_are_decoded(
    names: list[str], form: tuple[Any, str], size: tuple[int, int] | None
) -> None:
    manifest = manifest_of(MANY, encoding=form[0], compression=form[1])
    block = block_in(manifest)
    if manifest.encoding == "image":  # what is not asked for is not even looked at
        members = members_of(manifest, arrays_of(MANY, 24, 32, 0))
        suffixes = zip(manifest.fields, manifest.member_suffixes, strict=False)
        spoilt = {suffix: b"no picture" for name, suffix in suffixes if name not in names}
        block = parse_block(block_of([("k", members | spoilt)]), manifest)
    whole = target_of(manifest, block.num_samples, size)
    assert fill(block, only(whole, names), names) == 1
    for row in range(block.num_samples):
        found = decode_row(block, row, size=size, fields=names)
        assert list(found) == [name for name in manifest.fields if name in names]
        for name, expected in found.items():
            np.testing.assert_array_equal(whole.arrays[name][row], expected)
    for name in manifest.fields:
        assert name in names or (whole.arrays[name] == 7).all(), "written to"


@needs_library
@pytest.mark.parametrize("fields", [MANY, OWN], ids=["many", "own"])
@pytest.mark.parametrize("compression", ["zstd:3", "none"])
def test_a_column_that_is_not_what_was_packed_is_left_to_the_path_that_names_it(
    fields: tuple[Field, ...], compression: str
) -> None:
    manifest = manifest_of(fields, compression=compression)
    members = members_of(manifest, arrays_of(fields, 24, 32, 0))
    other = members_of(manifest_of(fields, compression=compression), arrays_of(fields, 32, 24, 0))
    assert fill(parse_block(block_of([("k", members)]), manifest), target_of(manifest, 1)) == 1
    for name, suffix in zip(manifest.fields, manifest.member_suffixes, strict=False):
        for data in (
            b"",
            members[suffix][:-30],
            other[suffix],
            members[manifest.member_suffixes[-1]],
        ):
            block = parse_block(block_of([("k", members | {suffix: data})]), manifest)
            assert fill(block, target_of(manifest, 1)) == 0
            with pytest.raises(DamagedSample, match=f"sample k is damaged: {name}"):
                decode_row(block, 0)


@needs_library
@pytest.mark.parametrize("name", ["right.png", "things.png"])
@pytest.mark.parametrize("compression", ["zstd:3", "none"])
def test_a_flipped_bit_of_a_png_of_any_column_never_gives_other_pixels(
    name: str, compression: str
) -> None:
    manifest = manifest_of(MANY, compression=compression)
    members = members_of(manifest, arrays_of(MANY, 24, 32, 0))
    field = name.partition(".")[0]
    stored_pixels = slice(43, None) if manifest.is_compressed else slice(0, None)
    for at in range(0, len(members[name]), 7):
        png = bytearray(members[name])
        png[at] ^= 1 << at % 8
        block = parse_block(block_of([("k", members | {name: bytes(png)})]), manifest)
        target = target_of(manifest, 1)
        if fill(block, target):
            assert stored_pixels.start <= at, "of another geometry"
            np.testing.assert_array_equal(target.arrays[field][0], decode_row(block, 0)[field])


# ---------------------------------------------------------------------------- streams


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_a_batch_has_each_field_by_its_name(
    encoding: Encoding, compression: str, tmp_path: Path
) -> None:
    manifest = write_dataset(tmp_path / "set", MANY, encoding=encoding, compression=compression)
    assert list(manifest.fields.values()) == list(MANY)
    batches = list(open_stream(manifest, split="train", batch_size=4, seed=0, lanes=2, chunk=2))
    assert sorted(key for batch in batches for key in batch.keys) == [f"s{n}" for n in range(10)]
    for batch in batches:
        for field in MANY:
            tensor = batch[field.name]
            assert tensor.shape == (len(batch), field.channels, 24, 32)
            if field.channels == 3:
                assert tensor.permute(0, 2, 3, 1).is_contiguous()
        for row, key in enumerate(batch.keys):
            for field in MANY:
                expected = arrays_of(MANY, 24, 32, int(key[1:]))[field.name]
                if encoding == "image":
                    expected = stored(field, expected, encoding)
                pixels = batch[field.name][row].permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_stream_decodes_only_the_fields_that_it_names(
    compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_dataset(tmp_path / "set", MANY)
    if not compiled:
        monkeypatch.setattr(native, "LIBRARY", None)
        monkeypatch.setattr(native, "zstd", lambda: None)
    common: dict[str, Any] = {"split": "train", "batch_size": 4, "seed": 0, "lanes": 2, "chunk": 2}
    everything = list(open_stream(manifest, **common))
    for names in (["far"], ["sky", "left"]):
        for batch, whole in zip(
            open_stream(manifest, fields=names, **common), everything, strict=True
        ):
            assert list(batch.fields) == [name for name in manifest.fields if name in names]
            assert batch.keys == whole.keys
            for name in names:
                assert batch[name].equal(whole[name])
            with pytest.raises(KeyError, match="no field 'near'; it has"):
                batch["near"]


@pytest.mark.parametrize("names", [[], "left", ["left", "lef"], ["mask"]])
def test_fields_that_there_are_not_are_refused(names: Any, tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "set", MANY)
    with pytest.raises(ValueError, match=r"fields .*parts, left, far"):
        open_stream(manifest, split="train", batch_size=4, seed=0, lanes=2, chunk=2, fields=names)


def test_a_batch_is_no_mapping(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "set", MANY)
    batch = next(iter(open_stream(manifest, split="train", batch_size=4, seed=0, lanes=2, chunk=2)))
    assert not isinstance(batch, Mapping)
    assert len(batch) == len(batch.keys)
    with pytest.raises(TypeError):
        iter(batch)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        "left" in batch  # noqa: B015


# ---------------------------------------------------------------------------- the only image


def test_the_input_is_the_only_image_or_has_to_be_named(tmp_path: Path) -> None:
    labels = ClassesField("labels", classes=3)
    one = write_dataset(tmp_path / "one", (labels, ImageField("photo")))
    assert one.image == "photo"
    assert one.mean_and_std("photo")[0] == pytest.approx((3 / 510, 4 / 510, 5 / 510))
    many = write_dataset(tmp_path / "many", MANY)
    with pytest.raises(StoreError, match=r"images left, right, rear.*name the input"):
        _ = many.image
    with pytest.raises(StoreError, match="no image 'sky'; it has left, right, rear"):
        many.mean_and_std("sky")
    none = write_dataset(tmp_path / "none", (MaskField("a"), labels))
    with pytest.raises(StoreError, match=r"no image.*name the input"):
        _ = none.image
