"""The limit: the shortest loop by hand that does the same work, and accelerate's own way.

The same micro-batches, the same call of the augmentation for each task, the same losses with their
masks of valid pixels, the same autocast; but plain BatchNorm over the micro-batch, plain Dropout,
gradients where autograd puts them, and no logging, no agreement, no check of anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from steps.turn import Turn, wait_for
from steps.work import IMAGE, Learner, Work, arrive
from wdtrain.learn.inputs import TrainingInput
from wdtrain.learn.rows import Rows
from wdtrain.learn.view import autocast
from wdtrain.targets import Target

Prepare = Callable[[str, Target, tuple[Tensor, Tensor], Rows], TrainingInput]


def nothing(part: str) -> None:
    pass


class Bare:
    """One optimizer step of every network on a batch, task after task.

    prepare: from uint8 on the device to what a network sees; None: the work's own view.
    """

    def __init__(
        self, work: Work, *, prepare: Prepare | None = None, compiled: bool = False
    ) -> None:
        self.work, self.device = work, work.settings.device
        self.prepare = prepare or work.view.prepare
        self.learners = work.learners(compiled=compiled)
        self.losses: dict[str, Tensor] = {}

    def take(self, turn: Turn) -> None:
        for rows in turn:
            self.step(rows, nothing)

    def step(self, rows: Rows, mark: Callable[[str], None]) -> None:
        """mark: called with the name of each part at its end."""
        for learner in self.learners:
            total = torch.zeros((), device=self.device)
            for part in self.work.cut(rows):
                arrived = arrive(part, learner.target, self.device)
                mark("copy")
                prepared = self.prepare(IMAGE, learner.target, arrived, part)
                mark("augment")
                with autocast(self.device, self.work.settings.precision):
                    output = learner.network(prepared.picture).float()
                loss = learner.loss(output, prepared.target, prepared.valid).sum() / len(rows)
                mark("forward")
                torch.autograd.backward(loss)
                total += loss.detach()
                mark("backward")
            learner.optimizer.step()
            learner.optimizer.zero_grad(set_to_none=True)
            self.losses[learner.target.name] = total
            mark("optimizer")


class BareByPart(Bare):
    """The same loop with a look at the clock, and a wait for the device, after each part."""

    def take(self, turn: Turn) -> None:
        for rows in turn:
            spent = dict.fromkeys(("copy", "augment", "forward", "backward", "optimizer"), 0.0)
            since = time.perf_counter()

            def mark(part: str, spent: dict[str, float] = spent) -> None:
                nonlocal since
                wait_for(self.device)
                now = time.perf_counter()
                spent[part] += now - since
                since = now

            self.step(rows, mark)
            turn.readings.append(spent)


def unaugmented(work: Work) -> Prepare:
    """Float and normalised in three operations, as one writes it by hand."""
    device, normalisation = work.settings.device, work.view.normalisations[IMAGE]
    mean = 255.0 * torch.tensor(normalisation.mean, device=device)[:, None, None]
    scale = 1.0 / (255.0 * torch.tensor(normalisation.std, device=device)[:, None, None])

    def prepare(
        image: str, target: Target, arrived: tuple[Tensor, Tensor], rows: Rows
    ) -> TrainingInput:
        stored, learned = arrived
        return TrainingInput.of(stored.float().sub_(mean).mul_(scale), target.truth(learned))

    return prepare


class Accelerated:
    """accelerate as its documentation has it: prepare, accumulate, backward, step.

    Its own autocast wraps the prepared networks. Batches are not prepared: they lie in memory.
    """

    def __init__(self, work: Work, accelerator: Accelerator) -> None:
        self.work, self.accelerator, self.device = work, accelerator, work.settings.device
        self.learners = [
            Learner(one.target, network, one.loss, optimizer)
            for one in work.learners()
            for network, optimizer in [accelerator.prepare(one.network, one.optimizer)]
        ]
        self.networks = [learner.network for learner in self.learners]
        self.losses: dict[str, Tensor] = {}

    def take(self, turn: Turn) -> None:
        for rows in turn:
            for part in self.work.cut(rows):
                with self.accelerator.accumulate(*self.networks):
                    for learner in self.learners:
                        self._micro_step(learner, part)

    def _micro_step(self, learner: Learner, part: Rows) -> None:
        arrived = arrive(part, learner.target, self.device)
        prepared = self.work.view.prepare(IMAGE, learner.target, arrived, part)
        output = learner.network(prepared.picture)
        loss = learner.loss(output, prepared.target, prepared.valid).mean()
        self.accelerator.backward(loss)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        self.losses[learner.target.name] = loss.detach()
