"""What every test runs under: one thread of arithmetic a process, and a time limit.

Tests run side by side, and two processes of two OpenMP threads each on two cores wait for one
another at every layer, which is ten times slower than one thread each. The limit holds where
pytest-timeout is installed; as an option in pyproject.toml it would be an error elsewhere.
"""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, and for the processes that tests start
os.environ.setdefault("PYTEST_TIMEOUT", "300")

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from wdtrain.store.manifest import Manifest

# Other tests run beside each, so how long an example takes says nothing; and no chance is unseeded.
settings.register_profile("beside-others", deadline=None, derandomize=True)
settings.load_profile("beside-others")

# A shell that starts tests in the background has Ctrl-C ignored there, and so in all they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """packed(encoding, compression) is the manifest of 300 disks in 16-sample blocks."""
    from tests.disks import Disks
    from wdtrain.packing.pack import pack

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
