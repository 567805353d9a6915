"""What a packing will do is decided, and refused, before a byte is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.disks import Disks
from wdtrain.disk.failures import StoreError
from wdtrain.fields import DepthFormat, Sample, triple_of
from wdtrain.packing.pack import pack
from wdtrain.packing.plan import choose_block, choose_shard, parse_compression
from wdtrain.store.manifest import Manifest

SMALL: dict[str, Any] = {"processes": 1, "shard_samples": 50, "samples_per_block": 8}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"source": Disks(count=0)}, "holds no samples"),
        ({"encoding": "webp"}, "image or raw"),
        ({"compression": "gzip"}, "none, zstd:1 to zstd:22, or zstd:-1 to zstd:-7"),
        ({"compression": "zstd:23"}, "zstd:1 to zstd:22"),
        ({"compression": "zstd:-8"}, "zstd:-1 to zstd:-7"),
        ({"compression": "zstd:0"}, "zstd:1 to zstd:22"),
        ({"compression": "zstd:"}, "zstd:1 to zstd:22"),
        ({"compression": ""}, "zstd:1 to zstd:22"),
        ({"size": 0}, "1 or more"),
        ({"shard_samples": 0}, "1 or more"),
        ({"samples_per_block": 0}, "1 or more"),
        ({"max_rejects": 1.5}, "share from 0 to 1"),
        ({"jpeg_quality": 101}, "1 to 100"),
        ({"source": Disks(count=9, broken=tuple(range(9)))}, "none of 9 samples tried"),
    ],
)
def test_options_that_cannot_be_met_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(StoreError, match=why):
        pack(target=tmp_path / "set", **{"source": Disks()} | SMALL | options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("size", value) for value in ((64,), 64.0, "64", True, [64, 64], (64, 1.5))),
        *(("seed", value) for value in (1.5, "a", None)),
        *(("max_rejects", value) for value in ("1", None, float("nan"))),
        *(("shard_samples", value) for value in (1.5, "9")),
        *(("samples_per_block", value) for value in (2.0, "9")),
        *(("jpeg_quality", value) for value in (90.5, None)),
        *(("encoding", value) for value in (None, ["raw"], "Raw")),
        *(("compression", value) for value in (9, "lz4")),
        *(("engine", value) for value in (None, "Ray")),
        *(("processes", value) for value in (1.5, "2", 0)),
        *(("part", value) for value in ((1,), "1/2", (1.0, 2), (3, 2))),
        *(("holdout", value) for value in (0.1, {"pairs": 0})),
        *(("splits", value) for value in (None, "keep")),
        *(("fit", value) for value in (1, "squeeze")),
    ],
)
def test_a_value_of_another_kind_is_refused_by_the_options_name(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        pack(target=tmp_path / "set", **{"source": Disks()} | SMALL | {name: value})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("samples", "size", "encoding", "expected"),
    [
        (400_000, 64, "image", 64),
        (400_000, 64, "raw", 32),
        (400_000, 160, "image", 8),
        (2_000, 64, "image", 16),
        (100, 64, "image", 8),
    ],
)
def test_blocks_hold_about_a_mebibyte_and_small_sets_have_many(
    samples: int, size: int, encoding: str, expected: int
) -> None:
    fields = triple_of(DepthFormat())
    block = choose_block(fields, encoding=encoding, height=size, width=size, samples=samples)
    assert block == expected


def test_small_sets_have_small_shards() -> None:
    assert [choose_shard(n) for n in (10, 20_000, 10**6, 10**9)] == [512, 1024, 8192, 8192]


@pytest.mark.parametrize(("encoding", "usual"), [("image", "zstd:9"), ("raw", "zstd:-1")])
def test_the_level_that_is_not_given_is_what_suits_the_encoding(encoding: str, usual: str) -> None:
    for text, expected in (
        (None, usual),
        ("zstd", usual),
        ("none", "none"),
        ("zstd:22", "zstd:22"),
        ("zstd:1", "zstd:1"),
        ("zstd:-1", "zstd:-1"),
        ("zstd:-7", "zstd:-7"),
    ):
        assert parse_compression(text, encoding) == expected


@pytest.mark.parametrize(("encoding", "usual"), [("image", "zstd:9"), ("raw", "zstd:-1")])
def test_a_dataset_packed_without_a_word_on_compression_has_its_encodings(
    tmp_path: Path, encoding: str, usual: str
) -> None:
    manifest = pack(Disks(count=9), tmp_path / "set", encoding=encoding, processes=1)
    assert manifest.compression == usual
    assert Manifest.load(str(tmp_path / "set")).compression == usual


@dataclass(frozen=True)
class Mixed(Disks):
    """A third of the samples are of another shape."""

    def load(self, index: int) -> Sample:
        return Disks(height=24, width=24).load(index) if index % 3 == 1 else super().load(index)


def test_many_of_another_shape_are_refused_at_the_first_look(tmp_path: Path) -> None:
    said: list[int] = []
    with pytest.raises(StoreError, match=r"of 2\d samples looked at .*--fit pad"):
        pack(
            Mixed(count=3000), tmp_path / "set", size=12, max_rejects=0.02, processes=1,
            progress=lambda done, total: said.append(done),
        )  # fmt: skip
    assert said == []
    assert not (tmp_path / "set").exists()
