"""What a packing leaves on disk while it is not finished, and how files get their final names.

`TARGET/.packing/` holds the plan's digest, a lock, temporary files, and each finished shard with
its summary: a rerun after a kill finds there what need not be packed again. It is gone at the end.
The surprise: nothing in it is ever changed, only added, and the same name always means the same
bytes, but for shards that one packer alone, which holds the lock, packs again because files of the
source were mended. So any number of packers on any machines may work in it, and finish it, at the
same time; the lock only spares a person from starting two by mistake.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.disk import locks
from wdtrain.disk.durable import rename_synced, sync_folder, write_synced, write_whole
from wdtrain.disk.failures import StoreError
from wdtrain.disk.machine import is_running, this_machine
from wdtrain.disk.sourcefiles import is_clutter
from wdtrain.packing import contents
from wdtrain.remote.access import sha256_of
from wdtrain.store import manifest as manifests
from wdtrain.store.manifest import canonical

FOLDER: Final = ".packing"
_LOCK: Final = "lock"
_PLAN: Final = "plan"
_INSIDE: Final = "plan.json"
_REFUSAL: Final = "refused.json"
_TABLES: Final = ("keys", "files")
_TEMPORARY: Final = ".part"
_TEMPORARY_OF: Final = re.compile(r".*\.(?P<machine>[0-9a-f]+)-(?P<pid>\d+)-[0-9a-f]+\.part")


def _temporary_beside(path: Path) -> Path:
    """A name that no other process, here or on another machine, writes to."""
    owner = f"{this_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{owner}{_TEMPORARY}")


def _write(path: Path, data: bytes, *, synced: bool = True) -> None:
    write_whole(path, data, temporary=_temporary_beside(path), synced=synced)


@dataclass(frozen=True)
class Finished:
    """A finished shard on its way to its place: its name here, its final name, its bytes."""

    edition: str
    name: str
    num_bytes: int


class Staging:
    """The folder of an unfinished packing. Only paths in it, so it travels to other processes.

    An `edition` is a shard as packed: with all its samples, or again without its duplicates.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target / FOLDER

    def temporary(self, edition: str) -> Path:
        """Where a shard is written until it is whole; no two processes share it."""
        return _temporary_beside(self.folder / edition)

    def summary(self, edition: str) -> dict[str, Any] | None:
        """What was written down of a finished shard; None when it is not finished."""
        try:
            summary: dict[str, Any] = json.loads((self.folder / f"{edition}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return summary

    def whole_summary(self, edition: str) -> dict[str, Any] | None:
        """As `summary`, but None too when the shard or its keys are no longer what was packed."""
        summary = self.summary(edition)
        if summary is None or not self._has_tables(edition, summary):
            return None
        if not summary["samples"]:
            return summary
        packed = (summary["bytes"], summary["sha256"])
        for path in (self.folder / edition, self.target / summary["name"]):
            try:
                if sha256_of(str(path)) == packed:
                    return summary
            except FileNotFoundError:
                continue
        return None

    def _has_tables(self, edition: str, summary: dict[str, Any]) -> bool:
        try:
            return all(
                _checksum((self.folder / f"{edition}.{name}").read_bytes()) == summary[name]
                for name in _TABLES
            )
        except FileNotFoundError:
            return False

    def finish(
        self,
        edition: str,
        summary: dict[str, Any],
        tables: dict[str, np.ndarray],
        shard: Path | None,
    ) -> None:
        """Marks a shard as finished. `tables`: `keys`, uint64 [2, samples], key hashes and source
        indices; `files`, uint64 [3, rows], indices, signals and contents (see `contents.py`), no
        rows where the source is not of files. `shard`: its whole file, on the disk; None for a
        shard without samples.

        The marks are not waited for: each sync costs milliseconds, and what a power cut leaves of
        them is seen by `whole_summary`.
        """
        data = {name: table.astype("<u8").tobytes() for name, table in tables.items()}
        summary = {**summary, **{name: _checksum(data[name]) for name in _TABLES}}
        if shard is not None:
            shard.replace(self.folder / edition)
        for name in _TABLES:
            _write(self.folder / f"{edition}.{name}", data[name], synced=False)
        _write(self.folder / f"{edition}.json", canonical(summary), synced=False)

    def forget(self, edition: str) -> None:
        """A shard counts as not finished any more. Only for a packer that is alone."""
        (self.folder / f"{edition}.json").unlink(missing_ok=True)

    def keys(self, edition: str) -> np.ndarray:
        """What `finish` was given. Read, not mapped: another part may remove the file."""
        return np.fromfile(self.folder / f"{edition}.keys", "<u8").reshape(2, -1)

    def files(self, edition: str) -> np.ndarray:
        """What `finish` was given."""
        return np.fromfile(self.folder / f"{edition}.files", "<u8").reshape(3, -1)

    def missing(self, editions: list[str]) -> list[str]:
        """Those editions that are not finished, or, if all are, whose bytes went missing since.

        On a network file system a folder's listing may be old until this machine itself adds to
        the folder: of two parts that each add a file and then look, one sees the other.
        """
        mark = self.folder / f"looked-{this_machine()}-{os.getpid()}.json"
        _write(mark, b"{}", synced=False)
        there = set(os.listdir(self.folder))
        unmarked = [name for name in editions if f"{name}.json" not in there]
        return unmarked or [name for name in editions if not self._is_there(name)]

    def _is_there(self, edition: str) -> bool:
        summary = self.summary(edition)
        if summary is None or not self._has_tables(edition, summary):
            return False
        sizes = (_size(self.folder / edition), _size(self.target / summary["name"]))
        return not summary["samples"] or summary["bytes"] in sizes

    def note(self, packed_from: bytes) -> None:
        """What the shards were packed from is stored beside them."""
        _write(self.target / contents.PACKED_FROM, packed_from)

    def commit(self, document: dict[str, Any], shards: list[Finished]) -> None:
        """The shards and then the manifest stand under their names, and nothing else is left."""
        for shard in shards:
            self._publish(shard)
        sync_folder(self.target)
        lines = [canonical(name) + b": " + canonical(document[name]) for name in sorted(document)]
        data = b"{\n" + b",\n".join(lines) + b"\n}\n"
        temporary = self.temporary(manifests.MANIFEST_NAME)
        write_synced(temporary, [data])
        rename_synced(temporary, self.target / manifests.MANIFEST_NAME)
        self.sweep()

    def _publish(self, shard: Finished) -> None:
        """The shard stands under its final name, moved now, or by another part before."""
        final = self.target / shard.name
        try:
            (self.folder / shard.edition).replace(final)
        except FileNotFoundError:
            if _size(final) != shard.num_bytes:
                raise

    def sweep(self) -> None:
        """Removes the folder of the packing; the lock goes last, while it is held. Another part may
        sweep at the same time."""
        try:
            entries = sorted(self.folder.iterdir(), key=lambda entry: entry.name == _LOCK)
        except FileNotFoundError:
            return
        for entry in entries:
            _remove(entry)
        _remove_empty(self.folder)

    def abandon(self, names: list[str]) -> None:
        """Removes the packing and its shards: as if it had never begun."""
        for name in (*names, contents.PACKED_FROM):
            (self.target / name).unlink(missing_ok=True)
        self.sweep()
        _remove_empty(self.target)

    def refuse(self, count: int, first: list[tuple[str, str]]) -> None:
        """Writes down that too many samples are rejected, for the other parts to see."""
        _write(self.folder / _REFUSAL, canonical({"count": count, "first": first}))

    def refusal(self) -> tuple[int, list[tuple[str, str]]] | None:
        """(rejects counted, the first of them) if a part gave up because of them."""
        try:
            found = json.loads((self.folder / _REFUSAL).read_bytes())
        except FileNotFoundError:
            return None
        return found["count"], [(key, reason) for key, reason in found["first"]]

    def remove_refusal(self) -> None:
        """More rejects are allowed now: the parts may go on."""
        (self.folder / _REFUSAL).unlink(missing_ok=True)

    def remove_stale(self) -> None:
        """Removes temporary files of processes of this machine that run no more. Those of other
        machines stay until the end: nobody here can tell whether they are written to."""
        for leftover in self.folder.glob(f"*{_TEMPORARY}"):
            owner = _TEMPORARY_OF.fullmatch(leftover.name)
            if owner and owner["machine"] == this_machine() and not is_running(int(owner["pid"])):
                _remove(leftover)


def _checksum(data: bytes) -> str:
    return f"{xxhash.xxh3_64_intdigest(data):016x}"


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _remove(path: Path) -> None:
    """Removes a file or a folder of files, which another part may be removing too."""
    try:
        inside = list(path.iterdir())
    except (NotADirectoryError, FileNotFoundError):
        path.unlink(missing_ok=True)
        return
    for entry in inside:
        entry.unlink(missing_ok=True)
    _remove_empty(path)


def _remove_empty(folder: Path) -> None:
    """Removes a folder if nothing is in it (any more)."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextmanager
def locked_staging(target: Path, *, shared: bool = False) -> Iterator[Staging]:
    """The target's work folder, made if need be, held by this process alone, or by parts together.

    StoreError if another process packs there that does not share it. The lock goes with the
    process, however it ends. A file system without locks is used without.
    """
    work = Staging(target)
    _make_folder(work)
    descriptor = _lock(work, shared=shared)
    try:
        work.remove_stale()
        yield work
    finally:
        os.close(descriptor)
        if (
            target / manifests.MANIFEST_NAME
        ).exists():  # NFS keeps the name of an open file until now
            _remove_empty(work.folder)


def _make_folder(work: Staging) -> None:
    work.target.mkdir(parents=True, exist_ok=True)
    names = [entry.name for entry in work.target.iterdir()]
    strangers = [name for name in names if not is_clutter(name)]
    if strangers and FOLDER not in strangers and manifests.MANIFEST_NAME not in strangers:
        raise StoreError(
            f"{work.target} is not empty (it holds {strangers[0]!r}) and is no packing; packing "
            "would mix with it; choose an empty or new folder"
        )
    work.folder.mkdir(exist_ok=True)


def _lock(work: Staging, *, shared: bool) -> int:
    """A descriptor that holds the lock; taken again if the holder swept the folder meanwhile."""
    path = work.folder / _LOCK
    while True:
        work.folder.mkdir(exist_ok=True)
        try:
            descriptor = locks.take(path, shared=shared, is_needed=False)
        except BlockingIOError as error:
            raise StoreError(
                f"another process is packing into {work.target}; wait for it, or stop it first "
                "(several pack together only if each is given its --part)"
            ) from error
        if locks.is_under(path, descriptor):
            return descriptor
        os.close(descriptor)


def enter_plan(work: Staging, digest: str) -> None:
    """The work folder is that of this plan; StoreError if it was begun with another."""
    path = work.folder / _PLAN
    if not path.exists():
        _write_once(path, canonical({"plan": digest}))
    try:
        begun = json.loads((path / _INSIDE).read_bytes())["plan"]
    except (ValueError, KeyError, TypeError):
        begun = "unreadable"
    if begun != digest:
        raise StoreError(
            f"{work.target} holds an unfinished packing of another source, other settings or other "
            f"library versions ({begun[:12]}..., this one is {digest[:12]}...); its shards cannot "
            f"be gone on with; finish that one, or remove {work.target} and pack again"
        )


def _write_once(path: Path, data: bytes) -> None:
    """`path` is a folder that holds `data`, or what another process wrote meanwhile: the first
    wins. A folder never takes the place of one that is not empty; a file would of a file.
    """
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir()
        write_synced(temporary / _INSIDE, [data])
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    finally:
        _remove(temporary)
