"""Datasets of any fields, written by hand: what a packer of them writes, without one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from wdtrain.fields import ClassesField, DepthField, Field, ImageField, MaskField
from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.sample import encode_meta
from wdtrain.store import frames, tar
from wdtrain.store.manifest import FORMAT, Manifest, canonical, digest_of

MANY: tuple[Field, ...] = (
    MaskField("parts", partly=True),
    ImageField("left"),
    DepthField("far", format=DepthFormat(bits=16), unit="codes"),
    ClassesField("things", classes=300),
    ImageField("right", lossless=True),
    ClassesField("labels", classes=40),
    DepthField("near", format=DepthFormat(kind="inverse", bits=8), unit="codes"),
    ImageField("rear"),
    MaskField("sky"),
)
"""Three images among all else: one lossless; none of them first."""


def arrays_of(fields: Sequence[Field], height: int, width: int, seed: int) -> dict[str, np.ndarray]:
    """A sample: even patches, so that JPEGs of it are small, with some chance in them."""
    rng = np.random.default_rng(seed)
    found = {}
    for field in fields:
        most = 256**field.dtype.itemsize
        if isinstance(field, ClassesField):
            most = field.classes
        shape = field.shape(-(-height // 4), -(-width // 4))
        patches = rng.integers(0, most, shape).repeat(4, 0).repeat(4, 1)[:height, :width]
        if isinstance(field, MaskField):
            patches = np.where(patches > 127, 255, np.where(patches > 60, 0, field.blank))
        elif isinstance(field, ClassesField):
            patches = np.where(rng.random(patches.shape) < 0.1, field.ignore, patches)
        found[field.name] = np.ascontiguousarray(patches, field.dtype)
    return found


def members_of(manifest: Manifest, arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The members of a sample by their suffixes."""
    contents = [
        field.encode(arrays[name], manifest.encoding, stored=manifest.is_compressed)
        for name, field in manifest.fields.items()
    ]
    contents.append(encode_meta({"seen": int(arrays[next(iter(arrays))].flat[0])}, pad_to=60))
    return dict(zip(manifest.member_suffixes, contents, strict=True))


def manifest_of(
    fields: Sequence[Field],
    *,
    encoding: Any = "image",
    compression: str = "zstd:3",
    size: tuple[int, int] = (24, 32),
    samples_per_block: int = 4,
) -> Manifest:
    """Of a dataset that is nowhere."""
    return Manifest(
        url="nowhere", version=2, encoding=encoding, compression=compression, height=size[0],
        width=size[1], samples_per_block=samples_per_block, digest="", settings={}, source={},
        fields={field.name: field for field in fields}, splits={}, sums={}, rejects={},
    )  # fmt: skip


def document_of(manifest: Manifest, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """A manifest of version 2, with one split."""
    images = [name for name, field in manifest.fields.items() if isinstance(field, ImageField)]
    document = {
        "format": FORMAT,
        "version": 2,
        "encoding": manifest.encoding,
        "compression": manifest.compression,
        "height": manifest.height,
        "width": manifest.width,
        "samples_per_block": manifest.samples_per_block,
        "fields": [{"name": name, **one.as_dict()} for name, one in manifest.fields.items()],
        "statistics": {
            name: {"pixels": 2, "sum": [3, 4, 5], "square_sum": [5, 10, 15]} for name in images
        },
        "splits": {
            "train": {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
        },
        "settings": {},
        "source": {},
        "rejects": {"count": 0, "reasons": {}, "list": []},
    }
    return {**document, "digest": digest_of(document)}


def write_dataset(
    folder: Path, fields: Sequence[Field], *, samples: int = 10, **how: Any
) -> Manifest:
    """A dataset of one shard, of `arrays_of` 0, 1, 2 and so on, and its manifest."""
    folder.mkdir(exist_ok=True)
    plain, parts = manifest_of(fields, **how), []
    for number in range(samples):
        arrays = arrays_of(fields, plain.height, plain.width, number)
        members = members_of(plain, arrays).items()
        parts.append(b"".join(tar.member(f"s{number}.{name}".encode(), d) for name, d in members))
    step = plain.samples_per_block
    blocks = [b"".join(parts[first : first + step]) for first in range(0, samples, step)]
    entry: dict[str, Any] = {"name": "train-000000.tar", "samples": samples}
    if plain.is_compressed:
        entry["name"] += ".zst"
        packed = [frames.FrameCompressor(1)(block) for block in (*blocks, tar.END_OF_ARCHIVE)]
        sizes = [len(block) for block in (*blocks, tar.END_OF_ARCHIVE)]
        sums = map(frames.frame_checksum, packed)
        table = list(zip(map(len, packed), sizes, sums, strict=True))
        data = b"".join(packed) + frames.write_seek_table(table)
    else:
        data = b"".join(blocks) + tar.END_OF_ARCHIVE
        entry["blocks"] = [[len(block), xxhash.xxh64_hexdigest(block)] for block in blocks]
    (folder / entry["name"]).write_bytes(data)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_bytes(canonical(document_of(plain, [entry])))
    return Manifest.load(str(folder))
