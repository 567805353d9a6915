"""One run: data and environments made, every child verified, then the rounds of all interleaved.

Owns the children and their results. A child that fails at any point ends there, and its line says
why; the others go on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from peers.children import Child
from peers.data import OURS, Pictures, made_once
from peers.environments import Environments, Unusable
from peers.job import Job
from peers.results import Key, Result
from peers.rows import BATCH_SIZE, Row
from peers.verify import reference

SEED = 0
LARGE_KINDS = ("image-zst", "image-tar")


@dataclass(frozen=True)
class Settings:
    """count: pictures; size: pixels a side of a batch's; repeat: rounds; seconds: least length of a
    reader's turn in a round."""

    count: int
    size: int
    repeat: int
    seconds: float
    rows: tuple[Row, ...]
    workers: tuple[int, ...]
    cache: Path
    environments: Environments


@dataclass
class Bench:
    """The children of all rows, what they found, where they leave their logs, and the interpreter
    of each environment, or why there is none."""

    settings: Settings
    logs: Path
    scratch: Path
    pythons: dict[str, Path | Unusable] = field(default_factory=dict)
    children: dict[Key, Child] = field(default_factory=dict)
    results: dict[Key, Result] = field(default_factory=dict)

    def make_environments(self) -> None:
        """Those that the rows need, each tried once."""
        for name in dict.fromkeys(row.environment for row in self.settings.rows):
            print(f"environment {name}", flush=True)
            try:
                self.pythons[name] = self.settings.environments.python(name)
            except Unusable as error:
                self.pythons[name] = error

    def make_pictures(self, size: int) -> dict[str, str]:
        """Pictures of `size` pixels are there; the checksums that readers of them must find."""
        pictures = self.pictures(size)
        print(f"pictures of {size} pixels in {pictures.folder}", flush=True)
        pictures.make(tuple(OURS) if size == self.settings.size else LARGE_KINDS)
        return reference(pictures.shared)

    def python(self, row: Row) -> Path:
        found = self.pythons[row.environment]
        if isinstance(found, Unusable):
            raise found
        return found

    def stored_size(self, row: Row) -> int:
        return row.stored_size or self.settings.size

    def pictures(self, size: int) -> Pictures:
        return Pictures(self.settings.cache, self.settings.count, size, self.settings.size)

    def data(self, row: Row) -> Path:
        return self.pictures(self.stored_size(row)).folder / row.data

    def job(self, row: Row, workers: int, data: Path) -> Job:
        scratch = self.scratch / f"{row.name}-{workers}"
        scratch.mkdir(exist_ok=True)
        pictures = self.pictures(self.stored_size(row))
        options = dict(row.options)
        if "shards" in options:
            options["shards"] = str(pictures.folder / options["shards"])
        return Job(
            module=f"peers.{row.module}",
            workers=workers,
            data=str(data),
            shared=str(pictures.shared),
            scratch=str(scratch),
            count=self.settings.count,
            size=self.settings.size,
            batch_size=BATCH_SIZE,
            seed=SEED,
            pixels=row.pixels or "",
            packages=row.packages,
            options=options,
        )

    def write(self, row: Row) -> None:
        """The row's data are there, written by the peer's own writer."""
        python = self.python(row)

        def make(folder: Path) -> None:
            log = self.logs / f"{row.name}-write.log"
            child = Child(python, self.job(row, 1, folder), log, "write")
            try:
                child.answer()
            finally:
                child.end()

        made_once(self.data(row), make)

    def start(self, row: Row, workers: int, expected: str) -> None:
        """A child that has delivered its pictures, and then read an epoch that is not counted."""
        result = self.results[row.name, workers] = Result(row, workers, reference=expected)
        print(f"{row.name}/{workers}: ", end="", flush=True)
        try:
            if row.is_written:
                self.write(row)
            log = self.logs / f"{row.name}-{workers}.log"
            child = Child(self.python(row), self.job(row, workers, self.data(row)), log)
            self.children[row.name, workers] = child
            result.bytes_a_triple = size_of(self.data(row)) / self.settings.count
            result.versions = child.ask("versions")
            if row.pixels:
                result.verified = child.ask("verify")
            child.ask("warm")
            print(f"pixels {result.pixels}", flush=True)
        except Unusable as error:
            self.give_up((row.name, workers), error)

    def give_up(self, key: Key, error: Unusable) -> None:
        """The row ends here, and its line of the table says why."""
        self.results[key].error = str(error)
        print(f"failed: {error}", flush=True)
        child = self.children.pop(key, None)
        if child is not None:
            child.end()

    def round(self, number: int) -> None:
        """Every reader once; backwards every other time, so that none always follows the same."""
        keys = list(self.children)
        for key in reversed(keys) if number % 2 else keys:
            try:
                found = self.children[key].ask(f"round {self.settings.seconds}")
            except Unusable as error:
                self.give_up(key, error)
                continue
            self.results[key].rounds.append(found)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def bench(settings: Settings) -> Iterator[Bench]:
    """A bench whose children are gone at its end, however it ends."""
    logs = settings.cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=settings.cache) as scratch:
        made = Bench(settings, logs, Path(scratch))
        try:
            yield made
        finally:
            for child in made.children.values():
                child.end()


def measure(settings: Settings) -> dict[Key, Result]:
    """The results of all rows, by name and number of workers, in the order of the table."""
    with bench(settings) as made:
        made.make_environments()
        sizes = sorted({made.stored_size(row) for row in settings.rows})
        expected = {size: made.make_pictures(size) for size in sizes}
        for row in settings.rows:
            for workers in settings.workers:
                checksums = expected[made.stored_size(row)]
                made.start(row, workers, checksums.get(row.pixels or "", ""))
        for number in range(settings.repeat):
            print(f"round {number + 1} of {settings.repeat}", flush=True)
            made.round(number)
        return made.results
