"""What the playground draws, by name: the classes of its label maps, and the field they make."""

from __future__ import annotations

from typing import Final

import numpy as np

from wdtrain.fields import ClassesField
from wdtrain.fields.mask import FOREGROUND

CLASSES: Final = ("floor", "wall", "ceiling", "ground", "sky", "ridge", "box", "figure")
"""In the order of their ids."""
LABELS: Final = ClassesField("labels", names=CLASSES)


def class_id(name: str) -> int:
    """The id that stands for a class in a label map, 0 to 7."""
    return CLASSES.index(name)


def label_map(background: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [h, w] ids: the figure where the mask has its foreground, as the depth is the figure's
    there too; elsewhere those of the background."""
    return np.where(mask >= FOREGROUND, np.uint8(class_id("figure")), background)
