"""Packing shards in this process or in several of this machine.

Processes are spawned, not forked: the parent may have threads. They leave Ctrl-C to their parent
and end with it, however it ends, so that a rerun after `kill -9` finds nobody at work. Each has a
pipe of its own: the runner, which may be large, goes through it when the process is up, so one that
dies while it starts is seen and not waited for. The surprise: what processes share has no lock. One
that is killed while it holds a lock keeps it for ever, and all others wait. So each has a number
that it alone writes to, and the one that stops them is only ever set.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

import cv2

from wdtrain.disk.failures import StoreError
from wdtrain.packing.engine import num_samples
from wdtrain.packing.jobs import Outcome, PackingStopped, Rejects, ShardRunner, StopSignal
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.plan import Job

_POLL_SECONDS: Final = 0.2
_EARLY: Final = 2


@dataclass(frozen=True)
class _Worker:
    """A packing process, the parent's end of its pipe, and the samples it has packed."""

    process: SpawnProcess
    pipe: Connection
    packed: ctypes.c_int64

    def send(self, data: bytes) -> None:
        try:
            self.pipe.send_bytes(data)
        except OSError as error:
            raise _died() from error

    def receive(self) -> Outcome:
        """What its job came to; raises what the job raised."""
        try:
            outcome: Outcome | Exception = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise _died() from error
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _died() -> StoreError:
    return StoreError(
        "a packing process died (killed? out of memory? a script that packs outside of "
        "`if __name__ == '__main__':`?); what is finished stays: the same command goes on from "
        "there, with fewer --processes if memory was short"
    )


class ProcessEngine:
    """Runs jobs in up to `processes` spawned processes; a single one is this process. An Engine."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._workers: list[_Worker] = []
        context = multiprocessing.get_context("spawn")
        with _sigint_held():
            self._context, self._stop = context, context.RawValue(ctypes.c_bool, False)

    def start_early(self) -> None:
        """Two processes load their libraries while the parent still reads what is to be packed."""
        if self._processes > 1:
            self._grow(min(self._processes, _EARLY))

    def run(
        self, runner: ShardRunner, jobs: list[Job], rejects: Rejects, progress: PackingProgress
    ) -> None:
        """All jobs are finished; the first error or too many rejects stop the others."""
        if min(self._processes, len(jobs)) <= 1:
            _run_here(runner, jobs, rejects, progress)
            return
        try:
            self._run_in_processes(runner, jobs, rejects, progress)
        except BaseException:
            self.close()  # whoever cleans up after the error finds nobody at work
            raise

    def _run_in_processes(
        self, runner: ShardRunner, jobs: list[Job], rejects: Rejects, progress: PackingProgress
    ) -> None:
        data = _pickled(runner)
        self._grow(min(self._processes, len(jobs)))
        before = self._packed()
        total = num_samples(jobs)
        waiting = iter(jobs)
        busy: dict[Connection, _Worker] = {}
        for worker, job in zip(self._workers, waiting, strict=False):
            worker.send(data)
            worker.send(pickle.dumps(job))
            busy[worker.pipe] = worker
        while busy:
            ready = multiprocessing.connection.wait(list(busy), _POLL_SECONDS)
            progress(self._packed() - before, total)
            for worker in [worker for pipe, worker in busy.items() if pipe in ready]:
                del busy[worker.pipe]
                rejects.add(worker.receive())
                if job_left := next(waiting, None):
                    worker.send(pickle.dumps(job_left))
                    busy[worker.pipe] = worker

    def _packed(self) -> int:
        """Samples packed by all processes since they started."""
        return sum(worker.packed.value for worker in self._workers)

    def _grow(self, count: int) -> None:
        with _sigint_held():  # apart: multiprocessing's own helper lets Ctrl-C through at its start
            resource_tracker.ensure_running()
        with _sigint_held():
            while len(self._workers) < count:
                ours, theirs = self._context.Pipe()
                packed = self._context.RawValue(ctypes.c_int64, 0)
                process = self._context.Process(target=_serve, args=(theirs, self._stop, packed))
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours, packed))

    def close(self) -> None:
        """Every process has ended; a job in the making is stopped."""
        self._stop.value = True
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()
        self._stop.value = False


def _run_here(
    runner: ShardRunner, jobs: list[Job], rejects: Rejects, progress: PackingProgress
) -> None:
    total, done = num_samples(jobs), 0

    def watch(samples: int) -> None:
        nonlocal done
        done += samples
        progress(done, total)

    for job in jobs:
        rejects.add(runner.run(job, watch))


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


def _serve(pipe: Connection, stop: Any, packed: Any) -> None:
    """A packing process: one thread, deaf to Ctrl-C, ending with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()

    def watch(samples: int) -> None:
        packed.value += samples
        if stop.value:
            raise PackingStopped

    runner: ShardRunner | None = None
    while (message := _next_message(pipe)) is not None:
        if isinstance(message, ShardRunner):
            runner = message
            continue
        assert runner is not None
        outcome = _outcome(runner, message, watch)
        if outcome is None:
            break
        if not _sent(pipe, outcome):
            break


def _next_message(pipe: Connection) -> Any:
    """A runner or a job; None when the parent wants no more."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _sent(pipe: Connection, outcome: Outcome | Exception) -> bool:
    """Whether the parent still takes an outcome."""
    try:
        pipe.send(outcome)
    except OSError:
        return False
    return True


def _outcome(runner: ShardRunner, job: Job, watch: StopSignal) -> Outcome | Exception | None:
    """What a job came to, or the error it ended with; None when it was stopped."""
    try:
        return runner.run(job, watch)
    except PackingStopped:
        return None
    except StoreError as error:
        return error
    except Exception as error:  # noqa: BLE001 - it is raised in the parent, with where it was
        error.add_note(traceback.format_exc())
        return error


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
