"""What `size` asks of packing: the shape is kept by one number, and never squeezed in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.disks import Disks
from wdtrain.disk.failures import StoreError
from wdtrain.fields import Sample
from wdtrain.packing.pack import pack


@dataclasses.dataclass(frozen=True)
class Mixed(Disks):
    """Every eighth picture is of another shape, and every second of the same at twice the size."""

    def load(self, index: int) -> Sample:
        if index % 8 == 3:
            return Disks(height=32, width=24).load(index)
        return Disks(height=48, width=64).load(index) if index % 2 else super().load(index)


def test_one_number_is_the_shorter_side(tmp_path: Path) -> None:
    manifest = pack(Disks(count=40), tmp_path / "set", size=12, processes=1)
    assert (manifest.height, manifest.width) == (12, 16)


def test_a_picture_that_would_be_squeezed_is_rejected_by_its_shape(tmp_path: Path) -> None:
    manifest = pack(Mixed(count=64), tmp_path / "set", size=12, processes=1, max_rejects=0.2)
    assert (manifest.height, manifest.width) == (12, 16)
    assert manifest.rejects["reasons"] == {"wrong shape": 8}
    assert "would be squeezed" in manifest.rejects["list"][0]["reason"]


def test_a_pair_is_taken_as_it_is(tmp_path: Path) -> None:
    manifest = pack(Mixed(count=64), tmp_path / "set", size=(12, 12), fit="stretch", processes=1)
    assert manifest.rejects["count"] == 0
    assert (manifest.height, manifest.width) == (12, 12)


@pytest.mark.parametrize("size", [0, -1, (0, 5), (3, 4, 5), "8"])
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(StoreError, match="size is"):
        pack(Disks(count=40), tmp_path / "set", size=size, processes=1)  # type: ignore[arg-type]
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_discs_stay_round(tmp_path: Path) -> None:
    from wdtrain.stream import open_stream

    manifest = pack(Disks(count=64, height=24, width=48), tmp_path / "set", processes=1)
    for batch in open_stream(manifest, split="train", batch_size=8, chunk=8, seed=0, size=16):
        rows, columns = np.nonzero(batch["mask"][0, 0].numpy() >= 128)
        assert abs(int(np.ptp(rows)) - int(np.ptp(columns))) <= 1
