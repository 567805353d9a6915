"""The house keeps its shape: who imports whom, how long things are, what lies where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.mutant import read_mutants
from wdtrain.fields import KINDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wdtrain"
STANDS_ON = {
    "settings": {"fields"},
    "config": {"settings"},
    "disk": set(),
    "remote": {"disk"},
    "fields": {"disk"},
    "networks": {"settings"},
    "ranks": {"disk", "settings"},
    "store": {"fields", "remote"},
    "packing": {"store"},
    "scenes": {"fields"},
    "sources": {"fields", "remote"},
    "stream": {"store", "config"},
    "targets": {"fields", "settings"},
    "learn": {"targets", "networks", "ranks", "config"},
    "memory": {"learn"},
    "record": {"targets", "ranks", "remote"},
}
"""What each room is built on; it may import that, and what that stands on in its turn."""
ROOMS = set(STANDS_ON) - {"settings", "config"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def foundations(room: str) -> set[str]:
    """All that a room may import beside itself."""
    if room in ("commands", "job", "train"):
        return {*STANDS_ON, *({"job"} if room == "train" else set())}
    below = STANDS_ON.get(room, set())
    return below.union(*(foundations(one) for one in below)) if below else set()


def room_of(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    allowed = foundations(room) | {room}
    for name, line in imports_of(path):
        if name.startswith("wdtrain."):
            assert name.split(".")[1] in allowed, f"{path}:{line} imports {name}"


def test_modules_import_in_no_circle() -> None:
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    known = {name.removesuffix(".__init__"): path for path, name in names.items()}
    graph = {
        name: {used for used, _ in imports_of(path) if used in known and used != name}
        for name, path in known.items()
    }
    finished: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        if name not in finished:
            for used in sorted(graph[name]):
                # A package that re-exports its own modules is above them, not beside them.
                if not name.startswith(used + "."):
                    visit(used, (*above, name))
            finished.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_rooms_of_data_do_not_bring_torch_along() -> None:
    code = (
        "import pkgutil, sys, importlib\n"
        "names = 'disk remote fields scenes sources store packing'.split()\n"
        "for room in [importlib.import_module(f'wdtrain.{name}') for name in names]:\n"
        "    for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        if module.name.split('.')[-1] not in ('teacher', 'opener', '_rows'):\n"
        "            importlib.import_module(module.name)\n"
        "assert 'torch' not in sys.modules, 'torch came along'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_package_holds_only_rooms_and_four_modules() -> None:
    # `accelerate launch wdtrain/train.py` puts this folder first on the import path, so a module
    # named like one of the standard library would shadow it.
    files = {path.name for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert files == {"__init__.py", "config.py", "job.py", "settings.py", "train.py"}
    assert folders == ROOMS | {"commands"}
    assert not folders & set(sys.stdlib_module_names)


def test_train_reads_in_one_sitting() -> None:
    assert len((PACKAGE / "train.py").read_text().splitlines()) <= 200


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_explain_themselves(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 450, f"{path} is over 450 lines"
    if tree.body:
        assert ast.get_docstring(tree), f"{path} does not say what it owns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted((ROOT / "tools").iterdir()), ids=lambda p: p.name)
def test_tools_are_thin_doors(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env python3"
    assert len(lines) <= 30
    assert path.stat().st_mode & 0o111, f"{path} is not executable"
    names = [name for name, _ in imports_of(path) if name.startswith("wdtrain")]
    assert names, f"{path} opens no door"
    assert all(name.startswith("wdtrain.commands") for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "tools").iterdir()), ids=lambda p: p.name)
def test_tools_work_from_any_working_directory(path: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(path), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout.lower()


def test_each_mutant_can_be_made_and_names_a_test_that_exists() -> None:
    """Its old text stands once in its file, its new one differs: no move loses a law unseen."""
    mutants = read_mutants()
    problems = [f"{each.name}: {told}" for each in mutants for told in each.problems(ROOT)]
    assert not problems, "\n".join(problems)
    assert all(mutant.law for mutant in mutants)
    assert mutants


def test_each_room_says_what_it_owns_and_no_two_files_have_one_name() -> None:
    """But for a kind of field: it is one file in `fields`, and one of that name in `targets`."""
    for room in ROOMS | {"commands"}:
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), room
    rooms = [path for path in MODULES if path.parent != PACKAGE and path.name != "__init__.py"]
    kinds = {"base.py", *(f"{kind}.py" for kind in KINDS)}
    names = [path.name for path in rooms if path.parent.name != "targets" or path.name not in kinds]
    assert sorted(names) == sorted(set(names))


def test_no_file_beside_fields_targets_and_scenes_asks_which_kind_a_field_is() -> None:
    asking = re.compile(r"""[!=]= ["'](mask|classes|depth)["']""")
    for path in MODULES:
        if room_of(path) not in ("fields", "targets", "scenes", "sources"):
            assert not asking.search(path.read_text()), path


def public_names(path: Path) -> Iterator[str]:
    """The classes, functions and constants that a module defines for others."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_one_public_name_stands_for_one_thing_in_the_whole_package() -> None:
    found: dict[str, list[str]] = {}
    for path in MODULES:
        for name in {name for name in public_names(path) if not name.startswith("_")} - {"main"}:
            found.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


REPEATED_LINES = 6


def code_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of a module's lines of code: without comments, docstrings, imports, the heads
    of functions and lines of punctuation alone, in single spaces."""
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left_out.update(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = ((number, " ".join(line.split())) for number, line in enumerate(text.splitlines(), 1))
    return [
        (number, line)
        for number, line in lines
        if number not in left_out and any(map(str.isalnum, line)) and not line.startswith("#")
    ]


def test_no_place_of_six_lines_stands_twice() -> None:
    first: dict[tuple[str, ...], str] = {}
    repeated: list[str] = []
    for path in MODULES:
        lines = code_lines(path)
        for at in range(len(lines) - REPEATED_LINES + 1):
            place = f"{path.relative_to(PACKAGE)}:{lines[at][0]}"
            run = tuple(line for _, line in lines[at : at + REPEATED_LINES])
            if run in first:
                repeated.append(f"{place} repeats {first[run]}")
            first.setdefault(run, place)
    assert not repeated, "\n".join(repeated)


def test_each_test_asserts_something() -> None:
    """Itself, or by a helper of the tests that does: one that only runs code proves little."""
    functions = [
        (path, node)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    helpers = [node for _, node in functions if not node.name.startswith("test_")]
    asserting = {"raises", "warns"}
    asserting |= {node.name for node in helpers if asserts(node, asserting)}
    asserting |= {
        node.name for node in helpers if node.name[:5] == "check" and asserts(node, asserting)
    }
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, node in functions
        if node.name.startswith("test_") and not asserts(node, asserting)
    ]
    assert not silent


def asserts(function: ast.FunctionDef, asserting: set[str]) -> bool:
    """Whether it has an assert of its own, or calls what has."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in asserting:
                return True
            if isinstance(called, ast.Attribute) and called.attr in ("raises", "warns"):
                return True
            if isinstance(called, ast.Attribute) and called.attr.startswith("assert_"):
                return True
    return False
