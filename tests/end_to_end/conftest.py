"""One small packed playground a session, and a folder of runs a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.runs import Runs
from wdtrain.packing.pack import pack
from wdtrain.scenes import parse_source


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("data") / "playground"
    source = parse_source("playground:count=400,size=16,seed=3,backgrounds=12,cutouts=12")
    assert source is not None
    pack(source, target, processes=1)
    return str(target)


@pytest.fixture(scope="session")
def reference(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """An uninterrupted run, named `whole`, that others are compared with."""
    runs = Runs(tmp_path_factory.mktemp("reference"), dataset)
    runs.finish("whole")
    return runs


@pytest.fixture
def runs(dataset: str, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path, dataset)
    yield runs
    for process in runs.started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
