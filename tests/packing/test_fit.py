"""A sample of another aspect is stretched, cropped or padded as was said, and refused if not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import Disks
from wdtrain.disk.failures import StoreError
from wdtrain.fields import MaskField, Sample
from wdtrain.fields.jpeg import decode_jpeg_scaled
from wdtrain.fields.resize import Size, area, median
from wdtrain.packing.fit import fit_to, has_aspect
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import verify, walk_blocks
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import decode_row

SIDES = st.integers(1, 300)
SIZES = st.tuples(SIDES, SIDES)
SMALL: dict[str, Any] = {"processes": 1, "encoding": "raw", "samples_per_block": 8}


@given(stored=SIZES, size=SIZES, fit=st.sampled_from(["stretch", "crop", "pad", None]))
def test_places_lie_inside_and_fill_one_side(stored: Size, size: Size, fit: str | None) -> None:
    found = fit_to(stored, size, fit)
    for place, outer in ((found.kept, stored), (found.lies, size)):
        for start, length, whole in zip((place.top, place.left), place.size, outer, strict=True):
            assert 0 <= start <= whole - length
            assert length >= 1
            assert abs(2 * start + length - whole) <= 1  # in the middle
    assert found.kept == (0, 0, stored) or fit == "crop"
    assert found.lies == (0, 0, size) or fit == "pad"
    assert any(one == two for one, two in zip(found.kept.size, stored, strict=True))
    assert any(one == two for one, two in zip(found.lies.size, size, strict=True))


@given(stored=SIZES, size=SIZES, fit=st.sampled_from(["crop", "pad"]))
def test_what_is_cropped_or_padded_keeps_its_aspect(stored: Size, size: Size, fit: str) -> None:
    """But for the rounding of one side to whole pixels, of which there is at least one."""
    found = fit_to(stored, size, fit)
    if has_aspect(stored, size):
        return
    (height, width), (new_height, new_width) = found.kept.size, found.lies.size
    if fit == "pad":
        across = abs(new_width - max(1.0, width * new_height / height))
        down = abs(new_height - max(1.0, height * new_width / width))
    else:
        across = abs(width - max(1.0, height * new_width / new_height))
        down = abs(height - max(1.0, width * new_height / new_width))
    assert min(across, down) <= 0.5


@dataclasses.dataclass(frozen=True)
class Mixed(Disks):
    """Every fourth sample is of another shape."""

    of_others: Size = (20, 20)

    def load(self, index: int) -> Sample:
        if index % 4 == 3:
            height, width = self.of_others
            return Disks(height=height, width=width, as_jpeg=self.as_jpeg).load(index)
        return super().load(index)


def stored_samples(manifest: Manifest) -> dict[int, dict[str, np.ndarray]]:
    return {
        int(key.removeprefix("disk-")): {
            name: array.copy() for name, array in decode_row(block, row).items()
        }
        for split in manifest.splits.values()
        for _, _, block in walk_blocks(manifest, split)
        for row, key in enumerate(block.keys)
    }


def test_a_cropped_sample_is_its_middle_at_the_datasets_size(tmp_path: Path) -> None:
    source = Mixed(count=40, height=24, width=32, of_others=(40, 24))
    found = stored_samples(pack(source, tmp_path / "set", size=(24, 32), fit="crop", **SMALL))
    overlay, mask, depth = source.load(7).arrays.values()
    middle = slice(11, 29)  # 24 x 24 / 32 = 18 of 40 rows
    np.testing.assert_array_equal(found[7]["overlay"], area(overlay[middle], (24, 32)))
    np.testing.assert_array_equal(found[7]["mask"], area(mask[middle], (24, 32)))
    np.testing.assert_array_equal(found[7]["depth"], median(depth[middle], (24, 32)))


@pytest.mark.parametrize("as_jpeg", [False, True])
def test_a_padded_sample_is_black_and_unknown_around_what_it_was(
    tmp_path: Path, as_jpeg: bool
) -> None:
    source = Mixed(count=40, height=24, width=32, of_others=(40, 24), as_jpeg=as_jpeg)
    manifest = pack(source, tmp_path / "set", size=(24, 32), fit="pad", **SMALL)
    mask_field = manifest.fields["mask"]
    assert isinstance(mask_field, MaskField)
    assert mask_field.has_unknown
    found = stored_samples(manifest)
    inside = slice(9, 23)  # 24 x 24 / 40 = 14 of 32 columns
    overlay, mask, depth = source.load(7).arrays.values()
    rgb, eighths = decode_jpeg_scaled(overlay, (24, 14)) if as_jpeg else (overlay, None)
    expected = area(rgb, (24, 14), eighths=eighths)
    np.testing.assert_array_equal(found[7]["overlay"][:, inside], expected)
    np.testing.assert_array_equal(found[7]["mask"][:, inside], mask_field.resize(mask, (24, 14)))
    np.testing.assert_array_equal(found[7]["depth"][:, inside], median(depth, (24, 14)))
    outside = np.ones(32, bool)
    outside[inside] = False
    assert not found[7]["overlay"][:, outside].any()
    assert (found[7]["mask"][:, outside] == mask_field.blank).all()
    assert mask_field.blank == 1
    assert not found[7]["depth"][:, outside].any()
    assert verify(manifest, lambda done, total: None) == []


class Ones(Disks):
    """An alpha of 1 that is one, and no word for unknown."""

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        mask = np.where(sample.arrays["mask"] == 0, 1, sample.arrays["mask"]).astype(np.uint8)
        return dataclasses.replace(sample, arrays={**sample.arrays, "mask": mask})


def test_an_alpha_of_1_that_was_meant_does_not_become_unknown(tmp_path: Path) -> None:
    plain = pack(Ones(count=40), tmp_path / "plain", **SMALL)
    assert (stored_samples(plain)[3]["mask"] == 1).any()
    padded = pack(Ones(count=40), tmp_path / "padded", fit="pad", **SMALL)
    assert not (stored_samples(padded)[3]["mask"] == 1).any()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_every_sample_is_kept_however_it_is_fitted(tmp_path: Path, encoding: str, fit: str) -> None:
    source = Mixed(count=60)
    manifest = pack(source, tmp_path / "set", **{**SMALL, "encoding": encoding, "fit": fit})
    assert (manifest.samples, manifest.rejects["count"]) == (60, 0)
    assert (manifest.height, manifest.width) == (24, 32)
    assert verify(manifest, lambda done, total: None) == []


@pytest.mark.parametrize("size", [None, 12, (12, 12)])
def test_many_samples_of_another_shape_are_refused_before_anything_is_written(
    tmp_path: Path, size: Any
) -> None:
    with pytest.raises(StoreError, match=r"samples looked at cannot .*--fit stretch.* crop.* pad"):
        pack(Mixed(count=60), tmp_path / "set", size=size, max_rejects=0.01, **SMALL)
    assert not (tmp_path / "set").exists()


def test_few_samples_of_another_shape_are_rejects(tmp_path: Path) -> None:
    source = Mixed(count=60)
    for size, reason in ((None, "wrong size"), (12, "wrong shape")):
        manifest = pack(source, tmp_path / reason, size=size, max_rejects=0.3, **SMALL)
        assert manifest.rejects["reasons"] == {reason: 15}
        assert "--fit" in manifest.rejects["list"][0]["reason"]


def test_a_jpeg_of_the_datasets_size_passes_whatever_becomes_of_others(tmp_path: Path) -> None:
    source = Mixed(count=40, as_jpeg=True)
    for fit in ("stretch", "crop", "pad"):
        manifest = pack(source, tmp_path / fit, fit=fit, processes=1)
        _, _, block = next(walk_blocks(manifest, manifest.split("train")))
        for row, key in enumerate(block.keys):
            index, stored = int(key.removeprefix("disk-")), bytes(block.members(row)[0])
            assert (stored == source.load(index).arrays["overlay"]) == (index % 4 != 3)


def test_encoded_pictures_of_another_shape_are_cut_like_all_else(tmp_path: Path) -> None:
    """A JPEG of which a part is kept is decoded whole, so that no pixel is at a fraction."""
    source = Mixed(count=40, of_others=(96, 128 * 2), as_jpeg=True)
    found = stored_samples(pack(source, tmp_path / "set", fit="crop", **SMALL))
    overlay, mask, _ = source.load(7).arrays.values()
    assert isinstance(overlay, bytes)
    whole, _ = decode_jpeg_scaled(overlay, (96, 256))
    np.testing.assert_array_equal(found[7]["overlay"], area(whole[:, 64:192], (24, 32)))
    np.testing.assert_array_equal(found[7]["mask"], area(mask[:, 64:192], (24, 32)))
