"""Checkpoints: a folder a step, whole or not there.

`begin` gives every rank the same temporary folder; `commit`, on rank 0 after a barrier, hashes and
syncs its files, gives it its name and prunes older ones; `newest_of_all` finds the newest
that is whole and the same for all ranks. `checkpoint.json` holds the files' SHA-256 and what the
caller keeps beside them (cursor, recipe digest, schedules ...).
The surprise: the best one is recorded nowhere: each manifest holds its metric, and the best of
those kept is the best of the run, because it is never pruned. So no pointer can be wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wdtrain.disk.durable import rename_synced, sync_tree, writing

CHECKPOINT_MANIFEST = "checkpoint.json"
FORMAT_VERSION = 1
_TEMPORARY, _REPLACED, _PRUNED = ".saving-", ".replaced-", ".pruned-"
_STEP_NAME = re.compile(r"(?:\.replaced-)?step-(\d{8,})")
_HASH_BYTES = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or used: what was found, why, what to do."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint: its folder, its step, the caller's `extra`, its validation metric, and
    the digest of all of that and of its files."""

    path: Path
    step: int
    extra: dict[str, Any]
    metric: float | None = None
    digest: str = ""


@dataclass
class Checkpoints:
    """The checkpoints of one run, in `folder` (shared by all ranks).

    keep: how many of the newest are kept, 1 or more. higher_is_better: how metrics compare.
    skipped: the damaged ones that `latest` passed over in its last call, each with its reason.
    """

    folder: Path
    keep: int = 2
    higher_is_better: bool = True
    skipped: list[str] = field(default_factory=list)
    _attempts: int = 0

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.keep < 1:
            raise CheckpointError(
                f"checkpoint keep is {self.keep}: a run that keeps none cannot be resumed; "
                "keep 1 or more"
            )

    def clean(self) -> list[str]:
        """What killed saves left behind is gone; returns its names. Rank 0, at the start.

        A checkpoint that was being replaced when the kill came gets its name back.
        """
        if not self.folder.exists():
            return []
        leftovers = []
        for path in sorted(self.folder.iterdir()):
            original = self.folder / path.name.removeprefix(_REPLACED)
            if path.name.startswith(_REPLACED) and not original.exists():
                rename_synced(path, original)
            elif path.name.startswith((_TEMPORARY, _REPLACED, _PRUNED)):
                shutil.rmtree(path)
                leftovers.append(path.name)
        return leftovers

    def begin(self, step: int) -> Path:
        """The temporary folder of this step, made. Every rank calls it and gets the same.

        Every call gives a fresh name, so that a save that failed leaves nothing to the next.
        """
        self._attempts += 1
        temporary = self._temporary(step)
        with writing(temporary):
            temporary.mkdir(parents=True, exist_ok=True)
        return temporary

    def commit(
        self, step: int, extra: Mapping[str, Any] | None = None, *, metric: float | None = None
    ) -> SavedCheckpoint:
        """What the ranks wrote since `begin(step)` is a checkpoint, on disk and under its name.

        Rank 0 alone, after a barrier. extra: JSON values. metric: of the validation, if there was
        one. Then all but the newest `keep` and the best are removed, and those of later steps too:
        a run that went back to an earlier step has another future.
        """
        temporary = self._temporary(step)
        metric = metric if metric is not None and math.isfinite(metric) else None
        with writing(temporary):
            digest = _write_manifest(temporary, step, dict(extra or {}), metric)
            sync_tree(temporary)
        self._give_name(temporary, self.folder / f"step-{step:08d}")
        self._prune(newest=step)
        return SavedCheckpoint(
            self.folder / f"step-{step:08d}", step, dict(extra or {}), metric, digest
        )

    def abandon(self, step: int) -> None:
        """What was written since `begin(step)` is gone. Rank 0, where a save has failed."""
        shutil.rmtree(self._temporary(step), ignore_errors=True)

    def latest(self) -> SavedCheckpoint | None:
        """The newest whole one, every byte verified, or None; `skipped` says what was damaged.

        For a reader; ranks that go on together take `newest_of_all`.
        """
        return self.newest_of_all(lambda mine, what: [mine])

    def newest_of_all(self, gather: Callable[[Any, str], list[Any]]) -> SavedCheckpoint | None:
        """The newest one that every rank finds whole and the same, by step and digest, or None.

        All ranks call it; gather gives the values of all ranks by rank. `skipped`, on all of them,
        says what was passed over, and because of which rank.
        """
        self.skipped = []
        seen = gather(sorted(self._steps()), "the checkpoints that are there")
        for step in sorted(set().union(*seen), reverse=True):
            found = self._look(step)
            answers = gather(
                (found.digest, "") if isinstance(found, SavedCheckpoint) else ("", str(found)),
                f"a look at the checkpoint of step {step}",
            )
            if len({digest for digest, _ in answers}) == 1 and isinstance(found, SavedCheckpoint):
                return found
            self.skipped.append(self._why_not(step, answers))
        return None

    def _look(self, step: int) -> SavedCheckpoint | CheckpointError:
        path = self._steps().get(step, self.folder / f"step-{step:08d}")
        try:
            return verify_checkpoint(path)
        except CheckpointError as error:
            return error

    def _why_not(self, step: int, answers: Sequence[tuple[str, str]]) -> str:
        """In words, from the digest or the error of each rank."""
        blind = {rank: why for rank, (_, why) in enumerate(answers) if why}
        if not blind:
            return f"checkpoint of step {step}: the ranks see different ones ({self.folder})"
        rank, why = min(blind.items())
        if len(blind) == len(answers):
            return why
        return f"{why} (so it is for rank {rank}; ranks go on from what all of them can read)"

    def best(self) -> SavedCheckpoint | None:
        """The one with the best metric (the later of equals), verified; None if none has one."""
        path = self._best_path(self._steps())
        return None if path is None else verify_checkpoint(path)

    def _temporary(self, step: int) -> Path:
        return self.folder / f"{_TEMPORARY}{step:08d}-{self._attempts}"

    def _give_name(self, temporary: Path, final: Path) -> None:
        """`temporary` becomes `final`; what was of that name steps back, and is found till then."""
        replaced = self.folder / f"{_REPLACED}{final.name}"
        if final.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            rename_synced(final, replaced)
        rename_synced(temporary, final)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _steps(self) -> dict[int, Path]:
        """Folder of each step; one that was being replaced counts where its successor is not."""
        if not self.folder.exists():
            return {}
        paths = sorted(self.folder.iterdir())  # ".replaced-..." sorts before "step-...", and loses
        matches = ((_STEP_NAME.fullmatch(path.name), path) for path in paths)
        return {int(match[1]): path for match, path in matches if match}

    def _best_path(self, steps: Mapping[int, Path]) -> Path | None:
        sign = 1 if self.higher_is_better else -1
        ranked = []
        for step, path in steps.items():
            try:
                metric = _read_manifest(path)["metric"]
            except CheckpointError:
                continue  # a damaged one is nobody's best; `latest` reports it
            if metric is not None:
                ranked.append((sign * metric, step))
        return steps[max(ranked)[1]] if ranked else None

    def _prune(self, newest: int) -> None:
        steps = self._steps()
        past = {step: path for step, path in steps.items() if step <= newest}
        kept = {past[step] for step in sorted(past)[-self.keep :]} | {self._best_path(past)}
        for path in steps.values():
            if path not in kept:
                doomed = self.folder / f"{_PRUNED}{path.name}"
                os.rename(path, doomed)
                shutil.rmtree(doomed)


def verify_checkpoint(path: Path | str) -> SavedCheckpoint:
    """The checkpoint in this folder, after every file was hashed; CheckpointError if damaged."""
    path = Path(path)
    manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            if not file.is_file():
                raise _damaged(path, f"{name} is missing")
            found = _sha256(file)
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read ({error.strerror})") from error
        if found != expected["sha256"]:
            raise _damaged(path, f"{name} is not what was saved ({expected['bytes']} bytes)")
    step, extra, metric = manifest["step"], manifest["extra"], manifest["metric"]
    return SavedCheckpoint(path, step, extra, metric, manifest["digest"])


def save_weights(path: Path | str, state: Mapping[str, torch.Tensor]) -> None:
    """A state dict as safetensors: readable without pickle. Tensors may share memory or strides."""
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()
    }
    with writing(Path(path)):
        save_file(tensors, str(path))


def load_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The state dict of a safetensors file, on the CPU; CheckpointError if it cannot be read."""
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged: {why}; an exact resume from it is impossible; "
        "delete it, or resume from an older one"
    )


def _write_manifest(folder: Path, step: int, extra: dict[str, Any], metric: float | None) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    body = {
        "format": FORMAT_VERSION,
        "step": step,
        "metric": metric,
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            for path in files
        },
        "extra": extra,
    }
    body = json.loads(json.dumps(body))  # keys that are numbers become text before the digest
    digest = _digest(body)
    (folder / CHECKPOINT_MANIFEST).write_text(json.dumps({**body, "digest": digest}, indent=1))
    return digest


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        body = json.loads((folder / CHECKPOINT_MANIFEST).read_bytes())
        digest = body.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, f"{CHECKPOINT_MANIFEST} cannot be read ({error})") from error
    if digest != _digest(body):
        raise _damaged(folder, f"{CHECKPOINT_MANIFEST} is not what was saved")
    if body["format"] > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {folder} has format {body['format']}, this version reads up to "
            f"{FORMAT_VERSION}: it was written by a newer wdtrain; update this one"
        )
    return {**body, "digest": digest}


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
