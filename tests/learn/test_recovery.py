"""Running out of memory, anywhere in a step and on any rank, changes nothing but the cut."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.learn.cases import (
    depth_task,
    make_rows,
    make_view,
    mask_task,
    one_step,
    run_ranks,
    share_of_rank,
    small_tasks,
    without_depth,
)
from tests.learn.faults import PHASES, Fault, faults, out_of_memory, put, recovered
from tests.learn.test_step import UNKNOWN, depth_gradients, furthest, gradients, weights
from wdtrain.learn.out_of_memory import DoesNotFit, is_out_of_memory, try_to
from wdtrain.learn.rows import Rows
from wdtrain.learn.task import TaskSet

__all__ = ["faults"]

SPLITS = {24: "24", 12: "12+12", 8: "8+8+8", 16: "16+8"}


def two_steps(tasks: TaskSet, rows: list[Rows], collective, fault: Fault | None = None):
    """Weights after two steps, the fault being met in the first."""
    put(fault, tasks)
    results = [one_step(tasks, part, collective=collective) for part in rows]
    return results, weights(tasks)


@pytest.mark.parametrize("task", ["mask", "depth"])
@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)], ids=["rank0", "rank1", "both"])
@pytest.mark.parametrize("at", [0, 1], ids=["first", "last"])
@pytest.mark.parametrize("phase", PHASES)
def test_running_out_of_memory_hangs_nobody_loses_nothing_and_steps_once(
    faults, phase, at, ranks, task
):
    rows = [make_rows(32, seed=seed) for seed in range(2)]

    def shares(collective):
        return [share_of_rank(part, collective.rank, 2) for part in rows]

    def faulty(collective):
        tasks = small_tasks()
        fault = Fault(phase, task, at) if collective.rank in ranks else None
        results, after = two_steps(tasks, shares(collective), collective, fault)
        assert fault is None or fault.raised == 1
        return results, after, tasks.steps, [t.micro_batch for t in tasks]

    def straight(collective):
        tasks = small_tasks(**{task: 4})
        return two_steps(tasks, shares(collective), collective)[1]

    expected = run_ranks(2, straight)
    for results, after, steps, micro_batches in run_ranks(2, faulty):
        assert [result.samples for result in results] == [32, 32]
        assert [recovered(result) for result in results] == [[(task, 8, 4)], []]
        assert steps == 2
        assert micro_batches == ([4, 8] if task == "mask" else [8, 4])
        assert furthest(after, expected[0]) == 0


@pytest.fixture(scope="module")
def whole() -> torch.Tensor:
    return gradients(24)


@pytest.mark.parametrize("is_recovered", [False, True], ids=["straight", "recovered"])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", list(SPLITS), ids=list(SPLITS.values()))
def test_the_gradient_is_that_of_the_whole_batch(faults, whole, micro_batch, world, is_recovered):
    def work(collective):
        tasks = TaskSet([mask_task(micro_batch=micro_batch)])
        put(Fault("backward", "mask", 0) if is_recovered else None, tasks)
        rows = share_of_rank(make_rows(24), collective.rank, world)
        result = one_step(tasks, rows, collective=collective)
        assert len(result.recoveries) == is_recovered
        return tasks.gradient_buffer.flat

    for flat in run_ranks(world, work):
        torch.testing.assert_close(flat, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("world", [1, 2])
def test_the_gradient_is_that_of_the_whole_batch_where_samples_have_no_depth(faults, world):
    whole = depth_gradients(24)

    def work(collective):
        tasks = TaskSet([depth_task(micro_batch=8)])
        put(Fault("backward", "depth", 1), tasks)
        rows = share_of_rank(without_depth(make_rows(24), *UNKNOWN), collective.rank, world)
        result = one_step(tasks, rows, collective=collective)
        assert len(result.recoveries) == 1
        gradients = tasks.gradients_of(tasks[0])
        assert gradients.samples == 17
        return torch.cat((gradients.gradients, gradients.statistics))

    for flat in run_ranks(world, work):
        torch.testing.assert_close(flat, whole[:-1], rtol=0, atol=1e-10)


def test_it_halves_until_it_fits_and_stays_there(faults):
    tasks = small_tasks(mask=24)
    rows = make_rows(24)

    def greedy(module, args, output):
        if len(args[0]) > 8:
            raise out_of_memory()

    tasks[0].network.layers[0].register_forward_hook(greedy)
    results = [one_step(tasks, rows) for _ in range(2)]
    assert [recovered(r) for r in results] == [[("mask", 24, 12), ("mask", 12, 4)], []]
    assert [task.micro_batch for task in tasks] == [4, 8]
    assert tasks.recoveries == 2


def test_a_micro_batch_larger_than_the_batch_is_halved_from_the_batch(faults):
    tasks = TaskSet([mask_task(micro_batch=4096)])
    put(Fault("forward", "mask", 0), tasks)
    result = one_step(tasks, make_rows(16))
    assert recovered(result) == [("mask", 16, 8)]


def test_nothing_of_the_failed_pass_is_alive_when_it_is_done_again(faults):
    tasks = small_tasks(mask=16)
    held: list[weakref.ref] = []
    alive: list[int] = []

    def remember(module, args, output):
        if not fault.raised:
            held.append(weakref.ref(output))
        elif not alive:
            alive.append(sum(reference() is not None for reference in held))

    for layer in tasks[0].network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(remember)
    fault = Fault("backward", "mask", 0)
    put(fault, tasks)
    gc.disable()  # what only the collector would find is not free when it is needed
    try:
        one_step(tasks, make_rows(16))
    finally:
        gc.enable()
    assert len(held) > 1
    assert alive == [0]


def test_the_smallest_micro_batch_that_does_not_fit_is_refused_on_all_ranks(faults):
    def work(collective):
        tasks = small_tasks(mask=4)
        before = weights(tasks)
        put(Fault("forward", "mask", 0) if collective.rank == 1 else None, tasks)
        rows = share_of_rank(make_rows(16), collective.rank, 2)
        with pytest.raises(DoesNotFit, match="mask"):
            one_step(tasks, rows, collective=collective)
        return furthest(weights(tasks), before)

    assert run_ranks(2, work) == [0, 0]


def test_an_error_that_no_smaller_micro_batch_cures_is_raised_as_it_is(faults):
    tasks = TaskSet([mask_task()])
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")
    put(Fault("forward", "mask", 0, error=lambda: broken), tasks)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        one_step(tasks, make_rows(16))
    assert tasks[0].micro_batch == 8


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_counts_as_out_of_memory(error):
    assert is_out_of_memory(error)
    wrapped = ValueError("the compiler failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("NCCL Error 1: unhandled cuda error: out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_does_not_count_as_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_what_was_asked_for_stands_in_the_message():
    def cuda() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 ...")

    def cpu() -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 33554432 bytes."
        )

    assert "Tried to allocate 1.50 GiB" in try_to(cuda).message
    assert "tried to allocate 33554432 bytes" in try_to(cpu).message
    assert try_to(lambda: None) is None


def test_memory_of_the_optimizers_is_there_before_the_first_step():
    tasks = small_tasks()
    before = {id(v) for t in tasks for s in t.optimizer.state.values() for v in s.values()}
    assert before
    one_step(tasks, make_rows(8))
    after = {id(v) for t in tasks for s in t.optimizer.state.values() for v in s.values()}
    assert after == before


def test_a_recovered_micro_batch_is_kept_for_as_long_as_the_same_is_asked_for(faults):
    tasks = small_tasks(mask=16)
    put(Fault("forward", "mask", 0), tasks)
    one_step(tasks, make_rows(16), view=make_view())
    state = tasks.state_dict()
    for asked, expected in ((16, 8), (12, 12), (24, 24)):
        resumed = small_tasks(mask=asked)
        resumed.load_state_dict(state)
        assert resumed[0].micro_batch == expected


def test_a_plan_made_after_a_resume_keeps_what_was_recovered(faults):
    tasks = small_tasks()
    tasks.ask(tasks[0], 16)
    put(Fault("forward", "mask", 0), tasks)
    one_step(tasks, make_rows(16))
    resumed = small_tasks(mask=4)  # where a plan begins, before it knows better
    resumed.load_state_dict(tasks.state_dict())
    assert resumed[0].micro_batch == 4
    resumed.ask(resumed[0], 16)
    assert resumed[0].micro_batch == 8
