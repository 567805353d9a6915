"""`classes`: a logit for each class a pixel, of which the largest counts.

Truth is the id; `ignore`, and any id beyond the classes, is not valid. A warp takes the nearest
pixel: ids are never averaged. Metrics: IoU of each class pooled over all valid pixels, their mean
over the classes that occur in truth or prediction (mIoU), and the share of pixels that are right.
Baseline: the most frequent class of each pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wdtrain.fields import ClassesField, Field
from wdtrain.fields.png import encode_png
from wdtrain.targets.base import Baseline, Breakdown, LossFunction, MetricSums, Target, Truth, Warp
from wdtrain.targets.colouring import FALSE_ALARM, HIT, greyed, palette, tinted
from wdtrain.targets.losses import cross_entropy, cross_entropy_dice, focal
from wdtrain.targets.sums import ratio

MOST_COUNTS = 2**24
"""Numbers of a baseline, 128 MiB: beyond that, pixels share theirs with those around them."""


class ClassesTarget(Target):
    """Learns a `classes` field."""

    losses: ClassVar[Mapping[str, Mapping[str, LossFunction]]] = {
        "ce": {"logits": cross_entropy},
        "ce+dice": {"logits": cross_entropy_dice},
        "focal": {"logits": focal},
    }
    labels: ClassVar[Mapping[str, str]] = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
    higher = frozenset({"miou", "pixel_accuracy"})
    columns = ("miou", "pixel_accuracy")
    baseline_name = "most frequent class of each pixel"
    metric = "miou"

    def __init__(self, field: Field) -> None:
        assert isinstance(field, ClassesField)
        super().__init__(field)
        self.channels, self.ignore = field.classes, field.ignore
        self.names = field.names or tuple(map(str, range(field.classes)))

    def truth(self, stored: Tensor) -> Truth:
        ids = stored.to(torch.int64)
        valid = (ids < self.channels) & (ids != self.ignore)
        return Truth(torch.where(valid, ids, 0), valid.to(torch.float32))

    def warped(self, stored: Tensor, warp: Warp) -> Truth:
        """Of the nearest pixel."""
        truth = self.truth(warp.nearest(stored.to(torch.float32)))
        return Truth(truth.wanted, truth.valid * warp.inside)

    def noise(self, samples: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        shape = (samples, 1, *size)
        ids = torch.randint(0, self.channels, shape, dtype=torch.int32, generator=generator)
        return ids.to(torch.uint8 if self.field.dtype == np.uint8 else torch.uint16)

    def soft(self, output: Tensor, domain: str) -> Tensor:
        """Probabilities."""
        return output.softmax(1)

    def settle(self, soft: Tensor) -> Tensor:
        """int32 ids [n, 1, h, w]; of equal ones the smallest."""
        return soft.argmax(1, keepdim=True).to(torch.int32)

    def resized(self, soft: np.ndarray, resize: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The largest of the resized probabilities, one class at a time."""
        most = resize(soft[0])
        ids = np.zeros(most.shape, np.int32)
        for number, channel in enumerate(soft[1:], 1):
            share = resize(channel)
            ids[share > most] = number
            most = np.maximum(most, share)
        return ids[None]

    def sums(self) -> ClassesSums:
        return ClassesSums(self.names)

    def baseline(self, size: tuple[int, int]) -> ClassCounts:
        return ClassCounts(self.channels, *size, name=self.name)

    def breakdown(self, metrics: Mapping[str, float]) -> Breakdown | None:
        """IoU of each class."""
        found = {name: metrics.get(f"iou/{name}") for name in self.names}
        rows = {name: {"iou": value} for name, value in found.items() if value is not None}
        return Breakdown("By class, of those that occur", "class", rows)

    def colour(self, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """By the palette of PASCAL VOC."""
        return greyed(palette(self.channels)[values[0].astype(np.int64)], valid)

    def colour_error(
        self, picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray
    ) -> np.ndarray:
        """The input, darkened; what is right green, what is wrong red."""
        right = truth[0] == prediction[0]
        return greyed(tinted(picture, (right, HIT), (~right, FALSE_ALARM)), valid)

    def encode(self, prediction: np.ndarray) -> bytes:
        """Ids."""
        return encode_png(prediction[0].astype(self.field.dtype))


class ClassesSums(MetricSums):
    """Pixels of each class by truth, by prediction, and by both: whole numbers, exact to 2**53."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__((4, len(names)))
        self._names = names

    def update(
        self,
        prediction: Int[Tensor, "n 1 h w"],
        target: Int[Tensor, "n 1 h w"],
        valid: Bool[Tensor, "n 1 h w"] | None = None,
        foreground: Tensor | None = None,
        background: Tensor | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Adds n images of ids; returns miou and pixel_accuracy of each.

        An image without a valid pixel adds nothing and is NaN.
        """
        valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        both = valid & (prediction == target)
        counts = torch.stack(
            [self._counted(target, valid), self._counted(prediction, valid),
             self._counted(target, both)], 1
        )  # fmt: skip
        images = valid.flatten(1).any(1).sum()
        self._sums[:3] += counts.sum(0).to("cpu", torch.float64)
        self._sums[3, 0] += float(images)
        there, found, right = counts.to("cpu", torch.float64).unbind(1)
        ious = ratio(right, there + found - right, float("nan"))
        accuracy = ratio(right.sum(1), there.sum(1), float("nan"))
        return {"miou": ious.nanmean(1), "pixel_accuracy": accuracy}

    def result(self) -> dict[str, float]:
        """miou, pixel_accuracy, images, and iou/NAME of each class that occurs."""
        (there, found, right, (images, *_)), nan = self._sums, float("nan")
        ious = ratio(right, there + found - right, nan)
        occurring = {name: float(v) for name, v in zip(self._names, ious, strict=True) if v == v}
        return {
            "miou": float(ious.nanmean()),
            "pixel_accuracy": float(ratio(right.sum(), there.sum(), nan)),
            **{f"iou/{name}": value for name, value in occurring.items()},
            "images": float(images),
        }

    def _counted(self, ids: Tensor, where: Tensor) -> Tensor:
        """int64 [n, classes]: pixels of each id, of those where a bool [n, 1, h, w] is true."""
        samples, classes = len(ids), len(self._names)
        first = torch.arange(samples, device=ids.device)[:, None, None, None] * classes
        cells = (first + ids.to(torch.int64))[where]
        return torch.bincount(cells, minlength=samples * classes).reshape(samples, classes)


class ClassCounts(Baseline):
    """How often each pixel is of each class; where that is too much to keep, square cells of them.

    Whole numbers: the result does not depend on batches, ranks or order.
    """

    def __init__(self, classes: int, height: int, width: int, *, name: str = "classes") -> None:
        self._name, self._size, self._cell = name, (height, width), 1
        while classes * -(-height // self._cell) * -(-width // self._cell) > MOST_COUNTS:
            self._cell *= 2
        super().__init__((classes, -(-height // self._cell), -(-width // self._cell)))

    def update(self, picture: Tensor, truth: Truth) -> None:
        """Adds n samples where they are known."""
        classes, rows, columns = self._sums.shape
        height, width = self._size
        down = torch.arange(height, device=truth.wanted.device)[:, None] // self._cell
        across = torch.arange(width, device=truth.wanted.device) // self._cell
        cells = truth.wanted * (rows * columns) + (down * columns + across)
        counts = torch.bincount(cells[truth.known], minlength=classes * rows * columns)
        self._add(counts.reshape(classes, rows, columns))

    def fit(self) -> ConstantClasses:
        """The most frequent class of each pixel, of equal ones the smallest; of a pixel that was
        never known that of all. ValueError where nothing was known."""
        overall = self._sums.sum((1, 2))
        if not overall.any():
            raise ValueError(
                f"{self._name} of the first training samples is unknown everywhere, so a network "
                "would learn nothing of it; pack data with it, or train without it"
            )
        ids = torch.where(self._sums.sum(0) > 0, self._sums.argmax(0), overall.argmax())
        ids = ids.repeat_interleave(self._cell, 0).repeat_interleave(self._cell, 1)
        height, width = self._size
        return ConstantClasses(ids[None, :height, :width].to(torch.int32))


@dataclass(frozen=True)
class ConstantClasses:
    """The same ids [1, h, w] for every picture."""

    ids: Int[Tensor, "1 h w"]

    def predict(self, picture: Tensor) -> Tensor:
        return self.ids.to(picture.device).expand(len(picture), *self.ids.shape)
