"""Runs that truly run out of memory: the limit is the kernel's, what fails is an allocation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.runs import Runs
from tests.end_to_end.test_train import check_equal_weights, weights

NETWORK = """
import os
import resource

import torch
from tiny_network import TinyDepth

MIB = 2**20
PER_SAMPLE = 32 * MIB


def data_bytes():
    line = next(x for x in open("/proc/self/status") if x.startswith("VmData"))
    return int(line.split()[1]) * 1024


class Greedy(TinyDepth):
    step = 0

    def forward(self, picture):
        in_a_step = self.training and self.layers[1].context.groups is not None
        if in_a_step and not picture.is_meta:
            Greedy.step += len(picture) > 5  # no more than a trial
            if Greedy.step >= 3 and os.environ.get("RANK", "0") == os.environ["GREEDY_RANK"]:
                most = data_bytes() + int(os.environ["GREEDY_MIB"]) * MIB
                resource.setrlimit(resource.RLIMIT_DATA, (most, -1))
                try:
                    torch.zeros(len(picture) * PER_SAMPLE, dtype=torch.uint8)
                finally:  # else threads that start later would meet the limit too
                    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
        return super().forward(picture)
"""


@pytest.fixture
def greedy(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    (runs.folder / "greedy_network.py").write_text(NETWORK)
    monkeypatch.setenv("GREEDY_RANK", "0")
    monkeypatch.setenv("GREEDY_MIB", "560")
    return runs


GREEDY = ("tasks.depth.network=greedy_network:Greedy", "step.micro_batch=24")
"""From the third step on a pass takes more, and there is room for one of half the batch."""


def test_a_run_that_runs_out_of_memory_recovers_and_learns_the_same(
    greedy: Runs, reference: Runs
) -> None:
    output = greedy.finish("recovered", *GREEDY)
    assert "depth ran out of memory" in output
    assert "by micro-batches of 12 instead of 24" in output
    recoveries = {r["step"]: r["recoveries"] for r in greedy.records("recovered")}
    assert {step: count for step, count in recoveries.items() if count} == {3: 1}
    check_equal_weights(weights(reference, "whole"), weights(greedy, "recovered"), 1e-8)
    report = (greedy.folder / "recovered" / "report.md").read_text()
    assert "1 recovery" in report


def test_running_out_on_one_rank_changes_nothing_on_two(
    greedy: Runs, reference: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREEDY_RANK", "1")
    monkeypatch.setenv("GREEDY_MIB", "280")
    output = greedy.finish("recovered", *GREEDY, processes=2)
    assert "depth ran out of memory on another rank" in output
    check_equal_weights(weights(reference, "whole"), weights(greedy, "recovered"), 1e-8)


def test_a_step_that_cannot_fit_is_refused_with_a_table(
    greedy: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREEDY_MIB", "48")
    code, output = greedy.run("refused", *GREEDY)
    assert code == 2, output
    assert "Traceback" not in output
    for words in ("smallest micro-batch", "norm group of 4", "one pass of 4 samples", "allowed"):
        assert words in output
    status = greedy.status("refused")
    assert status["state"] == "failed"
    assert "what would fit there" in status["why"]
    assert not list(Path(greedy.folder / "refused" / "checkpoints").glob("*"))
