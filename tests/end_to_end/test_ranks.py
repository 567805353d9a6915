"""Several processes, honestly: lost ranks are named in bounded time, two machines train one job."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.end_to_end.launchers import accelerate, finish, free_port, output, send, start, wait
from tests.end_to_end.runs import Runs
from tests.end_to_end.test_train import check_equal_weights, weights


def lose(runs: Runs, number: signal.Signals) -> dict[int, tuple[int, float]]:
    """Two jobs of two ranks; one loses rank 0, the other rank 1, by this signal.

    By rank, its process id and how many seconds later its launcher ended.
    """
    given = ["train.steps=100000", "run.timeout_seconds=5"]
    jobs = {
        rank: start(runs, accelerate("--num_processes", "2"), f"lost{rank}", *given)
        for rank in (0, 1)
    }
    lost = {}
    for rank, job in jobs.items():
        wait(runs, f"lost{rank}", runs.has_logged(f"lost{rank}", 3))
        lost[rank] = (send(job, rank, number), time.monotonic())
    ended = {}
    for rank, job in jobs.items():
        pid, since = lost[rank]
        assert job.wait(timeout=120) != 0, output(runs, f"lost{rank}")
        ended[rank] = (pid, time.monotonic() - since)
    return ended


def check_named(runs: Runs, rank: int, pid: int, how: str) -> None:
    status = runs.status(f"lost{rank}")
    assert status["state"] == "failed"
    assert f"rank {rank} (process {pid} on " in status["why"]
    assert how in status["why"]
    said = output(runs, f"lost{rank}")
    assert f"error: {status['why']}" in said
    assert 'train.py", line' not in said  # a traceback of ours


def test_a_killed_rank_ends_the_job_which_names_it(runs: Runs) -> None:
    for rank, (pid, seconds) in lose(runs, signal.SIGKILL).items():
        check_named(runs, rank, pid, "has ended")
        assert seconds < 60


def test_a_stopped_rank_ends_the_job_which_names_it(runs: Runs) -> None:
    # 5 s until it is missed, 5 s to find out who, 30 s until the launcher kills what was stopped.
    for rank, (pid, seconds) in lose(runs, signal.SIGSTOP).items():
        check_named(runs, rank, pid, "has not answered for 5 s")
        assert seconds < 90


def machine(number: int, port: int) -> list[str]:
    """What the README says to start on each of two machines, with one process each."""
    main = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    machines = ["--num_machines", "2", "--machine_rank", str(number)]
    return accelerate(*machines, *main, "--num_processes", "2")


def test_two_machines_train_one_job(runs: Runs, reference: Runs) -> None:
    port = free_port()
    launchers = [start(runs, machine(number, port), "two") for number in (0, 1)]
    finish(runs, "two", *launchers)
    assert "= 2 ranks" in output(runs, "two")
    saved = runs.folder / "two" / "checkpoints" / "step-00000020"
    assert (saved / "random_states_1.pkl").is_file()  # what each rank holds is in the checkpoint
    check_equal_weights(weights(reference, "whole"), weights(runs, "two"), 1e-8)


def test_a_run_folder_that_not_all_machines_see_is_refused(runs: Runs, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tiny_network.py").write_text((runs.folder / "tiny_network.py").read_text())
    port = free_port()
    given = ["run.timeout_seconds=30"]
    launchers = [
        start(runs, machine(0, port), "apart", *given),
        start(runs, machine(1, port), "apart", *given, where=elsewhere),
    ]
    for launcher in launchers:
        assert launcher.wait(timeout=200) != 0
    assert "run folder apart is not the same on all machines: rank 1" in output(runs, "apart")
