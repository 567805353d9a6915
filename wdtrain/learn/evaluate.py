"""Evaluation: the network by its running statistics, without dropout, augmentation or gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from wdtrain.learn.groups import plan_micro_batches
from wdtrain.learn.losses import to_unit
from wdtrain.learn.networks import domain_of
from wdtrain.learn.rows import Rows, StoredBatch, rows_of
from wdtrain.learn.targets import Normalisation, unit_overlay
from wdtrain.learn.task import Task
from wdtrain.learn.view import View, autocast


class Position(Protocol):
    @property
    def position(self) -> int: ...


class StreamedBatch(StoredBatch, Protocol):
    """A batch that knows how far the whole job is after it."""

    @property
    def cursor(self) -> Position: ...


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the network is in the mode it was in."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def predict(
    network: nn.Module,
    overlay: Tensor,
    *,
    normalisation: Normalisation,
    precision: str = "fp32",
) -> Tensor:
    """float32 [n, 1, h, w] in 0..1 of a uint8 overlay [n, 3, h, w], on the overlay's device.

    A mask network's logits become probabilities; a depth network's values are clipped to 0..1.
    """
    picture = normalisation(unit_overlay(overlay))
    if precision == "fp64":
        picture = picture.double()
    with evaluating(network), autocast(overlay.device, precision):
        output = network(picture)
    return to_unit(output.float(), domain_of(network))


def evaluate(task: Task, rows: Rows, *, device: torch.device, view: View) -> tuple[Tensor, Tensor]:
    """(predictions in 0..1 [n, 1, h, w], loss of each sample [n]), float32, never augmented."""
    overlay = rows.overlay.to(device)
    stored = getattr(rows, task.target).to(device)
    prepared = view.prepare(overlay, stored, task.target, rows)
    with evaluating(task.network):
        with autocast(device, view.precision):
            output = task.network(prepared.picture)
        output = output.to(prepared.target.dtype)
        losses = task.loss(output, prepared.target, prepared.valid)
    return to_unit(output, task.domain).float(), losses.float()


Answers = dict[str, tuple[Tensor, Tensor]]
"""By task: predictions in 0..1 [n, 1, h, w] and the loss of each sample [n], on the host."""


def _answers(task: Task, rows: Rows, view: View) -> tuple[Tensor, Tensor]:
    """A batch through the network, no more at once than in training."""
    device = next(task.network.parameters()).device
    found = [
        evaluate(task, rows.part(first, last), device=device, view=view)
        for first, last in plan_micro_batches(rows.groups, task.micro_batch)
    ]
    predictions, losses = zip(*found, strict=True)
    return torch.cat(predictions).cpu(), torch.cat(losses).cpu()


Answered = tuple[StreamedBatch, Answers]


def evaluate_batches(
    tasks: Iterable[Task],
    batches: Iterable[StreamedBatch],
    *,
    view: View,
    limit: int | None = None,
) -> Iterator[Answered]:
    """Each batch with every task's answers; empty ones are left out.

    Stops after the batch that brings the job (not this rank) to `limit` samples.
    """
    tasks = list(tasks)
    for batch in batches:
        if batch.keys:
            rows = rows_of(batch, max(batch.chunks))  # groups mean nothing without training
            answers = {}
            for task in tasks:
                answers[task.name] = _answers(task, rows, view)
            yield batch, answers
        if limit and batch.cursor.position >= limit:
            return
