"""A dataset behind a signed URL: the run keeps nothing of what is secret in it, and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.runs import Runs
from tests.remote.servers import FaultyServer

FAILING = """
import os
from torch import nn

class Failing(nn.Module):
    domain = "logits"

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, picture):
        if os.path.exists("run/status.json"):  # past the looks that are taken before a run begins
            raise OSError("it fails at s3(cr3t)s1g of host")
        return self.layer(picture)
"""


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


def test_a_secret_with_brackets_is_told_by_no_status_and_no_message(runs: Runs) -> None:
    """An error's own words, with half of the URL: what is cut off it is known by the recipe."""
    (runs.folder / "tiny_failing.py").write_text(FAILING)
    with FaultyServer(Path(runs.data).parent) as server:
        url = f"{server.url}/{Path(runs.data).name}?sig=s3(cr3t)s1g"
        how = "tasks.mask.network=tiny_failing:Failing", "tasks.mask.options={}"
        code, output = runs.run("run", f"data.url={url}", *how)
    assert (code, "it fails at" in output) == (2, True), output
    why = runs.status("run")["why"]
    assert "it fails at" in why
    for said in (output, why):
        assert "s1g" not in said
        assert "cr3t" not in said
