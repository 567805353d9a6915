"""A process whose group broke with something pending in it ends all the same, and soon."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from wdtrain.ranks import ending
from wdtrain.ranks.collective import Distributed
from wdtrain.ranks.liveness import LostRanks, RankLost

PATIENCE_SECONDS = 300.0
"""The groups' own limit, and how long a group's destructor waits."""
END_SECONDS = 60.0
"""Far less, and far more than it takes on a busy machine."""


def rank_of(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE_SECONDS)
    store = dist.TCPStore("127.0.0.1", port, None, False, timeout=patience)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    collective = Distributed(PATIENCE_SECONDS)
    collective.barrier()
    if rank == 1:
        wait_for(Path(folder, "waits"))
        verdict = LostRanks((1,), 0, "rank 1 is lost").dumps()
        dist.distributed_c10d._get_default_store().set("wdtrain/verdict", verdict)
        time.sleep(PATIENCE_SECONDS)
    Path(folder, "waits").touch()
    try:
        collective.flat_sum(torch.ones(7))
    except RankLost as error:
        Path(folder, "raised").write_text(str(error))
    if dist.is_initialized():  # as accelerate does at the end of a training
        dist.destroy_process_group()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.1)


def test_a_rank_that_is_told_while_its_sum_is_pending_ends_long_before_the_limit(
    tmp_path: Path,
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = mp.get_context("spawn")
    ranks = [
        context.Process(target=rank_of, args=(rank, store.port, str(tmp_path))) for rank in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        wait_for(tmp_path / "raised")
        assert (tmp_path / "raised").read_text() == "rank 1 is lost"
        ranks[0].join(END_SECONDS)
        assert ranks[0].exitcode == ending.EXIT_CODE
    finally:
        for process in ranks:
            process.kill()
            process.join()


def test_where_nothing_was_given_up_an_exit_is_what_it_was() -> None:
    process = mp.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join(END_SECONDS)
    assert process.exitcode == 0
