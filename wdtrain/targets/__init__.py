"""What a network learns of a field: truth and validity, losses, metrics, baselines, pictures.

Read `base.py` (what every target is), then one kind: `mask.py`, `classes.py`, `depth.py`. What they
share: `losses.py` (pure functions), `choice.py` (a loss by name or import path), `sums.py`,
`colouring.py`; `colour_threshold.py` is a mask's baseline, `metrics.py` all metrics by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wdtrain.fields import ClassesField, DepthField, Field, MaskField
from wdtrain.settings import imported
from wdtrain.targets.base import Target, Truth
from wdtrain.targets.classes import ClassesTarget
from wdtrain.targets.depth import DepthTarget
from wdtrain.targets.mask import MaskTarget

__all__ = ["TARGETS", "Target", "Truth", "foreground_of", "target_of"]

TARGETS: Final[Mapping[str, type[Target]]] = {
    MaskField.kind: MaskTarget,
    ClassesField.kind: ClassesTarget,
    DepthField.kind: DepthTarget,
}
"""What is learned of a field, by its kind."""


def target_of(field: Field, own: Mapping[str, str] | None = None) -> Target:
    """What is learned of a field; own: import paths of targets by kind, which come first.

    Raises ValueError for a kind that is seen and not learned, and for what is no target.
    """
    path = (own or {}).get(field.kind)
    kind = TARGETS.get(field.kind) if path is None else imported(path, f"targets.{field.kind}")
    if kind is None:
        raise ValueError(
            f"field {field.name} is of kind {field.kind}, of which nothing is known that a network "
            f"could learn; learned are {', '.join(TARGETS)}; a target of your own is named by "
            f"targets: {{{field.kind}: package.module:Class}}"
        )
    if not (isinstance(kind, type) and issubclass(kind, Target)):
        raise ValueError(
            f"targets.{field.kind} is {path}, which is no subclass of wdtrain.targets.Target"
        )
    return kind(field)


def foreground_of(fields: Mapping[str, Field], asked: str | None = None) -> Target | None:
    """The target that divides the metrics of others into foreground and background: the one of the
    field `asked` for, by default the only one that can. None where there is none, or several.

    Raises ValueError for a field that there is not, or that says nothing of foreground.
    """
    able = [field for field in fields.values() if _divides(field)]
    if asked is not None:
        able = [field for field in able if field.name == asked]
        if not able:
            there = ", ".join(f"{name} ({field.kind})" for name, field in fields.items())
            raise ValueError(
                f"evaluate.foreground is {asked!r}; a mask of the dataset is needed, which holds "
                f"{there}; name one, or leave it out"
            )
    return target_of(able[0]) if len(able) == 1 else None


def _divides(field: Field) -> bool:
    kind = TARGETS.get(field.kind)
    return kind is not None and kind.divides
