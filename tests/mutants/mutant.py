"""What a mutant is: `NAME.toml` beside this file, as a tree is changed by it.

law = "what holds unbroken"
test = "tests/ROOM/test_FILE.py::test_that_turns_red"

[[change]]
file = "wdtrain/ROOM/FILE.py"
old = '''
whole lines, which stand there exactly once
'''
new = '''
those in their place
'''
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Change:
    """One place of a mutant: whole lines of a file, found there once, and what becomes of them."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One law, broken: the changes that break it, and the test that then turns red."""

    name: str
    law: str
    test: str
    changes: tuple[Change, ...]

    @classmethod
    def read(cls, path: Path) -> Mutant:
        told = tomllib.loads(path.read_text())
        changes = tuple(Change(**change) for change in told.pop("change"))
        return cls(path.stem, changes=changes, **told)

    def problems(self, root: Path) -> list[str]:
        """Why it breaks nothing in the tree at `root`; [] where it does."""
        path, _, name = self.test.partition("::")
        found = [] if self.changes else ["changes nothing"]
        if not (root / path).is_file():
            found.append(f"its test's file {path} does not exist")
        elif f"def {name.split('::')[-1].split('[')[0]}(" not in (root / path).read_text():
            found.append(f"its test {name} is not in {path}")
        for change in self.changes:
            if not (root / change.file).is_file():
                found.append(f"{change.file} does not exist")
                continue
            times = (root / change.file).read_text().count(change.old)
            if times != 1:
                found.append(f"its old text is {times} times in {change.file}, not once")
            if change.new == change.old:
                found.append(f"it changes nothing in {change.file}")
        return found

    def apply(self, root: Path) -> None:
        for change in self.changes:
            file = root / change.file
            file.write_text(file.read_text().replace(change.old, change.new, 1))


def read_mutants(names: Collection[str] = ()) -> list[Mutant]:
    """Those of the names, or all, by name."""
    mutants = [Mutant.read(path) for path in sorted(HERE.glob("*.toml"))]
    unknown = sorted(set(names) - {mutant.name for mutant in mutants})
    if unknown:
        raise SystemExit(f"there is no mutant {', '.join(unknown)} in {HERE}")
    return [mutant for mutant in mutants if not names or mutant.name in names]
