"""The tasks of a run, built from the sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wdtrain.config import Recipe
from wdtrain.fields import Field, ImageField, from_dict
from wdtrain.learn.task import Task, TaskSet, build_task
from wdtrain.networks import build_for
from wdtrain.ranks.devices import exact_float32
from wdtrain.targets import Target, foreground_of, target_of


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a task sees, by name, and learns, as a dataset has them."""

    input: str
    target: Target


def learned_by(recipe: Recipe, fields: Mapping[str, Field]) -> dict[str, Learned]:
    """What each task of a recipe sees and learns of a dataset with these fields, by task.

    Raises ValueError, naming the key of the recipe, for a field that there is not.
    """
    return {
        name: Learned(
            input=_input(name, task.input, fields),
            target=_target(name, recipe.target_of(name), recipe, fields),
        )
        for name, task in recipe.tasks.items()
    }


def learned_dict(learned: Learned | Task) -> dict[str, Any]:
    """JSON of what a task sees and learns, which a prediction needs to know; `learned_from` reads
    it."""
    field = learned.target.field
    return {"input": learned.input, "field": field.name, "declared": field.as_dict()}


def learned_from(values: Mapping[str, Any], own: Mapping[str, str]) -> Learned:
    """What `learned_dict` described; own: targets by kind, as a recipe names them."""
    field = from_dict(values["field"], values["declared"])
    return Learned(input=values["input"], target=target_of(field, own))


def _input(task: str, asked: str | None, fields: Mapping[str, Field]) -> str:
    images = [name for name, field in fields.items() if isinstance(field, ImageField)]
    if asked in images or (asked is None and len(images) == 1):
        return asked or images[0]
    raise ValueError(
        f"tasks.{task}.input is {asked or 'not given'}; it is one of the dataset's images, which "
        f"are {', '.join(images) or 'none'}"
    )


def _target(task: str, asked: str, recipe: Recipe, fields: Mapping[str, Field]) -> Target:
    if asked not in fields:
        raise ValueError(
            f"tasks.{task} learns {asked!r}, which the dataset does not hold; it holds "
            f"{', '.join(f'{name} ({field.kind})' for name, field in fields.items())}; set "
            f"tasks.{task}.target to one of them"
        )
    try:
        return target_of(fields[asked], recipe.targets)
    except ValueError as error:
        raise ValueError(f"tasks.{task}: {error}") from error


def foreground_for(
    recipe: Recipe, learned: Mapping[str, Learned], fields: Mapping[str, Field]
) -> Target | None:
    """What divides the metrics of a run's tasks into foreground and background, where one of them
    has such metrics."""
    found = foreground_of(fields, recipe.evaluate.foreground)
    return found if any(one.target.by_region for one in learned.values()) else None


def build_tasks(
    recipe: Recipe,
    learned: Mapping[str, Learned],
    *,
    total_steps: int,
    device: torch.device,
    size: tuple[int, int],
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> TaskSet:
    """Every task of a recipe, ready to train on pictures of this size (height, width).

    weights: state dicts to start from, by task. Raises ValueError naming the task and what is
    wrong. float32 is float32 on CUDA from now on, in all of the process.
    """
    exact_float32()
    tasks = []
    for name, settings in recipe.tasks.items():
        target, seed = learned[name].target, recipe.run.seed
        try:
            network = build_for(target.channels, settings.network, settings.options, init_seed=seed)
            if weights and name in weights:
                load_state(network, weights[name])
            task = build_task(
                name,
                settings,
                network,
                target,
                input=learned[name].input,
                total_steps=total_steps,
                seed=seed,
                device=device,
                precision=recipe.precision,
                micro_batch=recipe.micro_batch,
                norm_group=recipe.norm_group,
                channels_last=recipe.channels_last,
                compiled=recipe.compile,
                size=size,
            )
        except ValueError as error:
            raise ValueError(f"tasks.{name}: {error}") from error
        tasks.append(task)
    return TaskSet(tasks)


def load_state(network: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """The network has these weights; ValueError naming what does not fit."""
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ValueError(
            f"the weights are not of {type(network).__name__}: {' '.join(lines)[:300]}; "
            "name the network that they were saved from"
        ) from error
