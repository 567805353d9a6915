"""Files that survive a kill: written beside the final name, synced, renamed.

Owns the few file operations that the run log and the checkpoints are built from, and the messages
for a disk that refuses.
The surprise: a rename is only on disk once the *folder* that holds the name was synced too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

FULL = (errno.ENOSPC, errno.EDQUOT)
_LEAST_FREE_BYTES = 1 << 20


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What cannot be written in here is an OSError that names a path, whoever writes: torch and
    safetensors have errors of their own for that, the system may name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        is_torch = re.search(r"PytorchStreamWriter|inline_container|iostream error", str(error))
        if not (is_torch or isinstance(error, SafetensorError)):
            raise
        number = _number(str(error), path)
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(message: str, path: Path) -> int:
    """The errno behind another library's error: what it says, or what the disk looks like."""
    code = re.search(r"(?:os error|code:) (\d+)", message)
    if code:
        return int(code[1])
    disk = os.statvfs(path if path.exists() else path.parent)
    return errno.ENOSPC if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES else errno.EIO


def described(error: BaseException) -> str:
    """An error for a person; of what the system refuses: the path, why, and what to do."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error) or type(error).__name__
    full = "free some space there" if error.errno in FULL else "look at that disk"
    return (
        f"{error.filename}: {os.strerror(error.errno)} (errno {error.errno}); {full}, and start "
        "the same command again: a run goes on from its newest whole checkpoint"
    )


def sync_file(path: Path) -> None:
    """The bytes of this file are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """The names in this folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Every file and every name below this folder, and the folder itself, is on disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)


def rename_synced(source: Path, target: Path) -> None:
    """`source`, a whole file or folder, is called `target`, on disk. Both lie in one folder."""
    os.rename(source, target)
    sync_folder(target.parent)


def write_whole(
    path: Path, data: bytes, *, temporary: Path | None = None, synced: bool = True
) -> None:
    """`path` holds all of `data`, or what it held before: never a part, whatever is killed.

    temporary: where it is written first, beside `path`, where several processes may write `path`;
    synced: also after a power cut, which costs milliseconds.
    """
    write_parts(path, [data], temporary=temporary, synced=synced)


def write_parts(
    path: Path, parts: Iterable[bytes], *, temporary: Path | None = None, synced: bool = True
) -> None:
    """As `write_whole`, for data that comes in parts and need not fit into memory."""
    temporary = temporary or path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            write_synced(temporary, parts, synced=synced)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if synced:
        sync_folder(path.parent)


def write_synced(path: Path, parts: Iterable[bytes], *, synced: bool = True) -> None:
    """A new file of these parts, whose bytes are on disk. Its name is only when it is renamed."""
    with path.open("wb") as file:
        file.writelines(parts)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def overwrite(path: Path, data: bytes) -> None:
    """`path` holds `data` without a byte more of the disk, which may be full; a kill may tear it.

    ValueError if `data` is longer than what the file has been given.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if len(data) > room(path):
            raise ValueError(f"{path} has no room for {len(data)} bytes")
        os.pwrite(descriptor, data.ljust(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room(path: Path) -> int:
    """Bytes that a file can hold without being given more of the disk."""
    facts = path.stat()
    return max(facts.st_size, facts.st_blocks * 512)
