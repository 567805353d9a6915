"""What a process and its workers cost: processor time and memory, read from /proc (Linux)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Memory:
    """Bytes of a process tree, a page shared by n processes counted as 1/n in each: `anonymous`
    with shared memory, and `mapped`, pages of files."""

    anonymous: int
    mapped: int


def tree() -> list[psutil.Process]:
    """This process and all that descend from it."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds() -> float:
    """User and system time so far, ended and living workers included."""
    total = 0.0
    for process in tree():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # ended since: now in the times of its parent's children
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory() -> Memory:
    anonymous = mapped = 0
    for process in tree():
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since
        rows = (line.split() for line in text.splitlines()[1:])
        kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
        anonymous += (kib.get("Pss_Anon", 0) + kib.get("Pss_Shmem", 0)) * 1024
        mapped += kib.get("Pss_File", 0) * 1024
    return Memory(anonymous, mapped)
