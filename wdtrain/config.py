"""The schema of a recipe: every key with its unit or a sentence, checked before anything starts.

A recipe is YAML, merged with `key=value` from the command line. A mistyped key, a value out of
range or an impossible pair is refused here with the key's name. It is code, as a script is: it may
name classes to import and read the environment (`commands/trust.py`). Frozen: what a run was
started with cannot change under it; what decides its numbers is kept in each checkpoint.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import omegaconf
import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from wdtrain.settings import (
    ByteSize,
    MemoryShare,
    PixelSize,
    flatten,
    overrides_of,
    parse_bytes,
    parse_memory,
    without_replaced,
)
from wdtrain.settings import RecipeError as RecipeError
from wdtrain.settings import recipe_keys as recipe_keys

_FREE_KEYS = (
    "run.folder", "run.resume", "run.timeout_seconds", "log.", "checkpoint.", "cpu_threads",
    "memory", "data.url", "data.cache", "data.threads", "step.micro_batch",
)  # fmt: skip
"""Keys of where a run is kept, how it is shown and fitted to a machine: they decide no number."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), coerce_numbers_to_str=True
    )
    either: ClassVar[tuple[str, ...]] = ()
    """Keys of which one is set: one given on the command line takes the place of the file's."""


class DataSettings(Section):
    url: str = Field(description="dataset folder or URL prefix, which holds manifest.json")
    train_split: str = Field("train", description="the split that is trained on")
    seed: int = Field(0, ge=0, description="seed of the order of samples")
    lanes: int = Field(32, ge=1, description="sub-streams an epoch is dealt to; at least the ranks")
    chunk: int = Field(32, ge=1, description="samples dealt to a lane at once; divides the batch")
    size: PixelSize = Field(
        None, description="pixels to read at: shorter side, or [height, width]; null: as stored"
    )
    shuffle_bytes: ByteSize = Field(
        "1GiB", description="memory of what samples are shuffled among: bytes, '512MiB' or '1GiB'"
    )
    threads: int | None = Field(None, ge=1, description="reader threads; null: one a core")
    kinds: dict[str, str] = Field(
        {}, description="kinds of fields beside our own, by name: package.module:Class"
    )
    on_damage: Literal["fatal", "skip"] = Field(
        "fatal", description="what a damaged sample does: stop the run, or be left out and counted"
    )
    cache: str | None = Field(
        None, description="local folder to keep what is read of a remote url; null: nothing is kept"
    )
    cache_bytes: ByteSize = Field(
        "20GiB", description="how large that folder may grow: bytes, '20GiB' or '512MiB'"
    )


class RunSettings(Section):
    folder: str = Field(description="the run folder: logs, checkpoints and report go here")
    seed: int = Field(0, ge=0, description="seed of initial weights, augmentation and dropout")
    resume: Literal["auto", "never"] = Field(
        "auto", description="auto: go on from the newest whole checkpoint; never: refuse if one is"
    )
    timeout_seconds: float = Field(
        600.0, gt=0, description="how long ranks wait for one that does not answer"
    )


class TrainSettings(Section):
    either: ClassVar[tuple[str, ...]] = ("steps", "epochs")

    batch_size: int = Field(256, ge=1, description="samples of one optimizer step, over all ranks")
    steps: int | None = Field(None, ge=1, description="optimizer steps to train for; or epochs")
    epochs: int | None = Field(None, ge=1, description="passes over the data; or steps")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            found = "neither is" if self.steps is None else "both are"
            raise ValueError(f"give either train.steps or train.epochs; {found} given")
        return self


class StepSettings(Section):
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="samples through a network at once; null: norm_group. A matter of memory: "
        "results differ by the order of float additions alone",
    )
    norm_group: int | None = Field(
        None, ge=1, description="samples of one BatchNorm group, divides data.chunk; null: chunk"
    )


class IntensitySettings(Section):
    """A change of colours by its name; every other key is an option of it."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str = Field(description="one of Kornia's intensity augmentations, or package.module:name")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class AugmentSettings(Section):
    zoom: float = Field(0.5, ge=0, le=9, description="magnified by up to 1 + zoom; 0: off")
    rotation_deg: float = Field(5.0, ge=0, le=180, description="turned by up to this; 0: off")
    crop: float = Field(
        1.0, ge=0, le=1, description="share of the magnified picture's room a crop may use; 0: off"
    )
    flip: float = Field(0.5, ge=0, le=1, description="share of pictures mirrored; 0: off")
    colour: float = Field(
        0.2, ge=0, le=1, description="each channel times 1 - colour .. 1 + colour; 0: off"
    )
    image: list[IntensitySettings] = Field(
        [],
        description="Kornia's intensity augmentations in turn: [{name: RandomHue, p: 0.3}]",
    )


class OptimizerSettings(Section):
    name: Literal["sgd", "adamw"] = Field("adamw", description="sgd or adamw")
    lr: float = Field(1e-3, gt=0, description="learning rate, before the schedule")
    weight_decay: float = Field(
        0.0, ge=0, description="sgd: added to the gradient; adamw: decoupled"
    )
    decay_norms: bool = Field(False, description="weight decay on norms' weights and biases too")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    betas: tuple[float, float] = Field((0.9, 0.999), description="adamw only")
    clip_norm: float | None = Field(
        None, gt=0, description="largest gradient norm of the task; null: not clipped"
    )


class ScheduleSettings(Section):
    name: Literal["constant", "seed", "warmup-cosine"] = Field(
        "warmup-cosine",
        description="constant; seed: constant, then divided by 10 when validation stalls; "
        "warmup-cosine: up in a line, down in half a cosine",
    )
    warmup_steps: int = Field(50, ge=0, description="warmup-cosine: steps until the full rate")
    floor: float = Field(
        0.01,
        ge=0,
        le=1,
        description="warmup-cosine: the last step's rate, as a share of the full one",
    )
    constant_epochs: int = Field(150, ge=0, description="seed: epochs before the rate may fall")
    factor: float = Field(0.1, gt=0, lt=1, description="seed: what the rate is multiplied by")
    patience: int = Field(
        5, ge=0, description="seed: validations without a better loss before the rate falls"
    )


class LossSettings(Section):
    """A loss with options."""

    name: str = Field(description="of the target's losses, or package.module:function or :Class")
    options: dict[str, Any] = Field({}, description="keyword arguments of the loss")


class TaskSettings(Section):
    input: str | None = Field(
        None, description="the image that the network sees; null: the dataset's only one"
    )
    target: str | None = Field(
        None, description="the field that it learns; null: that of the task's own name"
    )
    network: str = Field(description="seed-mask, seed-unet, or package.module:Class")
    options: dict[str, Any] = Field({}, description="keyword arguments of the network")
    loss: str | LossSettings = Field(
        description="mask: bce, bce+dice, l1, smooth-l1; depth: l1, smooth-l1, bce; classes: ce, "
        "ce+dice, focal; or package.module:function; with options as {name: NAME, options: {}}"
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="how the weights move")
    schedule: ScheduleSettings = Field(
        ScheduleSettings(), description="how the learning rate moves"
    )
    weights: str | None = Field(None, description="a .safetensors file to start from")

    @property
    def loss_settings(self) -> LossSettings:
        """The loss, also where it is given by its name alone."""
        return LossSettings(name=self.loss) if isinstance(self.loss, str) else self.loss


class EvaluateSettings(Section):
    every_steps: int | None = Field(
        None, ge=1, description="steps between validations; null: an epoch; always at the end"
    )
    splits: list[str] | None = Field(None, description="validated on; null: all but train, test")
    batch_size: int | None = Field(
        None, ge=1, description="samples at once; null: train.batch_size"
    )
    max_samples: int | None = Field(
        None, ge=1, description="about how many of a split, while training; the end takes all"
    )
    foreground: str | None = Field(
        None, description="the mask that divides the metrics of depth; null: the only one there is"
    )


class CheckpointSettings(Section):
    every_steps: int = Field(500, ge=1, description="steps between checkpoints; always at the end")
    keep: int = Field(2, ge=1, description="newest checkpoints kept, the best one beside them")


class LogSettings(Section):
    every_steps: int = Field(1, ge=1, description="steps between lines of metrics.jsonl")
    console: Literal["auto", "live", "plain"] = Field(
        "auto", description="live needs a terminal; plain prints lines; auto chooses"
    )
    plain_seconds: float = Field(10.0, ge=0, description="seconds between plain lines")
    trackers: list[str] = Field(["tensorboard"], description="trackers, as accelerate names them")


class Recipe(Section):
    """What a run is. `python wdtrain/train.py --help` prints every field."""

    data: DataSettings = Field(description="what is read, and in which order")
    run: RunSettings = Field(description="where it is kept, and its seed")
    train: TrainSettings = Field(description="how long, and how large a batch")
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="the networks, by name")
    targets: dict[str, str] = Field(
        {}, description="by kind of field, package.module:Class of what is learned of it"
    )
    step: StepSettings = Field(StepSettings(), description="how a batch is cut to fit")
    augment: AugmentSettings = Field(
        AugmentSettings(), description="random changes to training pictures"
    )
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="validation")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="saving")
    log: LogSettings = Field(LogSettings(), description="what is shown and written")
    precision: Literal["bf16", "fp32", "fp64"] = Field(
        "bf16",
        description="arithmetic: bf16 under autocast, weights in fp32; fp32: without TF32; fp64",
    )
    channels_last: bool = Field(True, description="memory layout of pictures; faster for most")
    compile: bool = Field(False, description="torch.compile the networks")
    cpu_threads: int | None = Field(
        None,
        ge=1,
        description="threads of each process's arithmetic on CPU; null: its share of the cores, 2 "
        "where a GPU computes. Results differ by the order of float additions alone",
    )
    memory: MemoryShare = Field(
        0.9, description="CUDA: share of the device, or GiB as '8GiB', that may be used"
    )

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        chunk, group = self.data.chunk, self.norm_group
        sizes = {"train": self.train.batch_size, "evaluate": self.evaluation_batch}
        for name, size in sizes.items():
            if size % chunk:
                nearest = max(1, round(size / chunk)) * chunk
                raise ValueError(
                    f"{name}.batch_size is {size}, which data.chunk ({chunk}) does not divide, so "
                    f"a normalisation group would be torn; the nearest is {nearest}"
                )
        if chunk % group:
            raise ValueError(f"step.norm_group is {group}, which must divide data.chunk ({chunk})")
        if self.micro_batch % group:
            raise ValueError(
                f"step.micro_batch is {self.micro_batch}, which must be a multiple of "
                f"step.norm_group ({group}): a group goes through a network whole"
            )
        for name in self.tasks:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(
                    f"the task name {name!r} would be the name of files; use A-Z, a-z, 0-9, _ and -"
                )
        return self

    @property
    def norm_group(self) -> int:
        return self.step.norm_group or self.data.chunk

    @property
    def micro_batch(self) -> int:
        return self.step.micro_batch or self.norm_group

    def target_of(self, task: str) -> str:
        """The field that a task learns."""
        return self.tasks[task].target or task

    @property
    def evaluation_batch(self) -> int:
        return self.evaluate.batch_size or self.train.batch_size

    def total_steps(self, samples: int) -> int:
        """Optimizer steps of the run over `samples` training samples."""
        return self.train.steps or -(-(self.train.epochs or 0) * samples // self.train.batch_size)

    def evaluate_every(self, samples: int) -> int:
        """Steps between validations: as given, or an epoch's."""
        return self.evaluate.every_steps or -(-samples // self.train.batch_size)

    @property
    def memory_limit(self) -> float | int:
        """What may be used of a GPU: a share, or bytes."""
        return parse_memory(self.memory)

    def planned_by(self) -> dict[str, Any]:
        """The keys that a micro-batch depends on, beside the device, flat, with their values."""
        wanted = r"(tasks\.[^.]+\.(input|target|network|options|loss|optimizer\.name)|augment|step|"
        wanted += r"targets|compile|precision|channels_last|data\.chunk)\b"
        return {key: value for key, value in self.numeric_keys().items() if re.match(wanted, key)}

    def numeric_keys(self) -> dict[str, Any]:
        """The keys that decide a run's numbers, flat, with their values."""
        facts = flatten(self.model_dump(mode="json"))
        free = list(_FREE_KEYS)
        if all(task.schedule.name != "warmup-cosine" for task in self.tasks.values()):
            free += ["train.steps", "train.epochs"]
        facts["data.shuffle_bytes"] = parse_bytes(self.data.shuffle_bytes)
        return {key: value for key, value in facts.items() if not key.startswith(tuple(free))}

    def as_yaml(self, url: str) -> str:
        """The resolved recipe: every key, also those that were left at their default. url: what
        stands there as data.url, whose own may hold secrets."""
        values = self.model_dump(mode="json")
        values["data"]["url"] = url
        return OmegaConf.to_yaml(OmegaConf.create(values))

    def check_resumes(self, saved: dict[str, Any]) -> None:
        """Raises RecipeError, naming the keys, unless a run of `saved` can go on with this one.

        `saved` is what `numeric_keys()` was when the checkpoint was written.
        """
        mine = json.loads(json.dumps(self.numeric_keys()))
        differing = sorted(
            key for key in {*mine, *saved} if mine.get(key, "-") != saved.get(key, "-")
        )
        if differing:
            shown = ", ".join(
                f"{key} was {saved.get(key, 'absent')!r} and is {mine.get(key, 'absent')!r}"
                for key in differing[:4]
            )
            raise RecipeError(
                f"the checkpoint in {self.run.folder} is of another recipe: {shown}; its numbers "
                "would not go on; use another run.folder, or restore the keys"
            )


def load_recipe(
    path: str | Path,
    overrides: list[str],
    *,
    inspect: Callable[[Any], None] | None = None,
) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides merged in, checked.

    inspect: is shown what the file holds, as it is written, and may raise before any of it is
    worked out. Raises RecipeError naming the key, what was found, and the nearest key there is.
    """
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        near = ", ".join(sorted(p.name for p in Path(path).parent.glob("*.yaml"))) or "none"
        raise RecipeError(f"recipe {path} does not exist; beside it: {near}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {path} is not YAML that can be read: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise RecipeError(f"recipe {path} holds no keys; write key: value lines, as in recipes/")
    if inspect is not None:
        inspect(OmegaConf.to_container(loaded))
    try:
        given = overrides_of(overrides)
        merged = OmegaConf.merge(without_replaced(Recipe, loaded, given), given)
        values = OmegaConf.to_container(merged, resolve=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise RecipeError(f"recipe {path}: {error}") from error
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise RecipeError(f"recipe {path}: {problems}") from None


def _problem(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [name for name, _, _ in recipe_keys(Recipe)]
        wanted = re.sub(r"^tasks\.[^.]+", "tasks.NAME", key)
        near = difflib.get_close_matches(wanted, known, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else "; --help lists the fields"
        return f"{key} is not a field of a recipe{hint}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, found {detail['input']!r}" if key else message


def help_text() -> str:
    """Every field of a recipe, a line each: key, default, what it is."""
    return "\n".join(
        f"  {key:<38} {text} [{default}]" for key, default, text in recipe_keys(Recipe)
    )
