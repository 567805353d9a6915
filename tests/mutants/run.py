"""Breaks each law on purpose and sees its test turn red.

Each `NAME.toml` here names a `law`, the `test` that keeps it, and one `[[change]]` or more: whole
lines of a `file`, `old`, which stand there exactly once, and `new` ones in their place. So a mutant
survives a move of its lines, and a move of the file changes one word of it. For each, the tree is
copied and changed, and the named test run: it must fail. Before all, the tests must pass unbroken.
Usage: python tests/mutants/run.py [--check] [NAME ...]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TREE = (
    "wdtrain",
    "tests",
    "tools",
    "recipes",
    "pyproject.toml",
    "accelerate_config.yaml",
    "docs",
    "README.md",
)


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


def check(mutants: list[Mutant]) -> int:
    """Says which do not hold in the tree as it stands, without running a test."""
    bad = 0
    for mutant in mutants:
        problems = mutant.problems(ROOT)
        bad += bool(problems)
        for problem in problems:
            print(f"{mutant.name}: {problem}")
    print(f"{len(mutants) - bad} of {len(mutants)} mutants hold")
    return 1 if bad else 0


def copy_tree(target: Path) -> None:
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target / name)


def run_tests(tree: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--durations=0",
        *tests,
    ]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def verdict(mutant: Mutant) -> str:
    """'' if the mutant is caught; else what went wrong."""
    problems = mutant.problems(ROOT)
    if problems:
        return "; ".join(problems)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        mutant.apply(tree)
        result = run_tests(tree, [mutant.test])
        if result.returncode == 1:
            return ""
        return f"pytest ended with {result.returncode}, not red\n{result.stdout[-800:]}"


def run(mutants: list[Mutant]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        clean = run_tests(Path(folder), sorted({mutant.test for mutant in mutants}))
    if clean.returncode:
        print(clean.stdout[-3000:])
        print("the tests are red without any mutant")
        return 1
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, problem in zip(mutants, pool.map(verdict, mutants), strict=True):
            survivors += bool(problem)
            print(f"{'SURVIVED' if problem else 'caught  '}  {mutant.name}: {mutant.law}")
            if problem:
                print(f"          {problem}")
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants caught")
    return 1 if survivors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--check", action="store_true", help="whether each can be made; no tests")
    told = parser.parse_args()
    mutants = read_mutants(told.names)
    return check(mutants) if told.check else run(mutants)


if __name__ == "__main__":
    raise SystemExit(main())
