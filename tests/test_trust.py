"""A run folder may have come from anybody: its recipe runs nothing here, unless it is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from wdtrain.commands.inspect_shards import main as inspect_shards
from wdtrain.commands.predict import main as predict
from wdtrain.commands.trust import load_run_recipe
from wdtrain.config import RecipeError, load_recipe

RECIPE = """
data: {url: %s, chunk: 4}
run: {folder: run}
train: {batch_size: 8, steps: 2}
tasks: {mask: {network: %s, loss: l1, options: %s}}
"""
HOSTILE = "open('ran', 'w').close()\nclass Net: pass\n"
CASES = {
    "import": ("data", "hostile:Net", "{}"),
    "environment": ("'${oc.env:SECRET}'", "seed-mask", "{}"),
    "escaped": ('"\\u0024{oc.env:SECRET}"', "seed-mask", "{}"),
    "interpolated import": ("hostile:Net", "'${data.url}'", "{}"),
    "in a list": ("data", "seed-mask", "{widths: [1, '${oc.env:SECRET}']}"),
    "under a key that is there twice": (
        "data",
        "seed-mask",
        "{a: {b: '${oc.env:SECRET}'}, a.b: 1}",
    ),
    "as a key": ("data", "seed-mask", "{'${oc.env:SECRET}': 1}"),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile.py").write_text(HOSTILE)
    (tmp_path / "run").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path / "run"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "command",
    [
        (predict, ["RUN", "a.png", "--out", "out"]),
        (predict, ["RUN", "--split", "val", "--out", "out"]),
        (inspect_shards, ["order", "--run", "RUN", "--step", "1"]),
        (inspect_shards, ["augment", "--run", "RUN", "key", "--epoch", "0"]),
    ],
    ids=["predict", "predict-split", "order", "augment"],
)
def test_no_tool_runs_what_a_run_folder_names(run, capsys, command, case):
    tool, arguments = command
    (run / "config.yaml").write_text(RECIPE % CASES[case])
    assert tool([word.replace("RUN", "run") for word in arguments]) == 2
    said = capsys.readouterr().err
    assert "--trust" in said
    assert "run/config.yaml: " in said
    assert "hunter2" not in said
    assert not (run.parent / "ran").exists()
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("tasks.mask.loss", "tasks: {mask: {network: seed-mask, loss: 'hostile:Net'}}"),
        ("tasks.mask.loss", "tasks: {mask: {network: seed-mask, loss: {name: 'hostile:Net'}}}"),
        (r"augment.image\[1\]", "augment: {image: [{name: RandomHue}, {name: 'hostile:Net'}]}"),
        ("targets.mask", "targets: {mask: 'hostile:Net'}"),
        ("data.kinds.mask", "data: {url: data, chunk: 4, kinds: {mask: 'hostile:Net'}}"),
    ],
)
def test_losses_targets_and_kinds_by_import_path_need_trust_too(run, key, text):
    given = dict(
        line.split(": ", 1) for line in (RECIPE % ("data", "seed-mask", "{}")).strip().splitlines()
    )
    section, value = text.split(": ", 1)
    lines = {**given, section: value}
    (run / "config.yaml").write_text("".join(f"{name}: {rest}\n" for name, rest in lines.items()))
    with pytest.raises(RecipeError, match=f"{key} is 'hostile:Net', which is imported"):
        load_run_recipe(run, trust=False)
    assert load_run_recipe(run, trust=True)
    assert not (run.parent / "ran").exists()


@pytest.mark.parametrize("name", ['"a\\nb"', '""', "a.b", "'../mask'", "hostile:Net"])
def test_no_name_of_a_task_hides_its_network_or_is_no_name_of_a_file(run, name):
    written = RECIPE % CASES["import"]
    (run / "config.yaml").write_text(written.replace("{mask: {", f"{{{name}: {{target: mask, "))
    for trust in (False, True):
        with pytest.raises(RecipeError, match=r"task name .* would be the name of files"):
            load_run_recipe(run, trust=trust)


@pytest.mark.parametrize("case", ["import", "environment"])
def test_who_trusts_it_gets_it(run, case):
    (run / "config.yaml").write_text(RECIPE % CASES[case])
    with pytest.raises(RecipeError, match="--trust"):
        load_run_recipe(run, trust=False)
    recipe = load_run_recipe(run, trust=True)
    assert recipe == load_recipe(run / "config.yaml", [])
    assert recipe.data.url == ("hunter2" if case == "environment" else "data")


def test_networks_of_the_house_need_no_trust(run):
    (run / "config.yaml").write_text(RECIPE % ("s3://a:b@host/data", "seed-unet", "{norm: group}"))
    assert load_run_recipe(run, trust=False).tasks["mask"].network == "seed-unet"


def test_what_is_no_run_is_said(run):
    with pytest.raises(RecipeError, match="is not a run: it holds no config"):
        load_run_recipe(run, trust=False)
