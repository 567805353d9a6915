"""Packing all shards, in this process or in several.

Processes are spawned, not forked: the parent may have threads. They leave Ctrl-C to their parent
and end with it, however it ends, so that a rerun after `kill -9` finds nobody at work.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final

import cv2

from wdtrain.store.errors import StoreError
from wdtrain.store.jobs import Excluded, Outcome, Rejects, ShardRunner, Watch
from wdtrain.store.plan import Job

_POLL_SECONDS: Final = 0.2
_JOBS_AHEAD: Final = 2


class Stopped(Exception):
    """The parent asked a packing process to stop."""


_worker: tuple[ShardRunner, Watch] | None = None


def run_jobs(
    runner: ShardRunner,
    jobs: list[Job],
    excluded: Excluded,
    rejects: Rejects,
    *,
    processes: int,
    progress: Callable[[int, int], None],
) -> None:
    """All jobs are finished; the first error or too many rejects stop the others."""
    total = sum(job.stop - job.start for job in jobs)
    if min(processes, len(jobs)) > 1:
        _run_in_processes(runner, jobs, excluded, rejects, min(processes, len(jobs)), progress)
        return
    done = 0

    def watch(samples: int) -> None:
        nonlocal done
        done += samples
        progress(done, total)

    for job in jobs:
        rejects.add(runner.run(job, excluded.get(job.name, frozenset()), watch))


def _run_in_processes(
    runner: ShardRunner,
    jobs: list[Job],
    excluded: Excluded,
    rejects: Rejects,
    processes: int,
    progress: Callable[[int, int], None],
) -> None:
    total = sum(job.stop - job.start for job in jobs)
    with _sigint_held():
        context = multiprocessing.get_context("spawn")
        stop, counter = context.Event(), context.Value("q", 0)
    pool = ProcessPoolExecutor(processes, context, _start_worker, (_pickled(runner), stop, counter))
    waiting = iter(jobs)
    running: set[Future[Outcome]] = set()
    try:
        while True:
            with _sigint_held():
                while len(running) < _JOBS_AHEAD * processes and (job := next(waiting, None)):
                    running.add(pool.submit(_run_here, job, excluded.get(job.name, frozenset())))
            if not running:
                break
            done, running = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            progress(counter.value, total)
            for future in done:
                rejects.add(future.result())
    except BrokenProcessPool as error:
        raise StoreError(
            "a packing process died (killed, or out of memory?); what is finished stays: the same "
            "command goes on from there, with fewer --processes if memory was short"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Ctrl-C waits meanwhile. Processes started here inherit that, so that none of them dies with a
    traceback of its own before it has learnt to leave Ctrl-C to its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pickled(runner: ShardRunner) -> bytes:
    try:
        return pickle.dumps(runner)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise StoreError(
            f"the source cannot travel to packing processes ({error}); make it picklable, or pack "
            "with processes=1"
        ) from error


def _start_worker(runner: bytes, stop: Any, counter: Any) -> None:
    """Readies a packing process: one thread, deaf to Ctrl-C, ending with its parent."""
    global _worker  # noqa: PLW0603 - a process's own runner, set once before its first job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()

    def watch(samples: int) -> None:
        with counter.get_lock():
            counter.value += samples
        if stop.is_set():
            raise Stopped

    _worker = (pickle.loads(runner), watch)


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _run_here(job: Job, excluded: frozenset[int]) -> Outcome:
    assert _worker is not None
    runner, watch = _worker
    return runner.run(job, excluded, watch)
