"""Datasets that several test files read: packed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.disks import Disks
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest

settings.register_profile("store", deadline=None, derandomize=True)
settings.load_profile("store")

FORMS = [
    (encoding, compression) for encoding in ("image", "raw") for compression in ("zstd:3", "none")
]


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """packed(encoding, compression) is the manifest of 300 disks in 16-sample blocks."""
    made: dict[tuple[str, str, int], Manifest] = {}

    def get(encoding: str = "image", compression: str = "zstd:3", bits: int = 8) -> Manifest:
        form = (encoding, compression, bits)
        if form not in made:
            made[form] = pack(
                Disks(bits=bits),
                tmp_path_factory.mktemp("packed") / "set",
                encoding=encoding,
                compression=compression,
                processes=1,
                shard_samples=100,
                samples_per_block=16,
            )
        return made[form]

    return get


@pytest.fixture
def folder_bytes() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder, by name: what `identical bytes` is about."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read
