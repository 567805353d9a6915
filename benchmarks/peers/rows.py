"""The rows of the table, the environments of the peers, and what the ratios must be.

A declaration only: nothing of a peer is imported here. Two rows may read the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

PROJECT: Final = "project"
"""The environment that loaders.py runs in; every other one has a `requirements-NAME.txt`."""

WORKERS: Final = (1, 2)
BATCH_SIZE: Final = 256
READ_SIZE: Final = 64
"""Pixels a side, unless told otherwise; the ratios' targets are of this size."""

LARGE: Final = 160
"""Pixels a side of the pictures that some rows read at READ_SIZE."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader with its settings.

    data: the folder of its data; one that begins with `ours-` is a dataset of ours, any other is
    written by `module`. pixels: which overlay of the neutral copy it must deliver, none for a floor
    that makes no pictures. stored_size: pixels a side where they are not those that are read.
    packages: whose versions to report.
    """

    name: str
    says: str
    module: str
    data: str
    environment: str = PROJECT
    pixels: str | None = "overlay_jpeg"
    stored_size: int | None = None
    packages: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_written(self) -> bool:
        return not self.data.startswith("ours-")


RAW: Final = "overlay_raw"
FAST: Final = ("simplejpeg", "opencv-python-headless")


def _ours(kind: str, says: str, pixels: str) -> Row:
    return Row(
        name=f"ours-{kind}",
        says=f"wdtrain, {says}",
        module="ours",
        data=f"ours-{kind}",
        pixels=pixels,
        packages=("wdtrain", *FAST),
    )


def _wds(name: str, says: str, decoder: str, data: str, size: int | None = None) -> Row:
    suffix = ".tar" if data.endswith("tar") else ".tar.zst"
    return Row(
        name=name,
        says=f"webdataset, {says}",
        module="wds",
        data=data,
        stored_size=size,
        packages=("webdataset", *FAST),
        options={"decoder": decoder, "suffix": suffix},
    )


def _peer(name: str, says: str, module: str, environment: str, package: str, **options: Any) -> Row:
    raw = options.get("raw", False)
    return Row(
        name=name,
        says=says,
        module=module,
        data=name,
        environment=environment,
        pixels=RAW if raw else "overlay_jpeg",
        packages=(package, *FAST),
        options=options,
    )


def _floor(name: str, says: str, what: str, data: str, pixels: str | None) -> Row:
    return Row(
        name=f"floor-{name}",
        says=f"floor: {says}",
        module="floors",
        data=data,
        pixels=pixels,
        options={"what": what},
    )


ROWS: Final = (
    _ours("image-zst", "image .tar.zst", "overlay_jpeg"),
    _ours("image-tar", "image .tar", "overlay_jpeg"),
    _ours("raw-zst", "raw .tar.zst", RAW),
    _ours("raw-tar", "raw .tar", RAW),
    _floor("decode", "its decoders in a bare loop", "decode", "ours-image-zst", "overlay_jpeg"),
    _floor("inflate-image", "zstd alone, image .tar.zst", "inflate", "ours-image-zst", None),
    _floor("inflate-raw", "zstd alone, raw .tar.zst", "inflate", "ours-raw-zst", None),
    _floor("gather", "rows of arrays in memory copied", "gather", "ours-raw-tar", RAW),
    _wds("wds-torchrgb8", "decode('torchrgb8'), .tar", "torchrgb8", "ours-image-tar"),
    _wds("wds-fast-tar", "fast decoders, .tar", "fast", "ours-image-tar"),
    _wds("wds-fast-zst", "fast decoders, .tar.zst by our opener", "fast", "ours-image-zst"),
    _peer("hf-bytes", "HF datasets, bytes, fast decoders", "hugging", PROJECT, "datasets"),
    _peer("hf-raw", "HF datasets, raw", "hugging", PROJECT, "datasets", raw=True),
    _peer(
        "energon",
        "Megatron-Energon, fast decoders, .tar",
        "energon",
        "energon",
        "megatron-energon",
        shards="ours-image-tar",
    ),
    _peer(
        "mosaic-bytes",
        "MosaicML Streaming, bytes, fast decoders",
        "mosaic",
        "mosaic",
        "mosaicml-streaming",
    ),
    _peer(
        "mosaic-raw", "MosaicML Streaming, raw", "mosaic", "mosaic", "mosaicml-streaming", raw=True
    ),
    _peer("litdata-bytes", "LitData, bytes, fast decoders", "litdata", "pool", "litdata"),
    _peer(
        "litdata-raw-zstd",
        "LitData, raw zstd",
        "litdata",
        "pool",
        "litdata",
        raw=True,
        compression="zstd",
    ),
    _peer("litdata-raw", "LitData, raw", "litdata", "pool", "litdata", raw=True),
    Row(
        name="spdl",
        says="SPDL, fast decoders, .tar",
        module="spdl",
        data="ours-image-tar",
        environment="pool",
        packages=("spdl", *FAST),
    ),
    _peer("grain-bytes", "Grain, ArrayRecord, bytes, fast decoders", "grain", "pool", "grain"),
    _peer("grain-raw", "Grain, ArrayRecord, raw", "grain", "pool", "grain", raw=True),
    _peer("ffcv-jpeg", "FFCV, JPEG and two arrays", "ffcv", "ffcv", "ffcv"),
    _peer("ffcv-raw", "FFCV, arrays", "ffcv", "ffcv", "ffcv", raw=True),
    Row(
        name="ours-large",
        says="wdtrain, 160 px image .tar.zst read at 64",
        module="ours",
        data="ours-image-zst",
        stored_size=LARGE,
        packages=("wdtrain", *FAST),
    ),
    _wds("wds-large", "PIL, 160 px .tar read at 64", "pil", "ours-image-tar", LARGE),
    Row(
        name="folder-large",
        says="folder and PIL, 160 px read at 64",
        module="folder",
        data="folder-large",
        stored_size=LARGE,
        packages=("pillow",),
    ),
)


def rows_at(size: int) -> tuple[Row, ...]:
    """Those that can be read at `size` pixels: what makes pictures smaller does it to READ_SIZE."""
    return tuple(row for row in ROWS if size == READ_SIZE or row.stored_size is None)


@dataclass(frozen=True)
class Ratio:
    """`over` must be at least `target` times as fast as `under`, both (row, workers).

    bytes_target: and take at most this share of its bytes a triple.
    """

    says: str
    over: tuple[str, int]
    under: tuple[str, int]
    target: float
    bytes_target: float | None = None


def _ratios(says: str, over: str, under: str, targets: dict[int, float]) -> list[Ratio]:
    return [
        Ratio(f"{says}, {workers} : {workers}", (over, workers), (under, workers), target)
        for workers, target in targets.items()
    ]


RATIOS: Final = (
    Ratio(
        "image .tar.zst : webdataset torchrgb8", ("ours-image-zst", 1), ("wds-torchrgb8", 1), 6.0
    ),
    Ratio("image .tar.zst : FFCV JPEG, 2 : 2", ("ours-image-zst", 2), ("ffcv-jpeg", 2), 1.0, 0.40),
    *_ratios(
        "image .tar.zst : its bare decoders", "ours-image-zst", "floor-decode", {1: 0.75, 2: 0.75}
    ),
    *_ratios(
        "raw .tar.zst : LitData raw zstd", "ours-raw-zst", "litdata-raw-zstd", {1: 1.7, 2: 8.0}
    ),
    *_ratios("image .tar.zst : HF datasets bytes", "ours-image-zst", "hf-bytes", {1: 1.5, 2: 2.0}),
    *_ratios("raw .tar : FFCV arrays", "ours-raw-tar", "ffcv-raw", {1: 0.7, 2: 0.7}),
    Ratio("image .tar.zst, 2 threads : 1", ("ours-image-zst", 2), ("ours-image-zst", 1), 1.7),
    Ratio("image .tar, 2 threads : 1", ("ours-image-tar", 2), ("ours-image-tar", 1), 1.7),
    Ratio("raw .tar.zst, 2 threads : 1", ("ours-raw-zst", 2), ("ours-raw-zst", 1), 1.7),
    Ratio("160 px read at 64 : webdataset and PIL", ("ours-large", 1), ("wds-large", 1), 8.0),
)
