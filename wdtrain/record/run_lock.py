"""The lock of a run folder: two trainings never write into the same one.

The kernel holds it (flock), so that it dies with its process, however that was killed. The file
says who holds it; the file itself stays, because removing it would let two hold it at once. It also
marks the folder as a run's: where nothing does, files under the names that a run writes are
somebody's, and the run is refused before it writes over them.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from wdtrain.disk import locks
from wdtrain.disk.failures import RunError

LOCK_NAME = "lock"
WRITTEN = ("config.yaml", "metrics.jsonl", "status.json", "report.md", "report", "checkpoints")
"""What a run writes into its folder, except the lock."""
_POLL_SECONDS = 0.1


class RunLock:
    """Held by one process per run folder; a context manager.

    folder: created where missing. wait_seconds: how long a second start waits for the first (whose
    workers may still be dying) before it raises RunError naming pid and host of the holder.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        wait_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = Path(folder) / LOCK_NAME
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """This process holds the run folder, or RunError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        refuse_strangers(self.path.parent)
        descriptor = self._wait()
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        self._descriptor = descriptor

    def _wait(self) -> int:
        deadline = self._clock() + self._wait_seconds
        while True:
            try:
                return locks.take(self.path)
            except BlockingIOError as error:
                if self._clock() >= deadline:
                    raise RunError(self._refusal()) from error
            self._sleep(_POLL_SECONDS)

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"{}", 0)  # nobody's, and still the mark of a run
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def _refusal(self) -> str:
        return (
            f"run folder {self.path.parent} is in use by {lock_holder(self.path.parent)} (waited "
            f"{self._wait_seconds:g} s): two trainings in one folder would overwrite each other; "
            "stop that one, or give this run another run.folder"
        )


def refuse_strangers(folder: Path) -> None:
    """RunError where a run would write over files that no run has written."""
    if any(map(_is_object, (folder / LOCK_NAME, folder / "status.json"))):
        return
    if any((folder / "checkpoints").glob("*step-*")):
        return
    lock = folder / LOCK_NAME
    found = [name for name in WRITTEN if os.path.lexists(folder / name)]
    found += [LOCK_NAME] * (
        os.path.lexists(lock) and not (lock.is_file() and not lock.stat().st_size)
    )
    if found:
        raise RunError(
            f"run folder {folder} holds {', '.join(found)} and nothing by which a run is known, so "
            "they are somebody's and would be written over; set run.folder to another folder, or "
            "move them away"
        )


def _is_object(path: Path) -> bool:
    """Whether a file holds a JSON object, as ours do."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def lock_holder(folder: Path | str) -> str:
    """Who holds a run folder, as its lock says: "process 1 on HOST"."""
    try:
        holder = json.loads((Path(folder) / LOCK_NAME).read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not written its name"
