"""The one gate before a recipe that comes out of a run's folder, for every tool that takes one.

A recipe is code: a network may be an import path, a value may be worked out from the environment.
One's own recipes may do that; a run folder may have come from anybody.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from wdtrain.config import Recipe, RecipeError, load_recipe


def add_trust(parser: argparse.ArgumentParser) -> None:
    """`--trust` is one of the options."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="the run is your own, or you have looked at its config.yaml: it may name code to "
        "import (package.module:Class), or read the environment",
    )


def load_run_recipe(folder: Path, *, trust: bool) -> Recipe:
    """The recipe that a run's folder holds. Unless `trust`, RecipeError where it would run code or
    read the environment, before anything of it is worked out."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise RecipeError(f"{folder} is not a run: it holds no config.yaml; name a run's folder")
    if trust:
        return load_recipe(path, [])
    from wdtrain.networks import NETWORKS  # here, since torch takes a second to import

    recipe = load_recipe(path, [], inspect=partial(_refuse_resolving, path))
    for key, named in _imports(recipe):
        if named not in NETWORKS:
            what = f"is {named!r}, which is imported and run if there is such a module"
            raise _untrusted(path, key, what)
    return recipe


def _imports(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The keys of a recipe that may name code, with what they name: every network, and all else
    that is an import path."""
    for name, task in recipe.tasks.items():
        yield f"tasks.{name}.network", task.network
        if ":" in task.loss_settings.name:
            yield f"tasks.{name}.loss", task.loss_settings.name
    for number, change in enumerate(recipe.augment.image):
        if ":" in change.name:
            yield f"augment.image[{number}]", change.name
    yield from ((f"targets.{kind}", path) for kind, path in recipe.targets.items())
    yield from ((f"data.kinds.{kind}", path) for kind, path in recipe.data.kinds.items())


def _refuse_resolving(path: Path, written: Any, key: str = "") -> None:
    """RecipeError where any key or value, at any depth, is worked out when it is read."""
    if isinstance(written, dict):
        for name, value in written.items():
            _refuse_resolving(path, str(name), "a key")
            _refuse_resolving(path, value, f"{key}.{name}".lstrip("."))
    elif isinstance(written, list):
        for value in written:
            _refuse_resolving(path, value, key)
    elif "${" in str(written):
        raise _untrusted(path, key, f"is {written!r}, which is worked out when it is read")


def _untrusted(path: Path, key: str, what: str) -> RecipeError:
    return RecipeError(
        f"{path}: {key} {what}: a run from elsewhere could do anything here by that; look at it, "
        "and give --trust if you know where it comes from"
    )
