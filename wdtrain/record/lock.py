"""The lock of a run folder: two trainings never write into the same one.

The kernel holds it (flock), so that it dies with its process, however that was killed. The file
says who holds it; the file itself stays, because removing it would let two hold it at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from wdtrain.record.runlog import RunError

LOCK_NAME = "lock"
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
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = self._clock() + self._wait_seconds
        while not _try_lock(descriptor):
            if self._clock() >= deadline:
                os.close(descriptor)
                raise RunError(self._refusal())
            self._sleep(_POLL_SECONDS)
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _refusal(self) -> str:
        return (
            f"run folder {self.path.parent} is in use by {lock_holder(self.path.parent)} (waited "
            f"{self._wait_seconds:g} s): two trainings in one folder would overwrite each other; "
            "stop that one, or give this run another run.folder"
        )


def lock_holder(folder: Path | str) -> str:
    """Who holds a run folder, as its lock says: "process 1 on HOST"."""
    try:
        holder = json.loads((Path(folder) / LOCK_NAME).read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which has not said its name"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
