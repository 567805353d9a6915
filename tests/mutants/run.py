"""Breaks each law on purpose and sees its test turn red.

Each `NAME.patch` here begins with `# law:` and `# test:` lines, followed by a small diff. For each,
the tree is copied, the diff applied, and the named test run: it must fail. Before all, the tests
must pass unbroken.
Usage: python tests/mutants/run.py [NAME ...]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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


def header(patch: Path, name: str) -> str:
    for line in patch.read_text().splitlines():
        if line.startswith(f"# {name}:"):
            return line.split(":", 1)[1].strip()
    raise SystemExit(f"{patch.name} has no '# {name}:' line")


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


def verdict(patch: Path) -> str:
    """'' if the mutant is caught; else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        applied = subprocess.run(
            ["git", "apply", str(patch)], cwd=tree, capture_output=True, text=True, check=False
        )
        if applied.returncode:
            return f"does not apply: {applied.stderr.strip()}"
        result = run_tests(tree, [header(patch, "test")])
        if result.returncode == 1:
            return ""
        return f"pytest ended with {result.returncode}, not red\n{result.stdout[-800:]}"


def main(names: list[str]) -> int:
    patches = sorted(p for p in HERE.glob("*.patch") if not names or p.stem in names)
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        clean = run_tests(Path(folder), sorted({header(patch, "test") for patch in patches}))
    if clean.returncode:
        print(clean.stdout[-3000:])
        print("the tests are red without any mutant")
        return 1
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for patch, problem in zip(patches, pool.map(verdict, patches), strict=True):
            survivors += bool(problem)
            print(f"{'SURVIVED' if problem else 'caught  '}  {patch.stem}: {header(patch, 'law')}")
            if problem:
                print(f"          {problem}")
    print(f"{len(patches) - survivors} of {len(patches)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
