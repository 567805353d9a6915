"""The state of a run as `status.json` has it, and whether one that wrote "running" still lives.

The status names its process and host, and while the run goes it is written again every
`HEARTBEAT_SECONDS` by a thread, in long validations too. `judge_status` reads it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Literal

import psutil

from wdtrain.disk.failures import RunError
from wdtrain.record.runlog import State, read_status, write_status

HEARTBEAT_SECONDS = 10.0
MISSED_BEATS = 3
"""A run on another machine that has missed so many counts as dead."""

RunState = State | Literal["dead", "unknown host"]


def process_facts(seconds: float = HEARTBEAT_SECONDS) -> dict[str, Any]:
    """Who writes a status: process id, host, now (seconds since 1970), seconds between beats."""
    host = socket.gethostname()
    return {
        "pid": os.getpid(),
        "host": host,
        "heartbeat": round(time.time(), 3),
        "heartbeat_seconds": seconds,
    }


class Heartbeat:
    """Writes the status of a run, and again every `seconds` as long as it is running."""

    def __init__(self, folder: Path | str, *, seconds: float = HEARTBEAT_SECONDS) -> None:
        self._folder, self._seconds = Path(folder), seconds
        self._facts: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, state: State, why: str = "", **facts: Any) -> None:
        """The status is this, with these facts beside it, from now on; "running" begins to beat,
        every other one ends it."""
        with self._lock:
            if state != "running":
                self._ended.set()
            self._facts = facts
            write_status(self._folder, state, why, **facts, **process_facts(self._seconds))
        if state == "running" and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No beat comes any more; the status stays."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            with self._lock:
                if self._ended.is_set() or not self._beat():
                    return

    def _beat(self) -> bool:
        """One more beat, unless another has spoken: ranks that gave this one up, say. A disk that
        refuses now may take the next one."""
        try:
            status = read_status(self._folder) or {}
            mine = process_facts(self._seconds)
            wanted = ("running", mine["pid"], mine["host"])
            if (status.get("state"), status.get("pid"), status.get("host")) != wanted:
                return False
            write_status(self._folder, "running", str(status.get("why", "")), **self._facts, **mine)
        except (OSError, RunError):
            pass
        return True


def judge_status(folder: Path | str) -> RunState | None:
    """How the run in this folder stands: "interrupted", "finished" or "failed" as it wrote itself,
    "running", or "dead": it wrote "running", and its process is gone. None without a status.

    On its own host the process is looked for; a beat proves that a process of that id is still the
    same. Elsewhere the beat's age decides: dead after three missed ones. "unknown host": the status
    names no host, or its clock is ahead of this one, so that an age says nothing.
    """
    status = read_status(folder)
    if status is None or status.get("state") != "running":
        return None if status is None else status["state"]
    try:
        pid, host = int(status["pid"]), str(status["host"])
        beat, seconds = float(status["heartbeat"]), float(status["heartbeat_seconds"])
    except (KeyError, TypeError, ValueError):
        return "unknown host"
    if host == socket.gethostname():
        return "running" if _lives(pid, beat) else "dead"
    age = time.time() - beat
    if age < -seconds:
        return "unknown host"
    return "running" if age <= MISSED_BEATS * seconds else "dead"


def _lives(pid: int, beat: float) -> bool:
    """Whether the process that beat then is still there; one begun later only has its id."""
    try:
        process = psutil.Process(pid)
        is_same = float(process.create_time()) <= beat + 1.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
