"""What the playground draws, by name: the classes of its label maps, in the order of their ids."""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("floor", "wall", "ceiling", "ground", "sky", "ridge", "box", "figure")


def class_id(name: str) -> int:
    """The id that stands for a class in a label map, 0 to 7."""
    return CLASSES.index(name)
