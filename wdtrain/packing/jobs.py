"""Packing one shard: its samples in, a whole file under its final name and a summary out.

A shard's job depends on the plan alone, so it can be done again, anywhere, to the same bytes. Owns
the count of rejected samples and stops when it goes above what is allowed.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError, ImageField
from wdtrain.fields.announce import Prefetching, prefetched
from wdtrain.packing.contents import FromFiles, changed, named
from wdtrain.packing.duplicates import key_hash
from wdtrain.packing.plan import Job, Plan
from wdtrain.packing.prepare import PixelSums, prepare
from wdtrain.packing.shardfile import ImageBlocks, RawBlocks, ShardFile
from wdtrain.packing.staging import Staging
from wdtrain.store.manifest import member_suffixes

_WATCH_EVERY: Final = 64
_SHOWN_REJECTS: Final = 5


class TooManyRejects(StoreError):
    """More samples were rejected than allowed: how many at least, and the first of them."""

    def __init__(self, count: int, first: list[tuple[str, str]]) -> None:
        super().__init__(count, first)
        self.count, self.first = count, first

    def __str__(self) -> str:
        lines = "".join(f"\n  {key}: {reason}" for key, reason in self.first)
        return f"at least {self.count:,} samples are rejected. The first:{lines}"


class PackingStopped(Exception):
    """Whoever runs a job asked it to stop."""


class StopSignal(Protocol):
    """Called by a job with the samples done since the last call. May raise to stop it."""

    def __call__(self, samples: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """A finished job: its shard's name and the samples left out, as (key, reason)."""

    name: str
    rejects: list[tuple[str, str]]


@dataclass
class Rejects:
    """The samples rejected so far, counted by shard: a shard packed again replaces its count."""

    allowed: int
    counts: dict[str, int] = field(default_factory=dict)
    first: list[tuple[str, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def add(self, outcome: Outcome) -> None:
        """Counts an outcome; TooManyRejects when that is more than is allowed."""
        if not outcome.rejects and outcome.name not in self.counts:
            return
        self.counts[outcome.name] = len(outcome.rejects)
        self.first = [*self.first, *outcome.rejects][:_SHOWN_REJECTS]
        if self.count > self.allowed:
            raise TooManyRejects(self.count, self.first)


@dataclass(frozen=True)
class ShardRunner:
    """Packs single shards of a plan into its work folder."""

    plan: Plan
    work: Staging
    allowed_rejects: int
    is_alone: bool = True
    """No part packs here at the same time, so a shard whose files were mended is packed again."""

    def changed(self, jobs: list[Job]) -> list[int]:
        """The source indices in finished shards whose files hold something else by now."""
        source = self.plan.source
        if not isinstance(source, FromFiles):
            return []
        return [i for job in jobs for i in changed(source, self.work.files(job.edition))]

    def run(self, job: Job, watch: StopSignal) -> Outcome:
        """The shard is finished: packed now, or found whole from before."""
        refusal = self.work.refusal()
        if refusal is not None and refusal[0] > self.allowed_rejects:
            raise TooManyRejects(*refusal)
        summary = self.work.whole_summary(job.edition)
        if summary is not None and (mended := self.changed([job])):
            if not self.is_alone:
                raise mended_meanwhile(self.plan, mended, self.work.target)
            self.work.forget(job.edition)
            summary = None
        if summary is not None:
            watch(job.stop - job.start)
            return Outcome(job.name, [(key, reason) for key, reason in summary["rejects"]])
        temporary = self.work.temporary(job.edition)
        try:
            return self._pack(job, watch, temporary)
        except OSError as error:
            raise StoreError(
                f"shard {job.name} cannot be packed ({error.strerror or error}); what is finished "
                "stays: when that is mended, the same command goes on from there"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _pack(self, job: Job, watch: StopSignal, temporary: Path) -> Outcome:
        with closing(ShardFile(temporary, zstd_level=self.plan.settings.zstd_level)) as file:
            filling = _Filling(self, file)
            try:
                filling.fill(self.plan.rows(job), job.excluded, watch)
                outcome = Outcome(job.name, filling.rejects)
                if len(filling.rejects) > self.allowed_rejects:
                    return outcome
                num_bytes, sha256 = file.finish()
            finally:
                filling.blocks.close()
        summary: dict[str, Any] = {
            "name": job.name,
            "samples": len(filling.kept),
            "bytes": num_bytes,
            "sha256": sha256,
            "blocks": file.blocks,
            "sums": {name: sums.as_dict() for name, sums in filling.sums.items()},
            "rejects": filling.rejects,
        }
        tables = {
            "keys": np.array(filling.kept, np.uint64).reshape(-1, 2).T,
            "files": np.array(filling.files, np.uint64).reshape(-1, 3).T,
        }
        self.work.finish(job.edition, summary, tables, temporary if filling.kept else None)
        return outcome


def mended_meanwhile(plan: Plan, indices: list[int], target: Path) -> StoreError:
    """The message for samples whose files changed between two parts of a packing."""
    return StoreError(
        f"{named(plan.source, indices)} changed after they were packed: the dataset would be half "
        f"of the old files and half of the new; it is not finished. Give the command once without "
        f"--part, which packs the shards concerned again, or remove {target} and pack all parts "
        "again"
    )


class _Filling:
    """The contents of one shard on their way into its file."""

    def __init__(self, runner: ShardRunner, file: ShardFile) -> None:
        self._plan, self._file = runner.plan, file
        self._allowed_rejects = runner.allowed_rejects
        self.sums = {
            field.name: PixelSums() for field in self._plan.fields if isinstance(field, ImageField)
        }
        self.rejects: list[tuple[str, str]] = []
        self.kept: list[tuple[int, int]] = []
        self.files: list[tuple[int, int, int]] = []
        source = self._plan.source
        self._from_files = source if isinstance(source, FromFiles) else None
        samples, encoding = self._plan.settings.samples_per_block, self._plan.settings.encoding
        names = [f".{suffix}".encode() for suffix in member_suffixes(self._plan.fields, encoding)]
        self.blocks: ImageBlocks | RawBlocks
        if encoding == "raw":
            self.blocks = RawBlocks(names, samples_per_block=samples, folder=runner.work.folder)
        else:
            self.blocks = ImageBlocks(names, samples_per_block=samples)

    def fill(self, rows: np.ndarray, excluded: frozenset[int], watch: StopSignal) -> None:
        """Writes all samples; ends early when more are rejected than the whole dataset may lose."""
        unseen = 0
        indices: list[int] = rows.tolist()
        source = self._plan.source
        for index in (
            prefetched(indices, source.prefetch) if isinstance(source, Prefetching) else indices
        ):
            self._add(index, is_duplicate=index in excluded)
            if len(self.rejects) > self._allowed_rejects:
                return
            unseen += 1
            if unseen == _WATCH_EVERY:
                watch(unseen)
                unseen = 0
        for block in self.blocks.rest():
            self._file.add_block(block)
        watch(unseen)

    def _add(self, index: int, *, is_duplicate: bool) -> None:
        """A sample is written, or rejected. Its files' signal is taken before they are read: what
        changes from then on is seen to have changed."""
        signal = self._from_files.signal(index) if self._from_files else 0
        self._write(index, is_duplicate=is_duplicate)
        if self._from_files:
            self.files.append((index, signal, self._from_files.content(index)))

    def _write(self, index: int, *, is_duplicate: bool) -> None:
        source = self._plan.source
        try:
            if is_duplicate:
                raise FieldError("duplicate key: another sample of the source has it too")
            sample = prepare(self._plan, index)
        except FieldError as error:
            self.rejects.append((source.key(index), str(error)))
            return
        self.kept.append((key_hash(sample.key), index))
        for name, picture in sample.images.items():
            self.sums[name].add(picture)
        block = self.blocks.add(sample)
        if block is not None:
            self._file.add_block(block)
