"""docs/your-data.md: the third command of each section trains on what the first packs."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest

from tests.commands.test_your_data import SECTIONS, run, save_rows, write_all
from tests.end_to_end.runs import Runs

SMALL = (
    "train.steps=2",
    "train.batch_size=4",
    "data.chunk=2",
    "data.size=32",
    "step.micro_batch=2",
    "evaluate.every_steps=null",
    "evaluate.max_samples=4",
    "cpu_threads=1",
    "log.trackers=[]",
    "log.every_steps=1",
    "log.console=plain",
    "precision=fp32",
)
TRAINED = [title for title, commands in SECTIONS.items() if "train.py" in " ".join(commands)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("people")
    write_all(top)
    return top


@pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes
@pytest.mark.parametrize("title", TRAINED)
def test_the_page_s_third_command_trains(
    folders: Path, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    monkeypatch.chdir(folders)
    commands = SECTIONS[title]
    last = next(at for at, command in enumerate(commands) if "train.py" in command)
    packing, training = commands[:last], commands[last]
    if "saved" in packing[0]:
        save_rows(folders)
    for command in packing:
        assert run(command) == 0
    words = shlex.split(training)
    recipe, given = words[words.index("--config") + 1], words[words.index("--config") + 2 :]
    runs = Runs(folders, "")
    name = f"run-{TRAINED.index(title)}"
    output = runs.finish(name, *given, *SMALL, recipe=recipe)
    lines = (folders / name / "metrics.jsonl").read_text().splitlines()
    losses = [value for line in lines for key, value in json.loads(line).items() if "loss/" in key]
    assert len(losses) >= 2, output
    assert all(map(math.isfinite, losses)), output
