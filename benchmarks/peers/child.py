"""The child process of one row: writes its data, or verifies and times its reader on command.

`python -P -m peers.child write JOB` or `read JOB` in the peer's environment. A reader then obeys
lines on stdin (`versions`, `verify`, `warm`, `round SECONDS`) and answers each with a line of JSON.
What a peer's library prints goes to stderr: it has lost descriptor 1 before it is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.job import Batch, Job, Loader
from peers.shared import Shared
from peers.usage import cpu_seconds, memory
from peers.verify import verify

LEAD_IN_BATCHES = 8
"""Read before the clock starts, so that what lay ready from the pause before is not counted."""


class Reader:
    """A peer's loader with the endless run of batches that all rounds take from."""

    def __init__(self, job: Job, loader: Loader) -> None:
        self.job, self.loader = job, loader
        self.running: Iterator[Batch] | None = None

    def versions(self) -> dict[str, Any]:
        """Of the row's packages, those that its environment has."""
        installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
        return {name: installed[name] for name in self.job.packages if name in installed}

    def verify(self) -> dict[str, Any]:
        return verify(self.loader.epoch(), Shared(Path(self.job.shared)), self.job.pixels)

    def warm(self) -> dict[str, Any]:
        """One epoch that is not counted."""
        started = time.perf_counter()
        rows, _ = self._read(self.job.count, 0.0)
        return {"samples": rows, "seconds": time.perf_counter() - started}

    def round(self, seconds: float) -> dict[str, Any]:
        """At least one epoch's worth of samples, and at least `seconds` long."""
        self._read(LEAD_IN_BATCHES * self.job.batch_size, 0.0)
        cpu = cpu_seconds()
        rows, spent = self._read(self.job.count, seconds)
        used, held = cpu_seconds() - cpu, memory()
        return {
            "samples": rows,
            "seconds": spent,
            "cpu_seconds": used,
            "anonymous_bytes": held.anonymous,
            "mapped_bytes": held.mapped,
        }

    def _read(self, samples: int, seconds: float) -> tuple[int, float]:
        """(samples, seconds) of reading at least as many for at least as long."""
        if self.running is None:
            self.running = self.loader.batches()
        rows, spent, started = 0, 0.0, time.perf_counter()
        while rows < samples or spent < seconds:
            rows += len(next(self.running)[0])
            spent = time.perf_counter() - started
        return rows, spent


def obey(reader: Reader, answer: Callable[[dict[str, Any]], None]) -> None:
    """Does what stdin says until it ends."""
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "versions":
            answer(reader.versions())
        elif word == "verify":
            answer(reader.verify())
        elif word == "warm":
            answer(reader.warm())
        elif word == "round":
            answer(reader.round(float(rest[0])))
        else:
            raise ValueError(f"{word!r} is no command; versions, verify, warm and round are")


def main() -> None:
    verb, document = sys.argv[1:]
    job = Job(**json.loads(document))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")

    try:
        peer = importlib.import_module(job.module)
        if verb == "write":
            peer.write(job, Shared(Path(job.shared)))
            answer({"written": job.data})
        else:
            obey(Reader(job, peer.open_loader(job)), answer)
    except Exception as error:  # noqa: BLE001  reported as the row's result by the parent
        traceback.print_exc()
        words = str(error).strip().partition("\n")[0]
        answer({"error": f"{type(error).__name__}: {words}"})
    sys.stderr.flush()
    # Some libraries' threads outlive their readers and keep the interpreter from ending.
    os._exit(0)


if __name__ == "__main__":
    main()
