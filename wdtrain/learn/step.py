"""The training step: one transaction over all tasks, micro-batches and ranks.

begin (the batch stays on the host), local (task by task and micro-batch by micro-batch: copy,
augment, forward, sum of per-sample losses, backward; no collective), agree (a few host numbers),
then commit (one flat reduction, divide by the samples of the whole batch that the task could learn
from, clip, optimize, BatchNorm statistics) or, for the tasks that ran out of memory on some rank,
the local part once more with smaller micro-batches. Until commit nothing outside the buffer has
changed, and no exception crosses the agreement: so no rank waits for another that has given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from wdtrain.learn.async_scalars import AsyncScalars
from wdtrain.learn.gradient_buffer import TaskGradients
from wdtrain.learn.groups import plan_few_sizes, plan_micro_batches
from wdtrain.learn.out_of_memory import DoesNotFit, OutOfMemory, record_history, release, try_to
from wdtrain.learn.prefetch import MicroBatch, Prefetcher
from wdtrain.learn.rows import Rows
from wdtrain.learn.step_clock import Stopwatch
from wdtrain.learn.task import Recovery, Task, TaskSet
from wdtrain.learn.view import Memo, View, autocast
from wdtrain.ranks.collective import Collective

Losses = dict[str, list[tuple[Sequence[str], Tensor]]]
"""By task, of every micro-batch: its keys, and the loss of each sample [n] on the device."""


@dataclass(frozen=True, kw_only=True)
class StepReading:
    """The numbers of a step, on the host. Losses: means over those samples of the whole batch that
    have a valid pixel for the task, on all ranks; a task without any took no step and is `idle`: it
    has neither loss nor gradient. skipped: the gradient was not finite."""

    losses: dict[str, float]
    grad_norms: dict[str, float]
    seconds: dict[str, float]
    skipped: bool = False
    idle: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did. `read` it one step later, so that the device is not waited for.

    samples: of the whole batch, over all ranks, 0 if the step was dropped; stop: some rank asked to
    stop, and the step was dropped; recoveries: from running out of
    memory, on any rank.
    """

    samples: int
    learning_rates: dict[str, float] = field(default_factory=dict)
    stop: bool = False
    recoveries: tuple[Recovery, ...] = ()
    scalars: AsyncScalars | None = field(default=None, repr=False)
    stopwatch: Stopwatch | None = field(default=None, repr=False)

    def read(self) -> StepReading:
        finite, *numbers = self.scalars.read() if self.scalars else [1.0]
        each = list(zip(self.learning_rates, *(numbers[n::3] for n in range(3)), strict=True))
        return StepReading(
            losses={name: loss for name, samples, loss, _ in each if samples},
            grad_norms={name: norm for name, samples, _, norm in each if samples},
            seconds=self.stopwatch.read() if self.stopwatch else {},
            skipped=not finite,
            idle=tuple(name for name, samples, _, _ in each if not samples),
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
) -> StepResult:
    """One optimizer step of every task on one batch; all ranks call it, an empty rank with no rows.

    stop_asked: looked at before each micro-batch and once at the end; if any rank says yes, every
    rank drops the step. A task that runs out of memory on any rank is done again on all, by the
    half of its micro-batch, which stays. Raises StepError after three steps in a row whose gradient
    was not finite, DoesNotFit where a single norm group is too much.
    """
    local = LocalPass(rows=rows, device=device, view=view, stop_asked=stop_asked)
    undone, recoveries = list(tasks), []
    while True:
        failures = {task.name: local.attempt(task, tasks.gradients_of(task)) for task in undone}
        lacking = [failures.get(task.name) is not None for task in tasks]
        with local.watch.part("sync"):
            stop, total, *lacking_ranks = collective.host_sum([stop_asked(), len(rows), *lacking])
        if stop:
            return StepResult(samples=0, stop=True, stopwatch=local.watch)
        undone = [task for task, ranks in zip(tasks, lacking_ranks, strict=True) if ranks]
        if not undone:
            break
        for task in undone:
            recovery = tasks.shrink(task, int(total), failures.get(task.name))
            if recovery is None:
                raise _refusal(local, task, tasks.gradients_of(task), failures.get(task.name))
            recoveries.append(recovery)
        release(device)
    tasks.settle()
    if total == 0:  # all of the batch was left out as damaged: a step that does nothing
        tasks.steps += 1
        return StepResult(samples=0, stopwatch=local.watch)
    with local.watch.part("sync"):
        collective.flat_sum(tasks.gradient_buffer.flat)
    with local.watch.part("optimizer"):
        scalars = commit(tasks, partial(suspects, local.losses))
    rates = {task.name: task.optimizer.param_groups[0]["lr"] for task in tasks}
    return StepResult(
        samples=int(total),
        learning_rates=rates,
        recoveries=tuple(recoveries),
        scalars=scalars,
        stopwatch=local.watch,
    )


def _refusal(
    local: LocalPass, task: Task, gradients: TaskGradients, out_of_memory: OutOfMemory | None
) -> DoesNotFit:
    """Why this was the last try. It is made once more, so that a snapshot of memory shows it."""
    record_history(local.device)
    again = local.attempt(task, gradients) or out_of_memory
    reason = again.message if again else "on another rank"
    return DoesNotFit(
        f"task {task.name!r} ran out of memory at its smallest micro-batch, one norm group of "
        f"{task.norm_group} samples, which goes through the network whole: {reason}",
        task.name,
    )


class LocalPass:
    """What one rank does alone in a step: it adds to the tasks' accounts and changes nothing else.

    losses: of what has been done so far.
    """

    def __init__(
        self,
        *,
        rows: Rows,
        device: torch.device,
        view: View,
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        self.rows, self.device, self.view, self.stop_asked = rows, device, view, stop_asked
        self.watch, self.prefetcher = Stopwatch(device), Prefetcher(device)
        self.memo, self.losses = Memo(rows), Losses()

    def attempt(self, task: Task, gradients: TaskGradients) -> OutOfMemory | None:
        """The rows' gradients, statistics and losses are in the task's gradients, or, where memory
        ran out, nothing is. No collective."""
        with self.watch.part("optimizer"):  # whose gradients are set to zero
            gradients.open()
        out_of_memory = try_to(lambda: self.run(task, gradients))
        if out_of_memory is not None:
            gradients.open()
            self.losses.pop(task.name, None)
        return out_of_memory

    def run(self, task: Task, gradients: TaskGradients) -> None:
        """Add the rows' gradients, statistics and losses to a task's gradients."""
        task.network.train()
        kept = self.losses[task.name] = []
        plan = plan_few_sizes if task.compiled else plan_micro_batches
        cuts = plan(self.rows.groups, task.micro_batch)
        arriving = self.prefetcher.micro_batches(self.rows, cuts, (task.input, task.target.name))
        for _ in cuts:
            if self.stop_asked():
                return
            with self.watch.part("copy"):
                micro = next(arriving)
            kept.append((micro.rows.keys, self._forward_backward(task, gradients, micro)))

    def _forward_backward(self, task: Task, gradients: TaskGradients, micro: MicroBatch) -> Tensor:
        """Loss of each sample [n] of a micro-batch, detached; all else goes to the buffer."""
        with self.watch.part("augment"):
            picture, stored = micro.arrived
            prepared = self.view.prepare(
                task.input, task.target, (picture, stored), micro.rows, self.memo
            )
        with self.watch.part("forward_backward"):
            part = micro.rows
            task.context.open(part.groups, part.group_epochs, part.group_ids)
            try:
                with autocast(self.device, self.view.precision):
                    output = task.network(prepared.picture).to(prepared.valid.dtype)
                losses = task.loss(output, prepared.target, prepared.valid)
                torch.autograd.backward(losses.sum())
                losses = losses.detach()
                gradients.add_losses(losses, prepared.valid)
            finally:
                task.context.close()
        return losses


def suspects(losses: Losses) -> list[str]:
    """Keys of the samples whose loss is not finite; of all samples if there are none."""
    pairs = [pair for of_task in losses.values() for pair in of_task]
    finite = [(keys, values.isfinite().tolist()) for keys, values in pairs]
    bad = {key for keys, fine in finite for key, ok in zip(keys, fine, strict=True) if not ok}
    return sorted(bad or {key for keys, _ in pairs for key in keys})


@torch.no_grad()
def commit(tasks: TaskSet, suspected: Callable[[], list[str]]) -> AsyncScalars:
    """The reduced buffer becomes a step of every optimizer, or of none if it is not finite.

    A task that no sample of the batch has anything for is left as it is: no decay, no momentum. The
    host learns of it one step later: nothing here waits for the device, or allocates more than a
    few numbers. Returns finite (1 or 0), then samples, loss and gradient norm of each task.
    """
    numbers, checks = [], []
    for task in tasks:
        gradients = tasks.gradients_of(task)
        divisor = gradients.samples.clamp(min=1)
        gradients.gradients.div_(divisor)
        norm = torch.linalg.vector_norm(gradients.gradients)
        numbers += [gradients.samples, gradients.loss_sum / divisor, norm]
        checks += [*numbers[-2:], gradients.statistics.sum()]
    finite = torch.isfinite(torch.stack(checks)).all()
    for index, task in enumerate(tasks):
        gradients = tasks.gradients_of(task)
        if task.max_grad_norm:
            scale = task.max_grad_norm / (numbers[3 * index + 2] + 1e-6)
            gradients.gradients.mul_(scale.clamp(max=1.0))
        task.schedule.step(tasks.steps)
        moves = finite & (gradients.samples > 0)
        task.move(moves)
        gradients.commit_statistics(moves)
    scalars = AsyncScalars([finite, *numbers])
    tasks.steps += 1
    tasks.committed(scalars, suspected)
    return scalars
