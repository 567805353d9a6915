"""A row's child process, seen from the parent: started, asked, paused between its turns, ended.

A child leads a session of its own. Between its turns the whole session is stopped (SIGSTOP), so
that nothing a reader does in the background takes a core from the one that is measured.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from peers.environments import Unusable
from peers.job import Job

BENCHMARKS = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 900.0
"""For one answer: a slow reader needs about a minute for 20,000 triples on a busy machine."""

ENDING_SECONDS = 5.0
POLL_SECONDS = 0.02


class Child:
    """The reader of one job in `python`'s environment; `log` gets what its libraries print.

    `ask` raises Unusable with the child's last words when it fails, dies or does not answer.
    """

    def __init__(self, python: Path, job: Job, log: Path, verb: str = "read") -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [str(python), "-P", "-m", "peers.child", verb, job.as_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=job.scratch,
                env={**os.environ, "PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{BENCHMARKS.parent}"},
                start_new_session=True,
            )

    def ask(self, question: str) -> dict[str, Any]:
        """The answer to one command; the child is stopped again when it has given it."""
        self._signal(signal.SIGCONT)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: its answer or its log says why
            self.process.stdin.write(f"{question}\n".encode())
            self.process.stdin.flush()
        found = self.answer()
        self._signal(signal.SIGSTOP)
        return found

    def answer(self) -> dict[str, Any]:
        """The next line of JSON that the child prints."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_SECONDS)
        if not ready:
            raise Unusable(f"no answer in {PATIENCE_SECONDS:g} s")
        line = self.process.stdout.readline()
        if not line:
            words = self.log.read_text(errors="replace").split("\n")
            raise Unusable(next((w for w in reversed(words) if w.strip()), "it died silently"))
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise Unusable(found["error"])
        return found

    def end(self) -> None:
        """The child and all its workers are gone, and what they had in shared memory too.

        They are asked to end before they are killed: the process that takes back what workers have
        left behind in shared memory is one of them.
        """
        self._signal(signal.SIGCONT)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # ended below, with its workers
            self.process.wait(ENDING_SECONDS)
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + ENDING_SECONDS
        while self._signal(0) and time.monotonic() < deadline:
            self.process.poll()  # else it stays, ended, in the session that is looked for
            time.sleep(POLL_SECONDS)
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def _signal(self, number: int) -> bool:
        """Whether there was still a process of the session to signal; 0 only looks."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True
