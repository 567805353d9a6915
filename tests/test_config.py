"""A recipe is checked before anything starts: typos and impossible pairs are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wdtrain.config import Recipe, RecipeError, help_text, load_recipe, recipe_keys
from wdtrain.settings import parse_bytes
from wdtrain.stream.shares import balance

ROOT = Path(__file__).resolve().parent.parent
PLAYGROUND = ROOT / "recipes" / "playground.yaml"


def refusal(*overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(PLAYGROUND, list(overrides))
    return str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_of_the_house_is_valid(path: Path) -> None:
    recipe = load_recipe(path, [])
    assert recipe.tasks
    assert set(recipe.tasks) <= {"mask", "depth", "classes"}


def test_overrides_win_over_the_file() -> None:
    recipe = load_recipe(PLAYGROUND, ["train.steps=7", "tasks.mask.optimizer.lr=0.5"])
    assert recipe.train.steps == 7
    assert recipe.tasks["mask"].optimizer.lr == 0.5


def test_a_mistyped_key_is_refused_with_the_nearest() -> None:
    message = refusal("train.batchsize=32")
    assert "train.batchsize is not a field" in message
    assert "did you mean train.batch_size?" in message
    assert "did you mean tasks.NAME.network?" in refusal("tasks.mask.netwrk=seed-mask")


def test_a_value_of_the_wrong_kind_is_refused_by_key() -> None:
    assert "train.steps" in refusal("train.steps=many")
    assert "optimizer.lr" in refusal("tasks.mask.optimizer.lr=0")
    assert "key=value" in refusal("train.steps")


def test_a_size_is_the_shorter_side_or_a_pair(tmp_path: Path) -> None:
    for text, size in (("32", 32), ("[32,64]", (32, 64)), ("null", None)):
        recipe = load_recipe(PLAYGROUND, [f"data.size={text}"])
        (tmp_path / "saved.yaml").write_text(recipe.as_yaml("x"))
        assert load_recipe(tmp_path / "saved.yaml", []).data.size == recipe.data.size == size
    for text in ("8", "[32,8]", "0", "true", "abc", "[32]", "1.5"):
        assert "data.size: " in refusal(f"data.size={text}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("20GiB", 20 << 30), ("512 MiB", 512 << 20), ("1.5TB", 15 * 10**11), ("4096", 4096), (7, 7),
     ("9007199254740993", 9007199254740993), ("0.5KiB", 512), ("3B", 3)],
)  # fmt: skip
def test_a_size_is_bytes_or_has_a_unit(text: int | str, wanted: int) -> None:
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize(
    "text", ["1.2.3GiB", "0GiB", "0", 0, "-1", "1.5", "8Gib", "lots", "", "GiB", "1e9", "0.1B"]
)
def test_what_is_no_size_is_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)
    if text not in ("", "1e9"):  # YAML's own: nothing, and a number
        assert "data.cache_bytes: " in refusal(f"data.cache_bytes={text}")


def test_memory_is_a_share_or_a_size() -> None:
    for memory in ("2", "0", "lots", "-1", "0.0", "nan", "0GiB", "1.2.3GiB", "1.5"):
        assert "memory: " in refusal(f"memory={memory}")
    shares = {"0.5": 0.5, "1": 1.0, ".9": 0.9, "0.00005": 5e-5, "5e-05": 5e-5}
    for memory, wanted in {**shares, "8GiB": 8 << 30, "512MiB": 512 << 20}.items():
        found = load_recipe(PLAYGROUND, [f"memory={memory}"]).memory_limit
        assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize("name", ["2024", "007", "1e3", "yes", "1_000", "2024-11-28", "runs/a=b"])
def test_a_folder_may_be_called_as_a_number_is(tmp_path: Path, name: str) -> None:
    assert load_recipe(PLAYGROUND, [f"run.folder={name}"]).run.folder == name
    text = PLAYGROUND.read_text().replace("folder: runs/playground", "folder: 2024")
    assert "folder: 2024" in text
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml", []).run.folder == "2024"


def test_a_batch_that_the_chunk_does_not_divide_is_refused_with_the_nearest() -> None:
    assert "the nearest is 96" in refusal("train.batch_size=100", "data.chunk=32")
    assert "must divide data.chunk" in refusal("step.norm_group=5")
    assert "multiple of step.norm_group" in refusal("step.micro_batch=44")


def test_a_run_has_one_length() -> None:
    said = refusal("train.epochs=2", "train.steps=3")
    assert "give either train.steps or train.epochs; both are given" in said
    assert "train.epochs; neither is given" in refusal("train.steps=null")


@pytest.mark.parametrize("more", [[], ["train.epochs=null"]])
def test_the_length_on_the_command_line_takes_the_place_of_the_recipes(more: list[str]) -> None:
    depth = ROOT / "recipes" / "depth-only.yaml"
    assert load_recipe(depth, []).train.epochs
    found = load_recipe(depth, ["train.steps=7", *more]).train
    assert (found.steps, found.epochs) == (7, None)
    found = load_recipe(PLAYGROUND, ["train.epochs=2"]).train
    assert (found.steps, found.epochs) == (None, 2)


def test_a_loss_is_a_name_or_a_name_with_options() -> None:
    plain = load_recipe(PLAYGROUND, ["tasks.mask.loss=bce"]).tasks["mask"]
    assert (plain.loss_settings.name, plain.loss_settings.options) == ("bce", {})
    given = ["tasks.mask.loss={name: focal, options: {gamma: 3}}"]
    chosen = load_recipe(PLAYGROUND, given).tasks["mask"].loss_settings
    assert (chosen.name, chosen.options) == ("focal", {"gamma": 3})


def test_a_missing_or_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere.yaml does not exist"):
        load_recipe(tmp_path / "nowhere.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\n")
    with pytest.raises(RecipeError, match=r"broken.yaml is not YAML that can be read"):
        load_recipe(broken, [])


@pytest.mark.parametrize("text", ["- a\n- b\n", "3\n"])
def test_a_recipe_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"list\.yaml (holds no keys|is not YAML)"):
        load_recipe(path, [])


def test_a_checkpoint_of_another_recipe_is_refused_by_key() -> None:
    recipe = load_recipe(PLAYGROUND, [])
    saved = json.loads(json.dumps(recipe.numeric_keys()))
    recipe.check_resumes(saved)
    load_recipe(PLAYGROUND, ["log.every_steps=9", "checkpoint.keep=5"]).check_resumes(saved)
    other = load_recipe(PLAYGROUND, ["tasks.mask.optimizer.lr=0.5"])
    with pytest.raises(RecipeError, match=r"tasks.mask.optimizer.lr was .* and is 0.5"):
        other.check_resumes(saved)


def test_a_recipe_cannot_be_changed() -> None:
    recipe = load_recipe(PLAYGROUND, [])
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.batch_size = 3  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    for key, _, description in recipe_keys(Recipe):
        assert len(description) > 5, key
        assert key in help_text()


def test_a_plan_is_for_the_networks_of_all_tasks_whatever_their_names():
    task = ["target=mask", "network=seed-mask", "loss=bce+dice"]
    recipe = load_recipe(PLAYGROUND, [f"tasks.mask-a.{one}" for one in task])
    keys = recipe.planned_by()
    assert keys["tasks.mask-a.network"] == "seed-mask"
    assert keys["tasks.depth.network"] == "seed-unet"
    own = load_recipe(PLAYGROUND, ["targets.mask=mine:Mask"]).planned_by()
    assert own["targets.mask"] == "mine:Mask"
    assert not any("lr" in key for key in keys)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_batches_of_our_recipes_give_every_rank_work(path: Path, world: int) -> None:
    recipe = load_recipe(path, [])
    chunks = recipe.train.batch_size // recipe.data.chunk
    assert balance(chunks, recipe.data.lanes, world) == 1.0


def test_sizes_that_are_the_same_are_the_same_recipe() -> None:
    saved = load_recipe(PLAYGROUND, ["data.shuffle_bytes=1GiB"]).numeric_keys()
    load_recipe(PLAYGROUND, ["data.shuffle_bytes=1024MiB"]).check_resumes(saved)
    with pytest.raises(RecipeError, match=r"data\.shuffle_bytes"):
        load_recipe(PLAYGROUND, ["data.shuffle_bytes=1GB"]).check_resumes(saved)
