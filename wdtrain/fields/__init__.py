"""What a sample is made of: named fields, each of a kind, one file a kind.

Owns the kinds (`image`, `mask`, `classes`, `depth`), what their arrays mean, how a person's files
become them, how they are stored and brought to another size. numpy, no torch; stands on the ground.
Read `base.py` first, then one kind (`alpha_or_labels.py` is of masks); `resize.py` is the
arithmetic of areas; `jpeg.py`, `png.py` and `npy.py` are the members' bytes; `pictures.py` reads
what others wrote; `sample.py` is a sample on its way into a dataset.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, Final

from wdtrain.fields.base import Codec, Encoding, Field, Resizing, Value, check_name
from wdtrain.fields.classes import ClassesField
from wdtrain.fields.depth import DepthField
from wdtrain.fields.depth_format import DepthFormat
from wdtrain.fields.errors import FieldError, shown
from wdtrain.fields.image import ImageField
from wdtrain.fields.mask import MaskField
from wdtrain.fields.sample import Sample

__all__ = [
    "KINDS",
    "ClassesField",
    "Codec",
    "DepthField",
    "DepthFormat",
    "Encoding",
    "Field",
    "FieldError",
    "ImageField",
    "MaskField",
    "Resizing",
    "Sample",
    "Value",
    "declared",
    "from_dict",
    "kind_of",
    "register",
    "register_all",
    "triple_of",
]

KINDS: Final[dict[str, type[Field]]] = {
    kind.kind: kind for kind in (ImageField, MaskField, ClassesField, DepthField)
}
"""The kinds by name; `register` adds to them."""

_KIND: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH: Final = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def kind_of(name: str) -> type[Field]:
    """The class of a kind. FieldError, with the ways to name it, for one that is not known here:
    nothing is imported because a dataset says so."""
    if name not in KINDS:
        raise FieldError(
            f"the kind {shown(name)} is not known here; there are {', '.join(KINDS)}. Code is not "
            "imported because a dataset names it: give --kind "
            f"{name}=PACKAGE.MODULE:CLASS, or in a recipe data.kinds: "
            f"{{{name}: PACKAGE.MODULE:CLASS}}"
        )
    return KINDS[name]


def register(name: str, path: str) -> type[Field]:
    """The class at an import path ("package.module:Class") is known as kind `name` from here on.
    FieldError for one that is no field, or calls itself otherwise."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise FieldError(f"kind {name}: {path!r} is no import path; say package.module:Class")
    try:
        kind = getattr(importlib.import_module(found["module"]), found["name"])
    except (ImportError, AttributeError) as error:
        raise FieldError(f"kind {name}: {path} cannot be imported ({error})") from error
    if not isinstance(kind, type) or not issubclass(kind, Field):
        raise FieldError(f"kind {name}: {path} is no subclass of wdtrain.fields.Field")
    if getattr(kind, "kind", None) != name:
        raise FieldError(
            f"kind {name}: {path} calls itself {getattr(kind, 'kind', None)!r}; name it so"
        )
    if KINDS.get(name, kind) is not kind:
        raise FieldError(f"kind {name} is already {KINDS[name].__qualname__}; choose another name")
    KINDS[name] = kind
    return kind


def register_all(paths: Mapping[str, str]) -> None:
    """The kinds of a recipe (`data.kinds`): import paths by name."""
    for name, path in paths.items():
        register(name, path)


def from_dict(name: str, values: Mapping[str, Any]) -> Field:
    """The field that a manifest declares, of whichever kind. FieldError names what it cannot be."""
    check_name(name)
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise FieldError(f"field {name}: its kind is {shown(kind)}; {', '.join(KINDS)} are known")
    return kind_of(kind).from_dict(name, values)


def declared(name: str, kind: str, options: Mapping[str, str]) -> Field:
    """The field of `--field NAME=KIND:PATTERN,option=value...`."""
    return kind_of(kind).declared(name, options)


def triple_of(depth: DepthFormat) -> tuple[ImageField, MaskField, DepthField]:
    """The fields of the playground, of the composites and of version 1: in the order of members."""
    return (
        ImageField("overlay"),
        MaskField("mask"),
        DepthField("depth", format=depth, unit="codes"),
    )
