"""What a packing leaves on disk while it is not finished, and how files get their final names.

`TARGET/.packing/` holds the plan's digest, a lock, temporary files, and for each finished shard a
summary: a rerun after a kill finds there what need not be packed again. It is gone at the end.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from wdtrain.store import manifest as manifests
from wdtrain.store.errors import StoreError
from wdtrain.store.files import sha256_of
from wdtrain.store.manifest import canonical

FOLDER: Final = ".packing"
_LOCK: Final = "lock"
_PLAN: Final = "plan.json"
_TEMPORARY: Final = ".part"


def write_file(path: Path, data: bytes) -> None:
    """`path` holds `data`, whole and on the disk, or is as it was before."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rename(temporary: Path, path: Path) -> None:
    """A whole, fsynced file gets its final name, and the name is on the disk too."""
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Workplace:
    """The folder of an unfinished packing. Only paths in it, so it travels to other processes."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target / FOLDER

    def temporary(self, name: str) -> Path:
        """Where a shard is written until it is whole; no two processes share it."""
        return self.folder / f"{name}.{os.getpid()}{_TEMPORARY}"

    def summary(self, name: str) -> dict[str, Any] | None:
        """What was written down of a finished shard; None when it is not finished."""
        try:
            summary: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return summary

    def whole_summary(self, name: str) -> dict[str, Any] | None:
        """As `summary`, but None too when the shard's bytes are no longer those packed."""
        summary = self.summary(name)
        if summary is None or not summary["samples"]:
            return summary
        try:
            found = sha256_of(str(self.target / name))
        except FileNotFoundError:
            return None
        return summary if found == (summary["bytes"], summary["sha256"]) else None

    def finish(self, name: str, summary: dict[str, Any], keys: np.ndarray) -> None:
        """Marks a shard as finished; `keys` is uint64 [2, samples]: key hashes, source indices."""
        np.save(self.folder / f"{name}.keys.npy", keys, allow_pickle=False)
        write_file(self.folder / f"{name}.json", canonical(summary))

    def keys(self, name: str) -> np.ndarray:
        """What `finish` was given, mapped, not read."""
        keys: np.ndarray = np.load(
            self.folder / f"{name}.keys.npy", mmap_mode="r", allow_pickle=False
        )
        return keys

    def reopen(self, name: str) -> None:
        """Marks a finished shard as one to be packed again."""
        (self.folder / f"{name}.json").unlink()

    def commit(self, document: dict[str, Any]) -> None:
        """The manifest stands under its name, and nothing of the packing is left."""
        lines = [canonical(name) + b": " + canonical(document[name]) for name in sorted(document)]
        data = b"{\n" + b",\n".join(lines) + b"\n}\n"
        aside = self.folder / manifests.NAME
        write_file(aside, data)
        rename(aside, self.target / manifests.NAME)
        self.sweep()

    def sweep(self) -> None:
        """Removes the folder of the packing; the lock goes last, while it is held."""
        for entry in list(self.folder.iterdir()):
            if entry.name != _LOCK:
                entry.unlink()
        shutil.rmtree(self.folder)

    def abandon(self, names: list[str]) -> None:
        """Removes the packing and its finished shards: as if it had never begun."""
        for name in names:
            (self.target / name).unlink(missing_ok=True)
        self.sweep()
        if not any(self.target.iterdir()):
            self.target.rmdir()


@contextmanager
def locked_workplace(target: Path) -> Iterator[Workplace]:
    """The target's workplace, made if need be, held by this process alone.

    StoreError if another process packs there. The lock goes with the process, however it ends.
    """
    work = Workplace(target)
    _make_folder(work)
    descriptor = _lock(work)
    try:
        for leftover in work.folder.glob(f"*{_TEMPORARY}"):
            leftover.unlink()
        yield work
    finally:
        os.close(descriptor)


def _make_folder(work: Workplace) -> None:
    work.target.mkdir(parents=True, exist_ok=True)
    strangers = [entry.name for entry in work.target.iterdir()]
    if strangers and FOLDER not in strangers and manifests.NAME not in strangers:
        raise StoreError(
            f"{work.target} is not empty ({strangers[0]!r} lies there) and is no packing; packing "
            "would mix with it; choose an empty or new folder"
        )
    work.folder.mkdir(exist_ok=True)


def _lock(work: Workplace) -> int:
    """A descriptor that holds the lock; taken again if the holder swept the folder meanwhile."""
    path = work.folder / _LOCK
    while True:
        work.folder.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StoreError(
                f"another process is packing into {work.target}; wait for it, or stop it first"
            ) from error
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def enter_plan(work: Workplace, digest: str) -> None:
    """The workplace is that of this plan; StoreError if it was begun with another."""
    path = work.folder / _PLAN
    try:
        begun = json.loads(path.read_bytes())["plan"]
    except FileNotFoundError:
        write_file(path, canonical({"plan": digest}))
        return
    except (ValueError, KeyError, TypeError):
        begun = "unreadable"
    if begun != digest:
        raise StoreError(
            f"{work.target} holds an unfinished packing of another source, other settings or other "
            f"library versions ({begun[:12]}..., this one is {digest[:12]}...); its shards cannot "
            f"be gone on with; finish that one, or remove {work.target} and pack again"
        )
