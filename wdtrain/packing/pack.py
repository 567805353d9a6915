"""Packing a source into a dataset: plan, shards in parallel, duplicates, manifest.

Every shard is a job that can be done again: it depends on the plan and on nothing else, and counts
when it is whole. So one process or eight, one machine or many, a second run or a run after
`kill -9` give the same bytes. Shards get their final names at the end, and the manifest comes last.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Unpack, overload

from wdtrain.disk.failures import StoreError
from wdtrain.disk.machine import usable_cores
from wdtrain.fields.source import Source
from wdtrain.packing import staging
from wdtrain.packing.contents import FromFiles, changed_since, named, note_of
from wdtrain.packing.document import identity_of, manifest_document
from wdtrain.packing.duplicates import find_duplicates
from wdtrain.packing.engine import Engine
from wdtrain.packing.jobs import Rejects, ShardRunner, TooManyRejects, mended_meanwhile
from wdtrain.packing.options import PackingKeywords, PackingOptions, PackingProgress, Say
from wdtrain.packing.parts import PackingPart, PartDone
from wdtrain.packing.plan import Job, Plan, make_plan, notes_on
from wdtrain.packing.processes import ProcessEngine
from wdtrain.packing.staging import Finished, enter_plan, locked_staging
from wdtrain.store import manifest as manifests
from wdtrain.store.manifest import VERSION, Manifest

ENGINES: Final = ("processes", "ray")
_SHOWN_REJECTS: Final = 5
_LOG: Final = logging.getLogger("wdtrain.packing")


@overload
def pack(
    source: Source | Callable[[], Source],
    target: str | Path,
    *,
    part: None = None,
    **options: Unpack[PackingKeywords],
) -> Manifest: ...


@overload
def pack(
    source: Source | Callable[[], Source],
    target: str | Path,
    *,
    part: tuple[int, int] | None,
    **options: Unpack[PackingKeywords],
) -> Manifest | PartDone: ...


def pack(
    source: Source | Callable[[], Source],
    target: str | Path,
    *,
    part: tuple[int, int] | None = None,
    **options: Unpack[PackingKeywords],
) -> Manifest | PartDone:
    """As `pack_with`, the options as keywords: those of `PackingOptions`, by the same names."""
    return pack_with(source, target, PackingOptions(part=part, **options))


pack.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # help() lists them
    [
        *list(inspect.signature(pack).parameters.values())[:2],
        *inspect.signature(PackingOptions).parameters.values(),
    ]
)


def pack_with(
    source: Source | Callable[[], Source], target: str | Path, options: PackingOptions
) -> Manifest | PartDone:
    """A dataset lies in `target`, whole, with every sample of the source in it or in its rejects.

    `source`: anything with the members of `Source`, or what opens one when it is called: processes
    start meanwhile, where listing files takes its time. Neither the number of processes nor the
    engine changes a byte. With a `part` a `PartDone` comes back while shards of other parts are
    missing, and the dataset of the part that finds them all there.

    Packing again what is packed changes nothing; after a kill it goes on where it was. StoreError
    for a source or target that cannot be used, or files that changed since they were packed.
    """
    share = None if options.part is None else PackingPart(*options.part)
    with _engine(options.engine, options.processes) as running:
        if callable(source):
            _start_early(running, Path(target))
            source = source()
        plan = make_plan(source, options)
        _tell(plan, Path(target), options.say or _LOG.warning)
        most = int(options.max_rejects * len(source))
        return _pack_plan(plan, Path(target), share, most, running, options.progress or _unseen)


def _start_early(engine: Engine, target: Path) -> None:
    if not (target / manifests.MANIFEST_NAME).exists():
        engine.start_early()


def _tell(plan: Plan, target: Path, say: Say) -> None:
    for text in notes_on(plan):
        say(text)
    if (target / manifests.MANIFEST_NAME).exists():
        manifest = Manifest.load(str(target))
        if _is_older(manifest) and identity_of(manifest, plan) == plan.identity():
            say(
                f"{target} was packed by an older wdtrain, whose bytes may be others than those of "
                "today; it is read as it is; remove it, or name another target, to pack anew"
            )


def _is_older(manifest: Manifest) -> bool:
    return manifest.version < VERSION


def _unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def _engine(name: str, processes: int | None) -> Iterator[Engine]:
    """The engine of this name, closed at the end; StoreError for one there is not."""
    if processes is not None and processes < 1:
        raise StoreError(f"processes is {processes}; at least 1 is needed")
    engine: Engine
    if name == "ray":
        from wdtrain.packing.ray_engine import RayEngine  # only here: Ray is an extra

        engine = RayEngine(processes)
    elif name == "processes":
        engine = ProcessEngine(processes or usable_cores())
    else:
        raise StoreError(f"engine {name!r} is not known; it must be {' or '.join(ENGINES)}")
    try:
        yield engine
    finally:
        engine.close()


def _pack_plan(
    plan: Plan,
    target: Path,
    part: PackingPart | None,
    allowed: int,
    engine: Engine,
    progress: PackingProgress,
) -> Manifest | PartDone:
    """The plan's dataset, or what its part came to."""
    if (target / manifests.MANIFEST_NAME).exists():
        return _already_packed(target, plan)
    try:
        with locked_staging(target, shared=part is not None) as work:
            enter_plan(work, plan.digest())
            runner = ShardRunner(plan, work, allowed, is_alone=part is None)
            packing = _Packing(runner, engine, progress)
            if part is None:
                packing.pack_all()
            elif (done := packing.pack_part(part)) is not None:
                return done
    except (OSError, StoreError) as error:
        if part is not None and (target / manifests.MANIFEST_NAME).exists():
            return _already_packed(target, plan)  # another part was faster, and cleared up
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); what is finished stays: when "
            "that is mended, the same command goes on from there"
        ) from error
    return Manifest.load(str(target))


def _already_packed(target: Path, plan: Plan) -> Manifest:
    """The dataset that is there, if it is the one that the plan would make."""
    manifest = Manifest.load(str(target))
    if identity_of(manifest, plan) != plan.identity():
        older = " (or of an older wdtrain, which told folders in other words)"
        raise StoreError(
            f"{target} already holds a dataset of another source or other settings"
            f"{older if _is_older(manifest) else ''}; it is left as it is; choose another target, "
            "or remove it first"
        )
    _check_unchanged(target, plan, manifest)
    if (target / staging.FOLDER).exists():  # killed between the manifest and the sweep
        with locked_staging(target, shared=True) as work:
            work.sweep()
    return manifest


def _check_unchanged(target: Path, plan: Plan, manifest: Manifest) -> None:
    """StoreError where files of the source hold something else than when they were packed."""
    if not isinstance(plan.source, FromFiles):
        return
    mended = changed_since(plan, target, manifest.source.get("contents", ""))
    if mended == []:
        return
    which = "files of the source" if mended is None else named(plan.source, mended)
    raise StoreError(
        f"{which} changed since {target} was packed from them: it holds the old ones, and is left "
        "as it is; pack into another target, or remove it first"
    )


class _Packing:
    """One packing at work: its runner, and the engine that runs the jobs."""

    def __init__(self, runner: ShardRunner, engine: Engine, progress: PackingProgress) -> None:
        self._runner, self._work = runner, runner.work
        self._engine, self._progress = engine, progress
        self._rejects = Rejects(runner.allowed_rejects)
        self._jobs = runner.plan.jobs()

    def pack_all(self) -> None:
        """The dataset is committed; too many rejects leave nothing of it."""
        try:
            self._go_on_after_refusal()
            self._run(self._jobs)
            self._finish()
        except TooManyRejects as error:
            self._work.abandon([job.name for job in self._jobs])
            what = "nothing was written; mend them or allow more"
            raise self._too_many(error, what) from error

    def pack_part(self, part: PackingPart) -> PartDone | None:
        """The part's shards are finished; None if all are, and then the dataset is committed."""
        try:
            self._go_on_after_refusal()
            self._run(part.share(self._jobs))
            missing = self._work.missing([job.name for job in self._jobs])
            if missing:
                return PartDone(part, len(self._jobs) - len(missing), len(self._jobs))
            self._finish()
        except TooManyRejects as error:
            self._work.refuse(error.count, error.first)
            what = (
                "all parts stop and there is no manifest; allow more, or mend them, remove "
                f"{self._work.target} and pack again"
            )
            raise self._too_many(error, what) from error
        return None

    def _go_on_after_refusal(self) -> None:
        refusal = self._work.refusal()
        if refusal is None:
            return
        if refusal[0] > self._runner.allowed_rejects:
            raise TooManyRejects(*refusal)
        self._work.remove_refusal()

    def _run(self, jobs: list[Job]) -> None:
        self._engine.run(self._runner, jobs, self._rejects, self._progress)

    def _finish(self) -> None:
        """All shards are there: without duplicate keys, few enough rejects, under their names."""
        plan = self._runner.plan
        excluded = find_duplicates(plan.source, self._work, self._jobs)
        jobs = [replace(job, excluded=excluded.get(job.name, frozenset())) for job in self._jobs]
        self._run([job for job in jobs if job.excluded])
        if mended := self._runner.changed(jobs):
            raise self._mended(mended)
        document = manifest_document(plan, self._work, jobs)
        rejects = document["rejects"]
        if rejects["count"] > self._runner.allowed_rejects:
            first = [(entry["key"], entry["reason"]) for entry in rejects["list"][:_SHOWN_REJECTS]]
            raise TooManyRejects(rejects["count"], first)
        editions = {job.name: job.edition for job in jobs}
        shards = [
            Finished(editions[shard["name"]], shard["name"], shard["bytes"])
            for split in document["splits"].values()
            for shard in split["shards"]
        ]
        if isinstance(plan.source, FromFiles):
            tables = (self._work.files(job.edition) for job in jobs)
            self._work.note(note_of(tables, len(plan.source)))
        self._work.commit(document, shards)

    def _mended(self, indices: list[int]) -> StoreError:
        runner = self._runner
        if not runner.is_alone:
            return mended_meanwhile(runner.plan, indices, self._work.target)
        return StoreError(
            f"{named(runner.plan.source, indices)} changed while they were packed; give the same "
            "command again, which packs the shards concerned again"
        )

    def _too_many(self, error: TooManyRejects, what: str) -> StoreError:
        lines = "".join(f"\n  {key}: {reason}" for key, reason in error.first)
        return StoreError(
            f"at least {error.count:,} of {len(self._runner.plan.source):,} samples cannot be "
            f"packed, more than the {self._runner.allowed_rejects:,} that --max-rejects allows; "
            f"{what}. The first:{lines}"
        )
