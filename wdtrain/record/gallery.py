"""The pictures of a finished run: its best, middle and worst samples of one split, by task."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wdtrain.record.glyphs import number
from wdtrain.record.picture_grid import Example, picture_grid, save_png
from wdtrain.record.ranking import DRAWN
from wdtrain.record.scores import SplitScores, Stored, TaskScores
from wdtrain.targets import Truth
from wdtrain.targets.metrics import label

_Predictions = Mapping[str, tuple[Tensor, Tensor]]
"""By task: settled predictions [n, k, h, w] and the loss of each sample [n]."""
Ranked = dict[str, list[tuple[str, float]]]


class Gallery:
    """Knows by the scores which samples to show, is given their predictions, and saves grids."""

    def __init__(self, scores: SplitScores, gather: Callable[[Any], list[Any]]) -> None:
        """All ranks make it; `gather` gives the values of all ranks."""
        self.split, self._tasks = scores.name, scores.tasks
        self._drawn: dict[str, int] = {}
        self.ranked: dict[str, Ranked] = {}
        for task, one in scores.tasks.items():
            one.ranking.gather(gather)
            self.ranked[task] = one.ranking.result()
            if not one.ranking.is_exact:
                self._drawn[task] = DRAWN
        self._gather = gather
        self._examples: dict[tuple[str, str], Example] = {}

    @property
    def keys(self) -> set[str]:
        """Of all samples that are to be shown."""
        groups = (group for ranked in self.ranked.values() for group in ranked.values())
        return {key for group in groups for key, _ in group}

    def fill(self, answered: Iterable[tuple[Stored, _Predictions]]) -> None:
        """Takes this rank's batches with their answers; every rank has what all have found."""
        for batch, answers in answered:
            self.add(answers, batch)
        self._examples = dict(ChainMap(*self._gather(self._examples)))

    def add(self, answers: _Predictions, batch: Stored) -> None:
        """By task, the predictions [n, k, h, w] of a batch; those that are shown are kept."""
        for task, (prediction, _) in answers.items():
            one = self._tasks[task]
            truth = one.target.truth(batch.fields[one.target.name])
            shown = {key: score for group in self.ranked[task].values() for key, score in group}
            for row, key in enumerate(batch.keys):
                if key in shown:
                    picture, answer = batch.fields[one.input][row], prediction[row]
                    pictures = _drawn(one, picture, truth[row : row + 1], answer)
                    score = f"{label(one.sample_metric)} {number(shown[key])}"
                    self._examples[task, key] = Example(key=key, pictures=pictures, score=score)

    def save(self, folder: Path) -> tuple[dict[str, object], dict[str, dict[str, str]]]:
        """(samples, grids) as `write_report` takes them; the PNGs lie in `folder`/report."""
        samples: dict[str, object] = {}
        grids: dict[str, dict[str, str]] = {}
        for task, ranked in self.ranked.items():
            drawn = {"drawn": self._drawn[task]} if task in self._drawn else {}
            samples[task] = {"metric": self._tasks[task].sample_metric, **drawn, **ranked}
            grids[task] = self._save_task(task, ranked, folder)
        return samples, grids

    def _save_task(
        self, task: str, ranked: Mapping[str, list[tuple[str, float]]], folder: Path
    ) -> dict[str, str]:
        saved = {}
        for group, members in ranked.items():
            examples = [self._examples.get((task, key)) for key, _ in members]
            found = [example for example in examples if example is not None]
            if found:
                name = f"report/{task}-{group}.png"
                title = f"{task}, {group} of {self.split}"
                save_png(folder / name, picture_grid(found, title=title))
                saved[title] = name
        return saved


def _drawn(
    task: TaskScores, picture: Tensor, truth: Truth, prediction: Tensor
) -> tuple[np.ndarray, ...]:
    """Input, truth, prediction and error of one sample, uint8 [h, w, 3] each."""
    target, valid = task.target, truth.known[0, 0].cpu().numpy()
    seen = picture.permute(1, 2, 0).cpu().numpy()
    wanted, found = truth.wanted[0].cpu().numpy(), prediction.cpu().numpy()
    error = target.colour_error(seen, wanted, found, valid)
    return seen, target.colour(wanted, valid), target.colour(found), error
