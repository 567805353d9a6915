"""The playground as benchmarks of whole runs train on it: packed where needed, and read after."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Place:
    """Where a benchmark works: a packed playground, and a folder for its runs; absolute paths."""

    data: Path
    folder: Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the two options that say where to work."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, help="a packed playground; packed where not given")
    made.add_argument("--folder", type=Path, help="for the runs; a temporary one where not given")
    return made


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Place]:
    """What the options ask for; what was not asked to stay is gone afterwards."""
    with TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        data = (options.data or folder / "data").resolve()
        if not (data / "manifest.json").exists():
            source = "playground:count=4000,size=64,difficulty=0.3"
            pack = [sys.executable, "tools/pack-shards", source, str(data)]
            subprocess.run(pack, cwd=ROOT, check=True)
        earlier = [path.parent.name for path in folder.glob("*/status.json")]
        if earlier:
            raise SystemExit(f"{folder} holds runs ({', '.join(earlier)}): choose another --folder")
        yield Place(data, folder)


def training(place: Place, name: str, *given: str) -> list[str]:
    """train.py with its arguments: the demo's recipe, but for what is given as KEY=VALUE."""
    where = [f"data.url={place.data}", f"run.folder={place.folder / name}", "log.console=plain"]
    return ["wdtrain/train.py", "--config", "recipes/playground.yaml", *where, *given]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged of its steps, as far as it was written whole."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if "loss/mask" in record]


def state_of(folder: Path) -> str:
    """What `status.json` says; "" where there is none yet."""
    path = folder / "status.json"
    return str(json.loads(path.read_text())["state"]) if path.exists() else ""
