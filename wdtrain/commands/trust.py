"""The one gate before a recipe that comes out of a run's folder, for every tool that takes one.

A recipe is code: a network may be an import path, a value may be worked out from the environment.
One's own recipes may do that; a run folder may have come from anybody.
"""

from __future__ import annotations

import argparse
import re
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
    return load_recipe(path, [], inspect=None if trust else partial(_refuse_code, path))


def _refuse_code(path: Path, written: dict[str, Any]) -> None:
    """written: the keys of a recipe, flat, with their values as they are written."""
    for key, value in written.items():
        if "${" in f"{key}{value}":
            what = f"{key} is {value!r}, which is worked out when it is read"
        elif re.fullmatch(r"tasks\..+\.network", key) and ":" in str(value):
            what = f"{key} is {value!r}, which imports that module and runs it"
        else:
            continue
        raise RecipeError(
            f"{path}: {what}: a run from elsewhere could do anything here by that; look at it, "
            "and give --trust if you know where it comes from"
        )
