"""The run folder: its log lines, its status, its resolved recipe.

`metrics.jsonl` holds one JSON object a line ("step", "loss/TASK", ...), `status.json` how the run
stands, `config.yaml` what it is. Only rank 0 writes; the others open a log with `active=False`.
The surprise: lines are flushed, not synced. They are synced before a checkpoint of their step gets
its name, and cut back to the checkpoint on resume, so that log and weights never disagree.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal, Self, get_args

from wdtrain.disk.durable import (
    FULL,
    overwrite,
    room,
    sync_folder,
    write_parts,
    write_whole,
    writing,
)
from wdtrain.disk.failures import RunError

LOG_NAME = "metrics.jsonl"
STATUS_NAME = "status.json"
CONFIG_NAME = "config.yaml"

State = Literal["running", "interrupted", "finished", "failed"]


class RunLog:
    """The log lines of one run, appended to `folder/metrics.jsonl`.

    Opening it creates the folder, and cuts off a last line that a kill left torn.
    `active=False` (every rank but 0): nothing is read or written. damaged: sentences about lines
    that `cut_back` found damaged.
    """

    def __init__(self, folder: Path | str, *, active: bool = True) -> None:
        self.path = Path(folder) / LOG_NAME
        self.damaged: list[str] = []
        self._file: FileIO | None = None
        if active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_tail(self.path)
            self._file = self.path.open("ab", buffering=0)

    def append(self, record: Mapping[str, Any]) -> None:
        """One more line; it holds a whole number `step`. Numbers that are not finite become null.

        Afterwards a killed process loses nothing of it, a killed machine may. An OSError that names
        the file leaves no part of the line.
        """
        if self._file is None:
            return
        if not isinstance(record.get("step"), int):
            raise RunError(f"log line {dict(record)!r} has no whole number under 'step'")
        line = json.dumps(_finite(dict(record)), allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            with writing(self.path):
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def sync(self) -> None:
        """All lines appended so far are on disk. Call before a checkpoint is given its name."""
        if self._file is not None:
            with writing(self.path):
                os.fsync(self._file.fileno())
            sync_folder(self.path.parent)

    def cut_back(self, step: int) -> int:
        """Only readable lines up to and with `step` are left, without the warnings of `step`
        itself: a start from there logged them, and the next logs its own. Returns how many went.

        `damaged` names those that cannot be read. Killed in the middle, the log is as before.
        """
        if self._file is None:
            return 0
        self._file.close()
        self.damaged = [damage for _, damage in _lines(self.path) if damage]
        with self.path.open("rb") as file:
            num_cut = sum(not _is_kept(line, step) for line in file)
            if num_cut:
                file.seek(0)
                write_parts(self.path, (line for line in file if _is_kept(line, step)))
        self._file = self.path.open("ab", buffering=0)
        return num_cut

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def read_log(folder: Path | str) -> Iterator[dict[str, Any]]:
    """The readable lines of a run's log, in order; none where there is no log.

    A damaged line is left out, with a warning that names its number; a last one without its end is
    none: the run may be writing it.
    """
    for record, damage in _lines(Path(folder) / LOG_NAME):
        if record is not None:
            yield record
        elif damage:
            warnings.warn(damage, stacklevel=2)


def _lines(path: Path) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """Of each line of a log: its record, or None; what is wrong with it, or ""."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record, damage = _parse(line), ""
            if record is None and line.endswith(b"\n"):
                damage = (
                    f"{path}, line {number} is damaged ({bytes(line[:40])!r} ...): its numbers are "
                    "missing in curves and reports; the lines around it are whole"
                )
            yield record, damage


def write_status(folder: Path | str, state: State, why: str = "", **facts: Any) -> None:
    """`status.json` says {"state", "why", ...facts}: what scripts read instead of exit codes."""
    if state not in get_args(State):
        raise RunError(f"state is {state!r}; it must be one of {', '.join(get_args(State))}")
    path = Path(folder) / STATUS_NAME
    body = {"state": state, "why": why, **_finite(facts)}
    try:
        write_whole(path, _status_bytes(body))
    except OSError as error:
        if error.errno not in FULL or not path.exists():
            raise
        # A full disk is reported, too: in the bytes that the last status took.
        too_long = max(0, len(_status_bytes(body)) - room(path))
        body["why"] = why[: max(0, len(why) - too_long)]
        overwrite(path, _status_bytes(body))


def _status_bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=1).encode() + b"\n"


def read_status(folder: Path | str) -> dict[str, Any] | None:
    """What `status.json` says; None where there is none. It is only ever written whole, but on a
    full disk. `heartbeat.judge_status` says what to make of it."""
    path = Path(folder) / STATUS_NAME
    if not path.exists():
        return None
    try:
        status = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is not readable JSON ({error}); delete it to go on") from error
    if not isinstance(status, dict):
        raise RunError(f"{path} holds a {type(status).__name__}, not an object; delete it")
    return status


def save_config(folder: Path | str, text: str) -> Path:
    """`config.yaml` holds the resolved recipe `text`."""
    path = Path(folder) / CONFIG_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line, or None of a damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole else None


def _is_kept(line: bytes, step: int) -> bool:
    record = _parse(line)
    if record is None or ("warning" in record and record["step"] == step):
        return False
    return bool(record["step"] <= step)


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _cut_torn_tail(path: Path) -> None:
    """The file ends with a line end: what a killed write left after it is gone."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and b"\n" not in tail:
            start = max(0, end - 65536)
            file.seek(start)
            tail = file.read(end - start)
            end = start
        file.truncate(end + tail.rfind(b"\n") + 1)
