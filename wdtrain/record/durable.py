"""Files that survive a kill: written aside, synced, renamed.

Owns the few file operations that the run log and the checkpoints are built from.
The surprise: a rename is only on disk once the *folder* that holds the name was synced too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


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


def rename(source: Path, target: Path) -> None:
    """`source` is called `target`, on disk. Both lie in the same folder."""
    os.rename(source, target)
    sync_folder(target.parent)


def write_whole(path: Path, data: bytes) -> None:
    """`path` holds all of `data`, or what it held before: never a part, whatever is killed."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """As `write_whole`, for data that comes in parts and need not fit into memory."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)
