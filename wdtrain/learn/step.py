"""The training step: one transaction over all tasks, micro-batches and ranks.

begin (the batch stays on the host), local (task by task and micro-batch by micro-batch: copy,
augment, forward, sum of per-sample losses, backward; no collective), agree (a few host numbers),
commit (one flat reduction, divide by the samples of the whole batch, clip, optimize, BatchNorm
statistics). Until commit nothing outside the ledger has changed, so a step can be dropped, and its
local part repeated, at will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wdtrain.learn.clock import Stopwatch
from wdtrain.learn.collective import Collective
from wdtrain.learn.groups import plan_micro_batches
from wdtrain.learn.ledger import Account
from wdtrain.learn.rows import Rows
from wdtrain.learn.task import Task, TaskSet
from wdtrain.learn.view import View, autocast

MAX_SKIPS_IN_A_ROW = 3


class StepError(ValueError):
    """Training cannot go on: the message names the samples."""


@dataclass(frozen=True, kw_only=True)
class StepReading:
    """The numbers of a step, on the host. Losses: means over the whole batch and all ranks."""

    losses: dict[str, float]
    grad_norms: dict[str, float]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did. `read` it one step late, so that the device is not waited for.

    samples: of the whole batch, over all ranks, 0 if the step was dropped; skipped: the gradient
    was not finite; stop: some rank asked to stop, and the step was dropped; exhausted: no rank has
    data.
    """

    samples: int
    learning_rates: dict[str, float] = field(default_factory=dict)
    skipped: bool = False
    stop: bool = False
    exhausted: bool = False
    losses: dict[str, Tensor] = field(default_factory=dict, repr=False)
    grad_norms: dict[str, Tensor] = field(default_factory=dict, repr=False)
    stopwatch: Stopwatch | None = field(default=None, repr=False)

    def read(self) -> StepReading:
        return StepReading(
            losses={name: float(value) for name, value in self.losses.items()},
            grad_norms={name: float(value) for name, value in self.grad_norms.items()},
            seconds=self.stopwatch.read() if self.stopwatch else {},
        )


def never() -> bool:
    return False


def train_step(
    tasks: TaskSet,
    rows: Rows,
    *,
    device: torch.device,
    view: View,
    collective: Collective,
    stop_asked: Callable[[], bool] = never,
    exhausted: bool = False,
) -> StepResult:
    """One optimizer step of every task on one batch; all ranks call it, an empty rank with no rows.

    stop_asked: looked at before each micro-batch and once at the end; if any rank says yes, every
    rank drops the step. exhausted: this rank's data has ended. Raises StepError after three steps
    in a row whose gradient was not finite.
    """
    local = LocalPass(rows=rows, device=device, view=view, stop_asked=stop_asked)
    tasks.open()
    for task in tasks:
        local.run(task, tasks.account(task))
    with local.watch.part("sync"):
        stop, ended, total = collective.host_sum([stop_asked(), exhausted, len(rows)])
        if stop or ended == collective.world:
            return StepResult(samples=0, stop=stop > 0, exhausted=not stop, stopwatch=local.watch)
        if total == 0:  # all of the batch was left out as damaged: a step that does nothing
            tasks.steps += 1
            return StepResult(samples=0, stopwatch=local.watch)
        collective.flat_sum(tasks.ledger.flat)
    with local.watch.part("optimizer"):
        return _commit(tasks, int(total), local)


class LocalPass:
    """What one rank does alone in a step: it adds to the tasks' accounts and changes nothing else.

    losses: (keys, loss of each sample) of every micro-batch, on the device.
    """

    def __init__(
        self, *, rows: Rows, device: torch.device, view: View, stop_asked: Callable[[], bool]
    ) -> None:
        self.rows, self.device, self.view, self.stop_asked = rows, device, view, stop_asked
        self.watch = Stopwatch(device)
        self.losses: list[tuple[Sequence[str], Tensor]] = []

    def run(self, task: Task, account: Account) -> None:
        """Add the rows' gradients, statistics and losses to a task's account. No collective."""
        task.network.train()
        for first, last in plan_micro_batches(self.rows.groups, task.micro_batch):
            if self.stop_asked():
                return
            part = self.rows.part(first, last)
            losses = self._forward_backward(task, part)
            account.loss_sum.add_(losses.sum())
            self.losses.append((part.keys, losses))

    def _forward_backward(self, task: Task, part: Rows) -> Tensor:
        """Loss of each sample [n] of a micro-batch, detached; gradients go to the ledger."""
        with self.watch.part("copy"):
            overlay = part.overlay.to(self.device, non_blocking=True)
            stored = getattr(part, task.target).to(self.device, non_blocking=True)
        with self.watch.part("augment"):
            prepared = self.view.prepare(overlay, stored, task.target, part)
        with self.watch.part("forward_backward"):
            task.context.open(part.groups, part.group_epochs, part.group_ids)
            try:
                with autocast(self.device, self.view.precision):
                    output = task.network(prepared.picture).to(prepared.target.dtype)
                losses = task.loss(output, prepared.target, prepared.valid)
                torch.autograd.backward(losses.sum())
            finally:
                task.context.close()
        return losses.detach()

    def suspects(self) -> list[str]:
        """Keys of the samples whose loss is not finite; of all samples if there are none."""
        finite = [(keys, losses.isfinite().tolist()) for keys, losses in self.losses]
        bad = {key for keys, fine in finite for key, ok in zip(keys, fine, strict=True) if not ok}
        return sorted(bad or {key for keys, _ in self.losses for key in keys})


@torch.no_grad()
def _commit(tasks: TaskSet, total: int, local: LocalPass) -> StepResult:
    """The reduced ledger becomes a step of every optimizer, or of none if it is not finite."""
    norms, losses, checks = {}, {}, []
    for task in tasks:
        account = tasks.account(task)
        account.gradients.div_(total)
        norms[task.name] = torch.linalg.vector_norm(account.gradients)
        losses[task.name] = account.loss_sum[0] / total
        checks += [norms[task.name], losses[task.name], account.statistics.sum()]
    # The one wait for the device in a step: whether to step is decided on the host.
    finite = bool(torch.isfinite(torch.stack(checks)).all())
    rates = {task.name: task.schedule.step(tasks.steps) for task in tasks}
    tasks.steps += 1
    if finite:
        for task in tasks:
            account = tasks.account(task)
            if task.max_grad_norm:
                scale = task.max_grad_norm / (norms[task.name] + 1e-6)
                account.gradients.mul_(scale.clamp(max=1.0))
            task.optimizer.step()
            account.commit_statistics()
        tasks.skipped_in_a_row = 0
    else:
        _count_skip(tasks, local)
    return StepResult(
        samples=total,
        learning_rates=rates,
        skipped=not finite,
        losses=losses,
        grad_norms=norms,
        stopwatch=local.watch,
    )


def _count_skip(tasks: TaskSet, local: LocalPass) -> None:
    tasks.skipped += 1
    tasks.skipped_in_a_row += 1
    if tasks.skipped_in_a_row == MAX_SKIPS_IN_A_ROW:
        raise StepError(
            f"the gradient was not finite in {MAX_SKIPS_IN_A_ROW} steps in a row; nothing was "
            "learned from them, and nothing says that it will end; this rank suspects the samples "
            f"{local.suspects()}; look at them, lower the learning rate, or set optimizer.clip_norm"
        )
