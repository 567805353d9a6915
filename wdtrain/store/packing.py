"""Packing a source into a dataset: plan, shards in parallel, duplicates, manifest.

Every shard is a job that can be done again: it depends on the plan and on nothing else, and gets
its final name when it is whole. So one process or eight, a second run or a run after `kill -9` give
the same bytes. The manifest is written last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wdtrain.store import manifest as manifests
from wdtrain.store import workplace
from wdtrain.store.document import manifest_document
from wdtrain.store.duplicates import find_duplicates
from wdtrain.store.errors import StoreError
from wdtrain.store.folder import FolderSource
from wdtrain.store.jobs import Excluded, Rejects, ShardRunner, TooManyRejects
from wdtrain.store.manifest import Manifest
from wdtrain.store.plan import Plan, make_plan
from wdtrain.store.processes import run_jobs
from wdtrain.store.source import Source
from wdtrain.store.splits import Holdout
from wdtrain.store.workplace import enter_plan, locked_workplace

Progress = Callable[[int, int], None]
"""Called with (samples packed, samples in all), from the packing process."""


def pack(
    source: Source | str | Path,
    target: str | Path,
    *,
    encoding: str = "image",
    compression: str = "zstd:9",
    size: int | tuple[int, int] | None = None,
    processes: int | None = None,
    seed: int = 0,
    max_rejects: float = 0.001,
    shard_samples: int | None = None,
    samples_per_block: int | None = None,
    jpeg_quality: int = 90,
    holdout: Holdout | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """A dataset lies in `target`, whole, with every sample of the source in it or in its rejects.

    `source` is a folder of triples or anything with the members of `Source`. `size` is the side of
    a square or (height, width), None for the source's own. `max_rejects` is the share of samples
    that may be left out. `shard_samples` and `samples_per_block` None mean 8,192 and about 1 MiB,
    fewer for a small source. `processes` None takes the usable cores; it changes no byte.

    Packing again what is packed changes nothing; after a kill it goes on where it was. StoreError
    for a source or target that cannot be used, and then there is no manifest.
    """
    source = FolderSource(source) if isinstance(source, str | Path) else source
    if not 0 <= max_rejects <= 1:
        raise StoreError(f"max_rejects is {max_rejects}; it is a share from 0 to 1")
    plan = make_plan(
        source,
        encoding=encoding,
        compression=compression,
        size=size,
        seed=seed,
        shard_samples=shard_samples,
        samples_per_block=samples_per_block,
        jpeg_quality=jpeg_quality,
        holdout=holdout or Holdout(),
    )
    if (Path(target) / manifests.NAME).exists():
        return _already_packed(Path(target), plan)
    try:
        with locked_workplace(Path(target)) as work:
            enter_plan(work, plan.digest())
            runner = ShardRunner(plan, work, allowed_rejects=int(max_rejects * len(source)))
            _pack_shards(runner, processes or usable_cores(), progress or _unseen)
            work.commit(manifest_document(plan, work))
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); what is finished stays: when "
            "that is mended, the same command goes on from there"
        ) from error
    return Manifest.load(str(target))


def _unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _already_packed(target: Path, plan: Plan) -> Manifest:
    """The dataset that is there, if it is the one that the plan would make."""
    manifest = Manifest.load(str(target))
    if {"settings": manifest.settings, "source": manifest.source} != plan.identity():
        raise StoreError(
            f"{target} already holds a dataset of another source or other settings; it is left as "
            "it is; choose another target, or remove it first"
        )
    if (target / workplace.FOLDER).exists():  # killed between the manifest and the sweep
        with locked_workplace(target) as work:
            work.sweep()
    return manifest


def _pack_shards(runner: ShardRunner, processes: int, progress: Progress) -> None:
    """Every shard is finished, without duplicate keys, and few enough samples were rejected."""
    jobs = runner.plan.jobs()
    excluded: Excluded = {}
    rejects = Rejects(runner.allowed_rejects)
    todo = jobs
    try:
        while todo:
            run_jobs(runner, todo, excluded, rejects, processes=processes, progress=progress)
            excluded = find_duplicates(runner.plan.source, runner.work, jobs)
            todo = [job for job in jobs if job.name in excluded]
            for job in todo:
                runner.work.reopen(job.name)
    except TooManyRejects as error:
        runner.work.abandon([job.name for job in jobs])
        raise StoreError(
            f"at least {rejects.count:,} of {len(runner.plan.source):,} samples cannot be packed, "
            f"more than the {runner.allowed_rejects:,} that --max-rejects allows; nothing was "
            f"written; mend them or allow more. The first:{error}"
        ) from error
