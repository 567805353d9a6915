"""Whether the files of a source are still those that were packed.

The truth is what is in the files; sizes, times and inodes only say which to read again. Packing
writes down both of every sample, by shard while it goes on and in `.packed-from` beside a finished
dataset. That file may be deleted, then all is read again: the manifest holds a digest of contents
alone, so the dataset itself holds no times.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from wdtrain.packing.plan import Plan

PACKED_FROM: Final = ".packed-from"
_SHOWN: Final = 3
_CHUNK: Final = 4096


@runtime_checkable
class FromFiles(Protocol):
    """A source whose samples lie in files, which a person may mend between two packings."""

    def key(self, index: int) -> str: ...

    def signal(self, index: int) -> int:
        """64 bits of the sizes, times and inodes of a sample's files: others when one is touched.
        Never fails; an absent file is a signal too."""

    def content(self, index: int) -> int:
        """64 bits of the bytes of a sample's files: of those that were loaded, where it is the
        sample that was loaded last. Never fails."""


def contents_digest(columns: Iterable[np.ndarray]) -> str:
    """SHA-256 (hex) of the contents of samples in shards, each uint64 [rows of the shard]."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column, "<u8").tobytes())
    return digest.hexdigest()


def all_contents(source: FromFiles, count: int) -> str:
    """`contents_digest` of a whole source in its own order. Reads every file."""
    values = np.fromiter((source.content(index) for index in range(count)), np.uint64, count)
    return contents_digest([values])


def changed(source: FromFiles, table: np.ndarray) -> list[int]:
    """The indices whose files hold something else than when they were packed.

    `table` is uint64 [3, n]: index, signal, content. Only what was touched is read again.
    """
    found = []
    for start in range(0, table.shape[1], _CHUNK):  # as Python's numbers they are large
        for index, signal, content in table[:, start : start + _CHUNK].T.tolist():
            if source.signal(index) != signal and source.content(index) != content:
                found.append(index)
    return found


def changed_since(plan: Plan, target: Path, packed: str) -> list[int] | None:
    """The indices that changed since the dataset in `target` was packed, whose contents had this
    digest; None where they did and which is not known any more."""
    source = plan.source
    assert isinstance(source, FromFiles)
    rows = [plan.rows(job) for job in plan.jobs()]
    noted = _read(target / PACKED_FROM, len(plan.source))
    if noted is not None and contents_digest(noted[1, part] for part in rows) == packed:
        indices = np.arange(noted.shape[1], dtype=np.uint64)
        return changed(source, np.stack([indices, *noted]))
    now = np.empty(len(plan.source), np.uint64)
    for index in range(len(now)):
        now[index] = source.content(index)
    return [] if contents_digest(now[part] for part in rows) == packed else None


def _read(path: Path, count: int) -> np.ndarray | None:
    """uint64 [2, count] signals and contents; None where they are not, or are another source's."""
    try:
        noted = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_ours = noted.shape == (2, count) and noted.dtype == np.uint64
    return noted if is_ours else None


def note_of(tables: Iterable[np.ndarray], count: int) -> bytes:
    """What `.packed-from` holds, of the tables of all shards: a `.npy` of uint64 [2, count]."""
    noted = np.zeros((2, count), np.uint64)
    for table in tables:
        noted[:, table[0].astype(np.int64)] = table[1:]
    stream = io.BytesIO()
    np.lib.format.write_array(stream, noted, (1, 0), allow_pickle=False)
    return stream.getvalue()


def named(source: Any, indices: list[int]) -> str:
    """Samples for a message: how many, and the first by their keys."""
    keys = ", ".join(source.key(index) for index in indices[:_SHOWN])
    more = ", ..." if len(indices) > _SHOWN else ""
    return f"{len(indices):,} of {len(source):,} samples ({keys}{more})"
