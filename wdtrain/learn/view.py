"""How stored samples become what a network sees, in training or in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from wdtrain.learn.augment import Augmentation, AugmentedBatch
from wdtrain.learn.inputs import Normalisation, TrainingInput, unit_picture
from wdtrain.learn.rows import Rows
from wdtrain.targets import Target, Truth

PRECISIONS = ("fp32", "bf16", "fp64")
"""bf16: float32 parameters, bfloat16 autocast; fp64: everything, for tests."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """What a forward pass runs under."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class Memo:
    """What a rank sees of its part of a batch, prepared once for all tasks and micro-batches.

    Only where that part is small: memory must not grow with the batch.
    """

    MOST_BYTES = 16 * 2**20

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._seen: dict[str, tuple[AugmentedBatch, int]] = {}
        self._truths: dict[tuple[str, str], Truth] = {}
        self._starts = dict(zip(rows.group_ids, accumulate([0, *rows.groups]), strict=False))

    def recall(
        self,
        part: Rows,
        image: str,
        target: Target,
        see: Callable[[str, Tensor, Rows], AugmentedBatch],
        device: torch.device,
    ) -> TrainingInput:
        """Some of the rows: views. The picture is made anew after a network has written into it."""
        seen, version = self._seen.get(image, (None, 0))
        if seen is None or seen.picture._version != version:
            seen = see(image, self._rows.copy(self._rows[image], device), self._rows)
            self._seen[image] = seen, seen.picture._version
        truth = self._truths.get((image, target.name))
        if truth is None:
            stored = self._rows.copy(self._rows[target.name], device)
            truth = self._truths[image, target.name] = seen.truth(stored, target)
        start = self._starts[part.group_ids[0]]
        rows = slice(start, start + len(part))
        return TrainingInput.of(seen.picture[rows], truth[rows])

    def is_small(self, image: str) -> bool:
        return 4 * self._rows[image].nbytes <= self.MOST_BYTES  # float32


@dataclass(frozen=True, kw_only=True)
class View:
    """How stored samples become what a network sees; augmentation None: as in evaluation.

    normalisations: of each image, by its name.
    """

    normalisations: Mapping[str, Normalisation]
    augmentation: Augmentation | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
            )

    def augmented(self, augmentation: Augmentation) -> View:
        """This view, in training."""
        return replace(self, augmentation=augmentation)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: how pictures were prepared, which a prediction needs to know."""
        images = {
            name: {"mean": list(one.mean), "std": list(one.std)}
            for name, one in self.normalisations.items()
        }
        return {"normalisations": images, "precision": self.precision}

    def prepare(
        self,
        image: str,
        target: Target,
        arrived: tuple[Tensor, Tensor],
        rows: Rows,
        memo: Memo | None = None,
    ) -> TrainingInput:
        """The image and truth of rows, of which both have `arrived` on the device as stored;
        float64 in fp64, else float32. memo: what the tasks of a step have prepared so far."""
        picture, stored = arrived
        if self.augmentation is None:
            normal = self.normalisations[image](unit_picture(picture))
            prepared = TrainingInput.of(normal, target.truth(stored))
        elif memo is not None and memo.is_small(image):
            prepared = memo.recall(rows, image, target, self._see, picture.device)
        else:
            seen = self._see(image, picture, rows)
            prepared = TrainingInput.of(seen.picture, seen.truth(stored, target))
        return prepared.to(torch.float64) if self.precision == "fp64" else prepared

    def _see(self, image: str, picture: Tensor, rows: Rows) -> AugmentedBatch:
        assert self.augmentation is not None
        return self.augmentation.see(
            picture,
            keys=rows.keys,
            epochs=rows.epochs,
            normalisation=self.normalisations[image],
            groups=rows.group_rows,
        )


class Statistics(Protocol):
    """A dataset, as far as its images are normalised by it."""

    def mean_and_std(self, image: str) -> tuple[Sequence[float], Sequence[float]]: ...


def plain_view(dataset: Statistics, images: Iterable[str], precision: str) -> View:
    """The view of evaluation: each image normalised by its own channel means and deviations."""
    normalisations = {name: Normalisation(*dataset.mean_and_std(name)) for name in images}
    return View(normalisations=normalisations, precision=precision)
