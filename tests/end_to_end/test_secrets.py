"""A dataset behind a signed URL: the run keeps nothing of what is secret in it, and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.runs import Runs
from tests.store.servers import FaultyServer


@pytest.mark.parametrize("about", ["bob:s3cr3tpw@{}", "{}?sig=s3cr3tsig"])
def test_what_is_secret_in_a_url_is_nowhere_in_a_run(about: str, runs: Runs) -> None:
    with FaultyServer(Path(runs.data).parent) as server:
        place = f"{server.url.removeprefix('http://')}/{Path(runs.data).name}"
        url, trackers = "http://" + about.format(place), "log.trackers=[tensorboard]"
        for steps in (2, 4):
            how = f"data.url={url}", f"train.steps={steps}", "checkpoint.every_steps=1", trackers
            output = runs.finish("run", *how, "tasks.mask.schedule.name=constant")
            assert "s3cr3t" not in output
    assert len(runs.losses("run")) == 4
    files = [path for path in (runs.folder / "run").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.yaml", "report.md", "checkpoint.json"}
    assert not [path for path in files if b"s3cr3t" in path.read_bytes()]
    assert place in (runs.folder / "run" / "config.yaml").read_text()
