"""A task: a network, what it learns, and by what; several tasks share one stream of batches.

`build_task` is where a network is made fit for the step and where impossible pairs are refused. A
`TaskSet` is the state that steps change: networks, optimizers, schedules, the gradient
buffer, micro-batches and a few counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wdtrain.config import TaskSettings
from wdtrain.learn.async_scalars import AsyncScalars
from wdtrain.learn.compiling import compile_network
from wdtrain.learn.convert import live_parameters, prepare_network
from wdtrain.learn.gradient_buffer import GradientBuffer, TaskGradients
from wdtrain.learn.groups import Context
from wdtrain.learn.optimize import LearningRate, build_optimizer, build_schedule, step_if
from wdtrain.learn.out_of_memory import OutOfMemory
from wdtrain.learn.rounding import keep_output_fine
from wdtrain.learn.trial import check_network, output_channels
from wdtrain.learn.view import PRECISIONS
from wdtrain.networks import domain_of
from wdtrain.targets import Target
from wdtrain.targets.choice import Loss, build_loss

MAX_SKIPS_IN_A_ROW = 3


class StepError(ValueError):
    """Training cannot go on: the message names the samples."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A task ran out of memory on some rank and was done again by smaller micro-batches.

    why: what this rank lacked; "" where only another rank did.
    """

    task: str
    before: int
    after: int
    why: str

    def __str__(self) -> str:
        lacked = f": {self.why}" if self.why else " on another rank"
        return (
            f"{self.task} ran out of memory{lacked}; the step was done again by micro-batches of "
            f"{self.after} instead of {self.before}, which stays"
        )


@dataclass(kw_only=True)
class Task:
    """One network in training. Build it with `build_task`.

    input: the image that the network sees; target: what it learns of which field; micro_batch: the
    most samples that go through the network at once, whole norm groups, smaller after each
    recovery; norm_group: samples that BatchNorm sees as one; max_grad_norm: the gradient is scaled
    down to this norm, 0 = off; compiled: by torch.compile.
    """

    name: str
    input: str
    target: Target
    network: nn.Module
    context: Context
    domain: str
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: LearningRate
    live: tuple[str, ...]
    micro_batch: int
    norm_group: int
    max_grad_norm: float = 0.0
    compiled: bool = False

    @property
    def live_parameters(self) -> list[nn.Parameter]:
        parameters = dict(self.network.named_parameters())
        return [parameters[name] for name in self.live]

    def move(self, finite: Tensor) -> None:
        """The weights take a step along their gradients, if these are `finite` (on the device)."""
        step_if(self.optimizer, finite)


def build_task(
    name: str,
    settings: TaskSettings,
    network: nn.Module,
    target: Target,
    *,
    input: str,
    total_steps: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    micro_batch: int = 32,
    norm_group: int = 1,
    channels_last: bool = True,
    compiled: bool = False,
    size: tuple[int, int] = (32, 32),
) -> Task:
    """A task whose network is on the device, converted by `prepare_network`, in training mode.

    settings: the loss, optimizer and schedule are built from it; input: the image that is seen;
    size: height and width of the dry passes that try the network out. Raises ValueError for
    unknown names, a loss on the wrong activation, a network that cannot keep the step's laws or
    gives other outputs than the target needs.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if micro_batch < 1:
        raise ValueError(f"micro_batch of task {name!r} is {micro_batch}; it must be at least 1")
    domain, asked = domain_of(network), settings.loss_settings
    loss = build_loss(asked.name, domain, target, asked.options)
    context = prepare_network(network, seed, name=name)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dtype = torch.float64 if precision == "fp64" else torch.float32
    network.to(device=device, dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    check_network(network, context, size=size)
    _check_channels(network, target, size)
    if precision == "bf16" and domain == "unit":
        keep_output_fine(network, size=size)
    live = live_parameters(network, *size)
    compile_network(network, when=compiled)
    parameters = dict(network.named_parameters())
    optimizer = build_optimizer(settings.optimizer, [parameters[path] for path in live])
    return Task(
        name=name,
        input=input,
        target=target,
        network=network.train(),
        context=context,
        domain=domain,
        loss=loss,
        optimizer=optimizer,
        schedule=build_schedule(settings.schedule, optimizer, total_steps=total_steps),
        live=tuple(live),
        micro_batch=micro_batch,
        norm_group=norm_group,
        max_grad_norm=settings.optimizer.clip_norm or 0.0,
        compiled=compiled,
    )


def _check_channels(network: nn.Module, target: Target, size: tuple[int, int]) -> None:
    """ValueError unless the network has as many outputs a pixel as the target needs."""
    found = output_channels(network, size)
    if found != target.channels:
        plural = "s" * (target.channels != 1)
        raise ValueError(
            f"network {type(network).__name__} has {found} output channels; "
            f"{target.name} ({target.field.kind}) needs {target.channels} output{plural} a pixel; "
            f"build it with {target.channels} (a constructor's out_channels is set by itself)"
        )


class TaskSet(Sequence[Task]):
    """The tasks of a run with what their steps sum up and count.

    steps: batches stepped on or skipped; skipped: those whose gradient was not finite;
    skipped_in_a_row; idle: by task, the steps that it did not take, as no sample of the batch had a
    valid pixel for it; all as of the last step that was settled.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        names = [task.name for task in tasks]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"the tasks are named {names}; one name each, and at least one task")
        self._tasks = list(tasks)
        self.gradient_buffer = GradientBuffer(
            {t.name: (t.network, t.live_parameters) for t in tasks}
        )
        self.steps = self.skipped = self.skipped_in_a_row = self.recoveries = 0
        self.idle = dict.fromkeys(names, 0)
        self._asked = {task.name: task.micro_batch for task in tasks}
        self._recovered: dict[str, tuple[int, int]] = {}
        self._unsettled: tuple[AsyncScalars, Callable[[], list[str]]] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        return self._tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def gradients_of(self, task: Task) -> TaskGradients:
        return self.gradient_buffer.task_gradients[task.name]

    def open(self) -> None:
        """Begin a step: whatever an earlier one left behind is dropped."""
        for task in self._tasks:
            self.gradients_of(task).open()

    def ask(self, task: Task, micro_batch: int) -> None:
        """From now on so many samples go through the task's network at once; fewer, if a run that
        asked for as many had to recover. Where more or less is asked for, that is tried."""
        asked, recovered = self._recovered.get(task.name, (0, 0))
        task.micro_batch = recovered if asked == micro_batch else micro_batch
        self._asked[task.name] = micro_batch

    def shrink(self, task: Task, most: int, out_of_memory: OutOfMemory | None) -> Recovery | None:
        """Half the micro-batch from now on, in whole norm groups; None where it is but one.

        most: samples of the whole batch: a larger micro-batch was never filled.
        """
        groups = min(task.micro_batch, most + task.norm_group - 1) // task.norm_group
        if groups <= 1:
            return None
        before, task.micro_batch = groups * task.norm_group, groups // 2 * task.norm_group
        self.recoveries += 1
        why = out_of_memory.message if out_of_memory else ""
        return Recovery(task=task.name, before=before, after=task.micro_batch, why=why)

    def committed(self, scalars: AsyncScalars, suspects: Callable[[], list[str]]) -> None:
        """A step was taken if its numbers are finite, which is known when they have arrived."""
        self._unsettled = (scalars, suspects)
        if self.gradient_buffer.flat.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """The last step is counted. Raises StepError after three in a row that were not finite."""
        if self._unsettled is None:
            return
        (scalars, suspects), self._unsettled = self._unsettled, None
        finite, *numbers = scalars.read()
        for name, samples in zip(self.idle, numbers[::3], strict=True):
            self.idle[name] += not samples
        if finite:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == MAX_SKIPS_IN_A_ROW:
            raise StepError(
                f"the gradient was not finite in {MAX_SKIPS_IN_A_ROW} steps in a row; nothing was "
                "learned from them, and nothing says that it will end; this rank suspects the "
                f"samples {suspects()}; look at them, lower the learning rate, or set "
                "optimizer.clip_norm"
            )

    def state_dict(self) -> dict[str, Any]:
        """What networks and optimizers do not hold: counters and schedules. JSON-able."""
        self.settle()
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "recoveries": self.recoveries,
            "idle": self.idle,
            "micro_batches": {t.name: [self._asked[t.name], t.micro_batch] for t in self._tasks},
            "schedules": {task.name: task.schedule.state_dict() for task in self._tasks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state["schedules"]) != {task.name for task in self._tasks}:
            raise ValueError(
                f"the saved state is of tasks {sorted(state['schedules'])}, this run has "
                f"{sorted(task.name for task in self._tasks)}; resume with the recipe it "
                "was saved by"
            )
        for task in self._tasks:
            task.schedule.load_state_dict(state["schedules"][task.name])
        self.steps, self.skipped = state["steps"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.recoveries = state.get("recoveries", 0)
        self.idle |= state.get("idle", {})
        self._recovered = state.get("micro_batches", {})
        for task in self._tasks:
            self.ask(task, self._asked[task.name])
