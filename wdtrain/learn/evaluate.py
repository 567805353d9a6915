"""Evaluation: the network by its running statistics, without dropout, augmentation or gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from wdtrain.learn.inputs import Normalisation, unit_picture
from wdtrain.learn.out_of_memory import DoesNotFit, release, try_to
from wdtrain.learn.rows import Rows, StoredBatch, rows_of
from wdtrain.learn.task import Task
from wdtrain.learn.view import View, autocast
from wdtrain.networks import domain_of
from wdtrain.targets import Target


class _Position(Protocol):
    @property
    def position(self) -> int: ...


class StreamedBatch(StoredBatch, Protocol):
    """A batch that knows how far the whole job is after it."""

    @property
    def cursor(self) -> _Position: ...


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
    stored: Tensor,
    target: Target,
    *,
    normalisation: Normalisation,
    precision: str = "fp32",
) -> Tensor:
    """float32 [n, channels, h, w] of uint8 pictures [n, 3, h, w], on their device: soft predictions
    (probabilities of masks and classes, unit depth), which may be resized before `settle`."""
    picture = normalisation(unit_picture(stored))
    if precision == "fp64":
        picture = picture.double()
    with evaluating(network), autocast(stored.device, precision):
        output = network(picture)
    return target.soft(output.float(), domain_of(network))


def evaluate(task: Task, rows: Rows, *, device: torch.device, view: View) -> tuple[Tensor, Tensor]:
    """(settled predictions [n, k, h, w], loss of each sample [n]), floats as float32; never
    augmented."""
    arrived = rows[task.input].to(device), rows[task.target.name].to(device)
    prepared = view.prepare(task.input, task.target, arrived, rows)
    with evaluating(task.network):
        with autocast(device, view.precision):
            output = task.network(prepared.picture)
        output = output.to(prepared.valid.dtype)
        losses = task.loss(output, prepared.target, prepared.valid)
        settled = task.target.settle(task.target.soft(output, task.domain))
    return settled.float() if settled.is_floating_point() else settled, losses.float()


Predictions = dict[str, tuple[Tensor, Tensor]]
"""By task: settled predictions [n, k, h, w] and the loss of each sample [n], on the host."""


def _answers(task: Task, rows: Rows, view: View, at_once: dict[str, int]) -> tuple[Tensor, Tensor]:
    """A batch through the network, whose rows may be cut anywhere.

    at_once: samples, by task; halved where memory runs out. DoesNotFit where one is too much.
    """
    device = next(task.network.parameters()).device
    found: list[tuple[Tensor, Tensor]] = []
    while (start := sum(len(losses) for _, losses in found)) < len(rows):
        part = rows.part(start, min(start + at_once[task.name], len(rows)))
        out_of_memory = try_to(partial(_answer, task, part, device, view, found))
        if out_of_memory is None:
            continue
        release(device)
        if len(part) == 1:
            raise DoesNotFit(
                f"task {task.name!r} ran out of memory in an evaluation, with a single picture, "
                f"which is less than it trains on at once: {out_of_memory.message}; look at what "
                "else uses the device"
            )
        at_once[task.name] = len(part) // 2
    predictions, losses = zip(*found, strict=True)
    return torch.cat(predictions), torch.cat(losses)


def _answer(
    task: Task, rows: Rows, device: torch.device, view: View, found: list[tuple[Tensor, Tensor]]
) -> None:
    predictions, losses = evaluate(task, rows, device=device, view=view)
    found.append((predictions.cpu(), losses.cpu()))


Answered = tuple[StreamedBatch, Predictions]


def evaluate_batches(
    tasks: Iterable[Task],
    batches: Iterable[StreamedBatch],
    *,
    view: View,
    limit: int | None = None,
    keys: Set[str] | None = None,
) -> Iterator[Answered]:
    """Each batch with every task's answers; empty ones are left out, and those with none of `keys`.

    No more goes through a network at once than in training, and half of it where memory runs out.
    Stops after the batch that brings the job (not this rank) to `limit` samples.
    """
    tasks = list(tasks)
    at_once = {task.name: task.micro_batch for task in tasks}
    for batch in batches:
        if batch.keys and (keys is None or not keys.isdisjoint(batch.keys)):
            rows = rows_of(batch, 1)  # groups mean nothing without training
            yield batch, {task.name: _answers(task, rows, view, at_once) for task in tasks}
        if limit and batch.cursor.position >= limit:
            return
