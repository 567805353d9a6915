"""A job that loses a process goes on by itself, as if nothing had happened, also with fewer."""

from __future__ import annotations

import signal

from tests.end_to_end.launchers import (
    accelerate,
    finish,
    free_port,
    listens,
    output,
    ranks,
    send,
    start,
    torchrun,
    wait,
)
from tests.end_to_end.runs import Runs
from tests.end_to_end.test_train import check_equal_weights, weights

LAST_STEP_BEFORE = 7


def check_went_on(runs: Runs, reference: Runs, name: str) -> None:
    """Every step was taken once, with the losses of the run that nothing happened to."""
    whole, resumed = reference.losses("whole"), runs.losses(name)
    assert resumed.keys() == whole.keys()
    for step, losses in whole.items():
        for loss, other in zip(losses, resumed[step], strict=True):
            assert abs(loss - other) <= 1e-8, f"step {step}"
    check_equal_weights(weights(reference, "whole"), weights(runs, name), 1e-8)
    assert "goes on after step" in output(runs, name)


def test_a_killed_rank_is_started_again_and_the_run_goes_on(runs: Runs, reference: Runs) -> None:
    job = start(runs, accelerate("--num_processes", "2", "--max_restarts", "3"), "again")
    wait(runs, "again", runs.has_logged("again", LAST_STEP_BEFORE))
    send(job, 0, signal.SIGKILL)
    finish(runs, "again", job)
    assert output(runs, "again").count("= 2 ranks") == 2
    check_went_on(runs, reference, "again")


def test_a_machine_that_is_gone_for_good_leaves_the_run_to_the_others(
    runs: Runs, reference: Runs
) -> None:
    port = free_port()
    quick = "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=3"
    launcher = torchrun(
        "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3",
        "--rdzv-id", "job", "--rdzv-backend", "c10d", "--rdzv-conf", quick,
        "--rdzv-endpoint", f"localhost:{port}",
    )  # fmt: skip
    machines = [start(runs, launcher, "fewer") for _ in range(2)]
    wait(runs, "fewer", runs.has_logged("fewer", LAST_STEP_BEFORE))
    # Where they meet is kept by the one that came first: a machine that may not be lost.
    stays, leaves = sorted(machines, key=lambda machine: not listens(machine, port))
    workers = ranks(leaves)
    leaves.kill()
    for worker in workers.values():
        worker.kill()
    finish(runs, "fewer", stays)
    said = output(runs, "fewer")
    assert said.index("= 2 ranks") < said.rindex("= 1 rank ")
    check_went_on(runs, reference, "fewer")
