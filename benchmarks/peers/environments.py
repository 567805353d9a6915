"""The virtual environments of the peers: one for each `requirements-NAME.txt` beside loaders.py.

Made once and kept; one is made anew when its requirements change. They are made by the Python that
runs loaders.py and never touch its own environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from peers.rows import PROJECT

STAMP = "made-from"


class Unusable(RuntimeError):
    """An environment or a peer that cannot be used; the message is the line that says why."""


@dataclass(frozen=True)
class Environments:
    """folder: where they are made. requirements: the folder of the `requirements-*.txt`."""

    folder: Path
    requirements: Path

    def python(self, name: str) -> Path:
        """The interpreter of an environment, made if need be.

        Unusable, with pip's first error line, where its packages cannot be installed.
        """
        if name == PROJECT:
            return Path(sys.executable)
        wanted = self.requirements / f"requirements-{name}.txt"
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
        folder = self.folder / name
        stamp, python = folder / STAMP, folder / "bin" / "python"
        if not stamp.exists() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            self._install(python, wanted)
            stamp.write_text(digest)
        return python

    def _install(self, python: Path, wanted: Path) -> None:
        command = [str(python), "-m", "pip", "install", "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            why = (errors or done.stderr.splitlines() or ["pip said nothing"])[0]
            raise Unusable(f"{wanted.name} cannot be installed: {why}")
