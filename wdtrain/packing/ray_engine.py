"""Packing shards as tasks of a Ray cluster: `pack(..., engine="ray")`.

Thin: each shard is one task, which Ray gives to another worker when one is lost. A task writes to
the target itself, so every node must see the target, the source and this package under the same
paths. Ray is an extra: this module alone imports it.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any, Final

import cv2

from wdtrain.disk.failures import StoreError
from wdtrain.packing.engine import num_samples
from wdtrain.packing.jobs import Outcome, PackingStopped, Rejects, ShardRunner
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.plan import Job

try:
    import ray
except ImportError as missing:
    raise StoreError(
        "engine ray: the package ray is not installed; pip install 'wdtrain[ray]', or pack with "
        "--part I/N on several machines"
    ) from missing

_TRIES_AGAIN: Final = 10
_TASKS_A_CPU: Final = 2
_POLL_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 30.0


def _pack_shard(runner: ShardRunner, job: Job, stop: Path) -> Outcome:
    """A task: packs a shard unless, or until, the file `stop` is there."""

    def watch(samples: int) -> None:
        if stop.exists():
            raise PackingStopped

    cv2.setNumThreads(1)
    watch(0)
    return runner.run(job, watch)


class RayEngine:
    """Runs jobs as Ray tasks of one CPU, at most `processes` at once. An Engine.

    Joins the Ray that this program has started, else the cluster that RAY_ADDRESS names or that
    runs on this machine, else starts one here, and stops only that.
    """

    def __init__(self, processes: int | None) -> None:
        self._processes = processes
        self._is_ours = not ray.is_initialized()
        self._sigterm = signal.getsignal(signal.SIGTERM)
        if self._is_ours:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def start_early(self) -> None:
        """Nothing: Ray starts its workers by itself."""

    def run(
        self, runner: ShardRunner, jobs: list[Job], rejects: Rejects, progress: PackingProgress
    ) -> None:
        """All jobs are finished; the first error or too many rejects stop the others."""
        at_once = self._processes or _TASKS_A_CPU * int(ray.cluster_resources().get("CPU", 1))
        waiting, running, done = iter(jobs), dict[Any, Job](), 0
        stop = runner.work.temporary("stop")
        try:
            shared = ray.put(runner)
            # Tasks are stopped by a file: `ray.cancel` crashes this process if the task has just
            # ended (a failed check in Ray 2.60's task manager).
            task = ray.remote(num_cpus=1, max_retries=_TRIES_AGAIN)(_pack_shard)
            while True:
                while len(running) < at_once and (job := next(waiting, None)):
                    running[task.remote(shared, job, stop)] = job
                if not running:
                    return
                for ref in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
                    rejects.add(ray.get(ref))
                    done += num_samples([running.pop(ref)])
                progress(done, num_samples(jobs))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StoreError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise StoreError(
                f"Ray could not pack a shard in {_TRIES_AGAIN + 1} tries, or is gone "
                f"({str(error).splitlines()[0]}); what is finished stays: the same command goes on "
                "from there, once workers stay alive and have the memory they need"
            ) from error
        finally:
            if running:
                stop.touch()
                ray.wait(list(running), num_returns=len(running), timeout=_STOP_SECONDS)
                stop.unlink(missing_ok=True)

    def close(self) -> None:
        """Ray is as it was before, if it was not running."""
        if self._is_ours:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._sigterm)
