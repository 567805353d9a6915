"""Somebody else's tars, made with Python's tarfile, and a plain reading of them."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from wdtrain.fields import DepthField, Field, ImageField, MaskField
from wdtrain.packing.foreign_scan import ForeignField
from wdtrain.packing.indexing import IndexOptions, Naming, write_index
from wdtrain.store.manifest import Manifest

FIELDS = (
    ForeignField(ImageField("image"), ("jpg",)),
    ForeignField(MaskField("mask", foreground=(1,), background=(0,)), ("seg.png",)),
    ForeignField(DepthField.declared("depth", {"unit": "m"}), ("depth.npy",)),
)
Size = tuple[int, int]
Members = list[tuple[str, bytes]]


def rgb(number: int, size: Size = (24, 32)) -> np.ndarray:
    few = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(few, size[::-1], interpolation=cv2.INTER_CUBIC))


def jpeg(number: int, size: Size = (24, 32), chroma: str = "420") -> bytes:
    found: bytes = simplejpeg.encode_jpeg(rgb(number, size), 90, colorsubsampling=chroma)
    return found


def png(array: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", array)[1])


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def members_of(number: int, size: Size = (24, 32)) -> Members:
    """A picture, a mask of 0 and 1, metres with holes, and what nobody asked for."""
    random = np.random.default_rng(number)
    metres = random.uniform(0.4, 30, size).astype(np.float32)
    metres[0, : number % 5] = 0
    return [
        ("cls", b"%d" % (number % 7)),
        ("seg.png", png((random.random(size) < 0.4).astype(np.uint8))),
        ("JPG", jpeg(number, size)),
        ("json", b"{}"),
        ("depth.npy", npy(metres)),
    ]


def name_of(number: int) -> str:
    return f"scene{number % 6}/{number:05d}"


def write_tar(path: Path, samples: Sequence[tuple[str, Members]], format: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, members in samples:
            for ending, data in members:
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def make_tars(
    folder: Path,
    count: int = 70,
    per_tar: int = 30,
    *,
    members: Callable[[int], Members] = members_of,
    name: Callable[[int], str] = name_of,
) -> list[str]:
    """So many samples in tars of so many, alternately of GNU and pax format."""
    return [
        str(
            write_tar(
                folder / f"data-{number:03d}.tar",
                [(name(i), members(i)) for i in range(first, min(first + per_tar, count))],
                format=1 + number % 2,
            )
        )
        for number, first in enumerate(range(0, count, per_tar))
    ]


def plain_key(name: str | bytes) -> str:
    return (name if isinstance(name, str) else name.decode()).replace("/", "__")


def index_of(
    urls: Sequence[str],
    folder: Path,
    fields: Sequence[ForeignField] = FIELDS,
    *,
    group: str = "",
    holdout: float = 0.0,
    **options: Any,
) -> Manifest:
    def group_of(name: str) -> str | None:
        found = re.search(group, name) if group else None
        return found[1] if found else None

    chosen = IndexOptions(holdout=holdout, **options)
    return write_index(urls, folder, fields, chosen, Naming(plain_key, group_of))


def read_plainly(
    urls: Sequence[str], fields: Sequence[ForeignField] = FIELDS
) -> dict[str, dict[str, np.ndarray]]:
    """By key the arrays of each field, by tarfile, simplejpeg and `Field.read`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for url in urls:
        for name, ending, data in _files(url):
            for each in fields:
                if ending.lower() in each.endings:
                    array = _array(each.field, data, f"{name}.{ending}")
                    found.setdefault(plain_key(name), {})[each.field.name] = array
    return found


def _files(url: str) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(url) as tar:
        for info in tar:
            folder, _, base = info.name.rpartition("/")
            stem, _, ending = base.partition(".")
            file = tar.extractfile(info)
            assert file is not None
            yield f"{folder}/{stem}" if folder else stem, ending, file.read()


def _array(field: Field, data: bytes, file: str) -> np.ndarray:
    if isinstance(field, ImageField):
        decoded: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
        return decoded
    return field.read(data, file=file)
