"""What a mutant has to be. How it is tested, `make mutants` shows itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant

TREE = {
    "wdtrain/room.py": "def one():\n    return 1\n\n\ndef other():\n    return 1\n",
    "tests/test_room.py": "def test_one():\n    pass\n",
}
WHOLE = """
law = "One is one."
test = "tests/test_room.py::test_one[first]"

[[change]]
file = "wdtrain/room.py"
old = '''
def one():
    return 1
'''
new = '''
def one():
    return 2
'''
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def mutant(tree: Path, text: str) -> Mutant:
    (tree / "some-name.toml").write_text(text)
    return Mutant.read(tree / "some-name.toml")


def test_a_mutant_changes_whole_lines_that_stand_once(tree: Path) -> None:
    whole = mutant(tree, WHOLE)
    assert (whole.name, whole.law) == ("some-name", "One is one.")
    assert whole.problems(tree) == []
    whole.apply(tree)
    changed = TREE["wdtrain/room.py"].replace("return 1", "return 2", 1)
    assert (tree / "wdtrain" / "room.py").read_text() == changed
    assert whole.problems(tree) == ["its old text is 0 times in wdtrain/room.py, not once"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("def one():\n    return 1", "    return 1", "2 times in wdtrain/room.py"),
        ("return 2", "return 1", "changes nothing in wdtrain/room.py"),
        ('file = "wdtrain/room.py"', 'file = "wdtrain/hall.py"', "wdtrain/hall.py does not exist"),
        ("::test_one[", "::test_on[", r"test_on\[first\] is not in tests/test_room.py"),
        ("tests/test_room.py", "tests/test_hall.py", "tests/test_hall.py does not exist"),
        (WHOLE[WHOLE.index("[[") :], "change = []", "changes nothing"),
    ],
)
def test_what_breaks_nothing_is_told(tree: Path, old: str, new: str, problem: str) -> None:
    assert old in WHOLE
    with pytest.raises(AssertionError, match=problem):
        assert mutant(tree, WHOLE.replace(old, new, 1)).problems(tree) == []
