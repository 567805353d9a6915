"""What runs the jobs of a packing: the protocol that processes and Ray both keep.

An engine runs each job somewhere, once or more often, and adds its outcome to the rejects here. A
job can be done again anywhere to the same bytes, so which engine ran it cannot be seen.
"""

from __future__ import annotations

from typing import Protocol

from wdtrain.packing.jobs import Rejects, ShardRunner
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.plan import Job


class Engine(Protocol):
    """Runs jobs, and lets go of what it needed for that when it is closed."""

    def run(
        self, runner: ShardRunner, jobs: list[Job], rejects: Rejects, progress: PackingProgress
    ) -> None:
        """All jobs are finished; the first error or too many rejects stop the others."""

    def start_early(self) -> None:
        """Makes ready what takes a while, if that is worth it before the jobs are known."""

    def close(self) -> None:
        """No process of the engine works any more."""


def num_samples(jobs: list[Job]) -> int:
    return sum(job.stop - job.start for job in jobs)
