from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.learn.cases import depth_task, make_rows, mask_task, one_step, share_of_rank
from wdtrain.learn.task import TaskSet
from wdtrain.ranks.collective import Alone, Collective, Distributed, open_collective

STEPS = 3


def train(collective: Collective) -> dict[str, torch.Tensor]:
    """Weights of both networks after a few steps on ten samples in three groups."""
    tasks = TaskSet([mask_task(), depth_task(max_grad_norm=0.1)])
    for seed in range(STEPS):
        rows = share_of_rank(make_rows(10, seed=seed), collective.rank, collective.world)
        one_step(tasks, rows, collective=collective)
    return {
        f"{task.name}/{name}": value
        for task in tasks
        for name, value in task.network.state_dict().items()
    }


def process(rank: int, folder: str) -> None:
    """Train as one of three, then (two of the three) as one of two."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        dist.init_process_group("gloo", f"file://{folder}/{world}", rank=rank, world_size=world)
        collective = open_collective()
        assert isinstance(collective, Distributed)
        assert collective.host_sum([rank, 2**40]) == [world * (world - 1) / 2, world * 2**40]
        torch.save(train(collective), f"{folder}/{world}-{rank}.pt")
        dist.destroy_process_group()


def test_two_and_three_processes_over_gloo_reach_the_weights_of_one(tmp_path: Path):
    mp.start_processes(process, (str(tmp_path),), nprocs=3, start_method="spawn")
    alone = train(Alone())
    for world in (2, 3):
        first = torch.load(tmp_path / f"{world}-0.pt")
        for rank in range(world):
            saved = torch.load(tmp_path / f"{world}-{rank}.pt")
            for name, value in alone.items():
                torch.testing.assert_close(saved[name], value, rtol=0, atol=1e-8)
                assert torch.equal(saved[name], first[name])


def test_one_process_needs_no_group():
    collective = open_collective()
    assert isinstance(collective, Alone)
    assert collective.host_sum([1, 2.5]) == [1.0, 2.5]
