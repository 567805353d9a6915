"""Breaks each law on purpose and sees its test turn red.

Each `NAME.toml` here names a `law`, the `test` that keeps it, and one `[[change]]` or more: whole
lines of a `file`, `old`, which stand there exactly once, and `new` ones in their place. So a mutant
survives a move of its lines, and a move of the file changes one word of it. For each, the tree is
copied and changed, compiled anew where C was changed, and the named test run: it must fail. Before
all, the tests must pass unbroken.

The packages of others are imported once, here; each mutant is tested in a fork of this process,
which imports only the tree's own modules. A mutant whose test hangs, or crashes its process, is
caught, and the line says so.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import ctypes
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutant import HERE, ROOT, Mutant, read_mutants

TREE = (
    "wdtrain",
    "tests",
    "tools",
    "recipes",
    "pyproject.toml",
    "accelerate_config.yaml",
    "docs",
    "README.md",
    "LICENSE",
)
OWN = ("wdtrain", "tests")
THREADED = ("ray", "datasets")
"""Importing these starts threads, which no fork takes along."""

END_TO_END = "tests/end_to_end/"
CLEAN_SECONDS = 1800
"""How long the unbroken tests of one file may take."""

FOREIGN, BROKEN = 98, 70
"""What a test's process ends with when it ran code of another tree, or when it could not be run."""

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux


@dataclass(frozen=True)
class Job:
    """Tests to run in a copy of the tree, with a mutant in it or without."""

    tests: tuple[str, ...]
    seconds: float
    mutant: Mutant | None = None


@dataclass
class Ended:
    """How a job ended: pytest's exit status, the negative of a signal, or None for a time limit."""

    code: int | None = None
    seconds: float = 0.0
    words: str = ""
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_red(self) -> bool:
        return self.code in (None, 1) or self.code in [-number for number in CRASHES]

    @property
    def manner(self) -> str:
        if self.code is None:
            return f"timed out after {self.seconds:.0f} s"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        words = {FOREIGN: "ran code of another tree", BROKEN: "could not be run"}
        return words.get(self.code, f"pytest gave {self.code}")


class Reports:
    """A plugin of pytest: outcome and seconds of each test, and of what it was set up with."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = self.tests.setdefault(report.nodeid, {"outcome": "passed"})
        test[report.when] = report.duration
        if report.outcome != "passed":
            test["outcome"] = report.outcome


def import_packages_of_others() -> None:
    """What the tree imports anywhere and does not hold: a fork then has it already."""
    names: set[str] = set()
    for path in (path for name in OWN for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    for name in sorted(names):
        if name.split(".")[0] not in (*OWN, *THREADED):
            with contextlib.suppress(ImportError):  # a test that needs it says so
                importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    gc.collect()
    gc.freeze()  # no collection of a fork looks at them again, which would copy their pages
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise SystemExit(f"an import started {threads - 1} threads, so nothing can be forked")


def copy_tree(source: Path, target: Path) -> None:
    for name in TREE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def compile_c(tree: Path) -> None:
    """Builds the compiled loops where the tree's own sources lie, as an installation does."""
    for library in (tree / "wdtrain").rglob("*.so"):
        library.unlink()
    build = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()"]
    subprocess.run([*build, "-q", "build_ext", "--inplace"], cwd=tree, check=True)
    shutil.rmtree(tree / "build", ignore_errors=True)
    if not list((tree / "wdtrain").rglob("*.so")):
        raise SystemExit("the compiled loops could not be built: is there a C compiler?")


def make_unbroken(tree: Path) -> None:
    """A copy of the tree, compiled: C, and Python by content, so that a changed line counts
    whatever the time and the size of its file say."""
    tree.mkdir()
    copy_tree(ROOT, tree)
    for cache in [*tree.rglob("__pycache__")]:
        shutil.rmtree(cache)
    compile_c(tree)
    by_content = py_compile.PycInvalidationMode.CHECKED_HASH
    for name in OWN:
        compileall.compile_dir(tree / name, quiet=1, invalidation_mode=by_content)


def run_pytest(job: Job, folder: Path) -> int:
    """In a process of its own, which has the tree at folder/tree first on every path."""
    import hypothesis.configuration
    import pytest

    tree = folder / "tree"
    os.chdir(tree)
    sys.argv[:] = ["pytest"]
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path) not in (HERE, ROOT))]
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), *others])
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None
    hypothesis.configuration.set_hypothesis_home_dir(folder / "hypothesis")
    # What a process that a test spawns takes for the main module, as under `python -m pytest`.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("pytest.__main__")
    reports = Reports()
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'base'}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already
    stop = ["-x"] if job.mutant else []
    code = int(pytest.main([*options, *stop, *job.tests], plugins=[reports]))
    (folder / "tests.json").write_text(json.dumps(reports.tests))
    ours = [m for name, m in sys.modules.items() if name.split(".")[0] in OWN]
    files = [Path(m.__file__) for m in ours if getattr(m, "__file__", None)]
    return code if all(path.is_relative_to(tree) for path in files) else FOREIGN


def in_a_fork(work: Any) -> int:
    """The process that does work() and ends with what it returns, whatever it leaves running."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = BROKEN
    try:
        code = work()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def end_descendants() -> None:
    """Kills what those below this process have left running and does not end by itself at once."""
    import psutil

    for turn in range(200):
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        for process in left if turn > 25 else ():
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def supervise(job: Job, unbroken: Path, folder: Path) -> int:
    """Runs a job below this process, which ends all that it leaves running, and tells how it ended
    in folder/ended.json."""
    parent = os.getppid()
    os.setsid()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, stream)
    (folder / "tmp").mkdir()
    (folder / "tree").mkdir()
    copy_tree(unbroken, folder / "tree")
    if job.mutant:
        job.mutant.apply(folder / "tree")
        if any(change.file.endswith((".c", ".h")) for change in job.mutant.changes):
            compile_c(folder / "tree")
    end = time.monotonic() + job.seconds
    process = in_a_fork(lambda: run_pytest(job, folder))
    code = None
    while code is None and time.monotonic() < end and os.getppid() == parent:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.02)
    end_descendants()
    (folder / "ended.json").write_text(json.dumps(code))
    if os.getppid() != parent:  # interrupted: nobody waits for an answer
        shutil.rmtree(folder)
    return 0


def ended_of(folder: Path, seconds: float) -> Ended:
    ended = Ended(code=BROKEN, seconds=seconds)
    if (folder / "ended.json").exists():
        ended.code = json.loads((folder / "ended.json").read_text())
    if (folder / "tests.json").exists():
        ended.tests = json.loads((folder / "tests.json").read_text())
    if (folder / "output").exists():
        ended.words = (folder / "output").read_text(errors="replace")
    return ended


def run_all(jobs: Iterable[Job], unbroken: Path, at_once: int) -> Iterator[tuple[Job, Ended]]:
    """Each with how it ended, in the order in which they end."""
    waiting, running = list(jobs)[::-1], {}
    while waiting or running:
        while waiting and len(running) < at_once:
            job, folder = waiting.pop(), Path(tempfile.mkdtemp(prefix="mutant-"))
            process = in_a_fork(lambda job=job, folder=folder: supervise(job, unbroken, folder))
            running[process] = job, folder, time.monotonic()
        job, folder, start = running.pop(os.wait()[0])
        ended = ended_of(folder, time.monotonic() - start)
        shutil.rmtree(folder, ignore_errors=True)
        yield job, ended


@dataclass
class Clean:
    """What the unbroken tests showed."""

    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, test: str) -> list[dict[str, Any]]:
        """The reports of a test, one for each of its parameters."""
        return [t for name, t in self.tests.items() if name == test or name.startswith(f"{test}[")]

    def trouble(self, test: str) -> str:
        """Why the test can judge no mutant; '' where it can."""
        outcomes = {report["outcome"] for report in self.of(test)}
        if not outcomes or "failed" in outcomes:
            return f"{test} is red without it"
        return f"{test} is skipped here" if outcomes == {"skipped"} else ""

    def limit(self, test: str) -> float:
        """Seconds after which the test hangs: many times what it takes unbroken, with what the
        first test of its file sets up for all."""
        path = test.partition("::")[0]
        shared = max(t.get("setup", 0.0) for name, t in self.tests.items() if name.startswith(path))
        own = sum(t.get("call", 0.0) + t.get("setup", 0.0) for t in self.of(test))
        return 60 + 5 * (shared + own)


def run_unbroken(mutants: list[Mutant], unbroken: Path, at_once: int) -> Clean:
    files: dict[str, set[str]] = {}
    for mutant in mutants:
        files.setdefault(mutant.test.partition("::")[0], set()).add(mutant.test)
    jobs = [Job(tuple(sorted(tests)), CLEAN_SECONDS) for _, tests in sorted(files.items())]
    clean = Clean()
    for job, ended in run_all(jobs, unbroken, at_once):
        clean.tests |= ended.tests
        name, count = job.tests[0].partition("::")[0], len(job.tests)
        told = "unbroken" if ended.code == 0 else "RED     "
        print(f"{told} {ended.seconds:6.1f} s  {name}: {count} tests", flush=True)
        if ended.code != 0:
            print(f"          {ended.manner}\n{ended.words[-3000:]}", flush=True)
    return clean


def run(mutants: list[Mutant], at_once: int) -> int:
    """The exit status: 0 where each mutant was caught."""
    start = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"  # as tests/conftest.py; and no threads before a fork
    import_packages_of_others()
    lost = []
    with tempfile.TemporaryDirectory(prefix="unbroken-") as folder:
        # What torch.compile made of a graph serves all in which the graph is the same.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        unbroken = Path(folder) / "tree"
        make_unbroken(unbroken)
        clean = run_unbroken(mutants, unbroken, at_once)
        jobs = []
        for mutant in mutants:
            trouble = "; ".join(mutant.problems(unbroken)) or clean.trouble(mutant.test)
            if trouble:
                lost.append(mutant.name)
                print(f"UNJUDGED           {mutant.name}: {trouble}", flush=True)
            else:
                jobs.append(Job((mutant.test,), clean.limit(mutant.test), mutant))
        for job, ended in run_all(jobs, unbroken, at_once):
            told = "caught  " if ended.is_red else "SURVIVED"
            manner = "" if ended.code == 1 else f" ({ended.manner})"
            mutant = job.mutant
            print(f"{told} {ended.seconds:6.1f} s  {mutant.name}: {mutant.law}{manner}", flush=True)
            if not ended.is_red:
                lost.append(mutant.name)
                print(ended.words[-800:], flush=True)
    minutes = (time.monotonic() - start) / 60
    print(f"{len(mutants) - len(lost)} of {len(mutants)} mutants caught in {minutes:.1f} minutes")
    if lost:
        print(f"not caught: {' '.join(sorted(lost))}")
    return 1 if lost else 0


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


def shard_of(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is no shard: say 1/4 for the first of four")
    return int(number), int(count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--check", action="store_true", help="whether each can be made; no tests")
    parser.add_argument("--end-to-end", action="store_true", help="also those of whole trainings")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), metavar="I/N", help="every N-th")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="at once (default: %(default)s)")
    told = parser.parse_args()
    mutants = read_mutants(told.names)
    if told.check:
        return check(mutants)
    if not told.names and not told.end_to_end:
        mutants = [mutant for mutant in mutants if not mutant.test.startswith(END_TO_END)]
    number, count = told.shard
    return run(mutants[number - 1 :: count], told.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
