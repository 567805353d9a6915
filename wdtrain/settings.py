"""What fields of a recipe are made of: sizes and shares as people write them ("20GiB", 0.9), with
one parser for every key that takes one; and all fields in a row, by their dotted names."""

from __future__ import annotations

import importlib
import json
import re
from typing import Annotated, Any, TypeGuard, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, BeforeValidator

from wdtrain.fields.resize import size_for

_TEXTS = ("run.folder", "data.url", "data.cache")
"""Keys whose value on a command line is a text, also where it looks like a number."""
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class RecipeError(ValueError):
    """A recipe that cannot be run: names the key, what was found and what would work."""


def parse_bytes(text: int | str) -> int:
    """Bytes of "20GiB", "512 MiB", "1.5TB" or a whole number of them; always above 0.

    Raises ValueError, which names no key, for anything else.
    """
    size = re.fullmatch(r"(\d+)(\.\d+)? ?([A-Za-z]*)", str(text).strip())
    unit = _UNITS.get(size[3]) if size else None
    if size is None or unit is None or (size[2] and unit == 1):
        raise ValueError(
            f"{text!r} is no size; write a whole number of bytes, or a unit, as in 20GiB or 512MiB"
        )
    count = int(size[1]) * unit + int(float(size[2] or 0) * unit)
    if count < 1:
        raise ValueError(f"{text!r} is no size: it must be above 0, as in 20GiB or 512MiB")
    return count


def parse_memory(value: float | str) -> float | int:
    """A share of a device, a float above 0 up to 1; or a size, a whole number of bytes."""
    try:
        share = float(value)
    except ValueError:
        return parse_bytes(str(value))
    if not 0 < share <= 1:
        raise ValueError(f"{value!r} is neither a share above 0 up to 1, nor a size like 8GiB")
    return share


def _size(value: int | str) -> int | str:
    parse_bytes(value)
    return value


def _memory(value: float | str) -> float | str:
    parse_memory(value)
    return value


def _side(value: Any) -> Any:
    if value is not None and min(size_for((1, 1), value)) < SMALLEST_SIDE:
        raise ValueError(f"no side may be below {SMALLEST_SIDE} pixels")
    return value


SMALLEST_SIDE = 16
"""Pixels: networks halve a picture four times."""

PixelSize = Annotated[int | tuple[int, int] | None, BeforeValidator(_side)]
"""A field of a recipe for `resize.size_for`: the shorter side, or height and width."""
ByteSize = Annotated[int | str, AfterValidator(_size)]
"""A field of a recipe for `parse_bytes`, kept as it was written."""
MemoryShare = Annotated[float | str, AfterValidator(_memory)]
"""A field of a recipe for `parse_memory`, kept as it was written."""


def overrides_of(overrides: list[str]) -> DictConfig:
    """What `key=value` words of a command line set; RecipeError for one that is none."""
    for override in overrides:
        if not re.fullmatch(r"[\w.\-]+=.*", override, re.DOTALL):
            raise RecipeError(f"{override!r} is not of the form key=value, as in train.steps=100")
    given = OmegaConf.from_dotlist(overrides)
    for key, text in (override.split("=", 1) for override in overrides):
        read = OmegaConf.select(given, key) if key in _TEXTS else None
        if isinstance(read, bool | int | float):  # 007, 1e3 and yes are folders too
            OmegaConf.update(given, key, text)
    return given


def without_replaced(
    section: type[BaseModel], loaded: DictConfig, given: DictConfig, prefix: str = ""
) -> DictConfig:
    """What a recipe's file holds, without keys whose alternative (`Section.either`) is set on the
    command line: the words there take their place."""
    either = getattr(section, "either", ())
    if any(OmegaConf.select(given, prefix + key) is not None for key in either):
        replaced = OmegaConf.create({})
        for key in either:
            OmegaConf.update(replaced, prefix + key, None)
        loaded = DictConfig(OmegaConf.merge(loaded, replaced))
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            loaded = without_replaced(field.annotation, loaded, given, f"{prefix}{name}.")
    return loaded


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_keys(section: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, description) of every field, tasks as `tasks.NAME`."""
    rows = []
    for name, field in section.model_fields.items():
        key = prefix + name
        inner = field.annotation
        if get_origin(inner) is dict and _is_section(get_args(inner)[1]):
            key, inner = f"{key}.NAME", get_args(inner)[1]
        if _is_section(inner):
            rows += recipe_keys(inner, key + ".")
            continue
        default = "needed" if field.is_required() else json.dumps(field.default)
        rows.append((key, default, field.description or ""))
    return rows


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def imported(path: str, what: str) -> Any:
    """What an import path "package.module:name" names; ValueError, which says `what` was asked for,
    where Python finds no such thing."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} cannot be imported ({error}); say 'package.module:name' of something that "
            "Python finds from here"
        ) from error
