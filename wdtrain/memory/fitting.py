"""Fits the tasks of a run to the memory of its device.

Owns the probes: real steps on pictures of noise, of which the planner asks for a few sizes. On
several ranks each probes its own device, and the smallest micro-batch counts for all. Also says
what would fit where nothing does. The surprise: a probe moves no weight and draws no chance, so a
run that was planned is, but for its cuts, the run that was not.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import psutil
import torch

from wdtrain.learn.compiling import uncompiled
from wdtrain.learn.evaluate import evaluate
from wdtrain.learn.out_of_memory import DoesNotFit, release, try_to
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import LocalPass
from wdtrain.learn.task import Task, TaskSet
from wdtrain.learn.view import View
from wdtrain.memory.estimate import footprint
from wdtrain.memory.planner import CannotFit, Choice, Probe, choose_micro_batch
from wdtrain.ranks.collective import Collective
from wdtrain.ranks.devices import indexed
from wdtrain.ranks.stopping import RunStopped, check_stop

_MORE_PASSES, _SHORT_SECONDS = 2, 0.1


class Gauge(Protocol):
    """What is measured of a device's memory. budget_bytes: what may be used of it."""

    budget_bytes: int

    def restart(self) -> None:
        """What is kept for later is given back; the peak is measured from here on."""
        ...

    def peak_bytes(self) -> int:
        """The most that was held since `restart`; waits for the device."""
        ...

    def now(self) -> float:
        """Seconds of a clock, when all that was asked of the device is done."""
        ...


class CudaGauge:
    """Of the allocator: what it holds is what its limit is about, not what tensors use of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device = indexed(device)
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.get_per_process_memory_fraction(device) * total
        # Others may hold a part of the device; what this process holds is its own to use again.
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        self.budget_bytes = int(min(allowed, free))

    def restart(self) -> None:
        release(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_reserved(self._device)

    def now(self) -> float:
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


def budget_bytes(device: torch.device) -> int:
    """What may be used of a device's memory: the allocator's limit, or what a host has to give."""
    if device.type == "cuda":
        return CudaGauge(device).budget_bytes
    used = psutil.Process().memory_info().rss
    most, _ = resource.getrlimit(resource.RLIMIT_DATA)
    free = int(used + psutil.virtual_memory().available)
    return free if most == resource.RLIM_INFINITY else min(free, int(most))


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What micro-batches are fitted to.

    view: as in training, its augmentation included; height, width in pixels; share: samples of the
    fullest rank's part of a batch; asked: whether to stop.
    """

    tasks: TaskSet
    view: View
    height: int
    width: int
    share: int
    device: torch.device
    collective: Collective
    asked: Callable[[], bool]

    @property
    def facts(self) -> dict[str, Any]:
        """What a choice depends on beside recipe and device, JSON-able; outputs: a pixel's, of
        each task, which follow from the dataset (of classes, how many it has)."""
        outputs = {task.name: task.target.channels for task in self.tasks}
        return {"share": self.share, "size": [self.height, self.width], "outputs": outputs}

    def fit(self, gauge: Gauge, known: Mapping[str, Choice] | None = None) -> dict[str, Choice]:
        """Every task has the fastest micro-batch under the budget, the same on all ranks.

        known: choices made for the same before; used if every rank has them. Raises DoesNotFit on
        all ranks where one norm group is too much on one of them, Stopped where one is asked to
        stop.
        """
        known = known or {}
        if self.collective.host_min([all(task.name in known for task in self.tasks)])[0]:
            choices = dict(known)
        else:
            choices = {task.name: self._choose(task, gauge) for task in self.tasks}
        for task in self.tasks:
            micro_batch = choices[task.name].micro_batch
            self.tasks.ask(task, int(self.collective.host_min([micro_batch])[0]))
        release(self.device)
        return choices

    def _choose(self, task: Task, gauge: Gauge) -> Choice:
        probe, choice, refusal = StepProbe(self, task, gauge), None, None
        before = task.micro_batch
        try:
            with uncompiled(task.compiled):  # each size that is tried would be a graph to keep
                choice = choose_micro_batch(
                    probe,
                    norm_group=task.norm_group,
                    share=self.share,
                    budget_bytes=gauge.budget_bytes,
                    largest_elements_per_sample=self._largest_elements(task),
                    compiled=task.compiled,
                )
        except CannotFit as error:
            refusal = error
        except RunStopped:
            pass  # reported to all just below
        finally:
            task.micro_batch = before
        check_stop(self.collective, self.asked)
        if self.collective.host_max([refusal is not None])[0]:
            why = str(refusal) if refusal else "on another rank one norm group does not fit"
            raise DoesNotFit(f"task {task.name!r}: {why}", task.name)
        assert choice is not None
        return choice

    def _largest_elements(self, task: Task) -> int:
        """Of the largest tensor of a pass, for a sample; 0 for a network that needs data to run."""
        try:
            return footprint(
                task, view=self.view, height=self.height, width=self.width, most=self.share
            ).largest_elements_per_sample
        except ValueError:
            return 0


class StepProbe:
    """Tries one task's step at a size: copy to backward, optimizer and evaluation."""

    def __init__(self, fitting: Fitting, task: Task, gauge: Gauge) -> None:
        self._fitting, self._task, self._gauge = fitting, task, gauge
        self._seconds = 0.0

    def __call__(self, micro_batch: int) -> Probe | None:
        """What it took; None where memory ran out. Raises Stopped if asked to stop."""
        if self._fitting.asked():
            raise RunStopped
        self._task.micro_batch = micro_batch
        rows = noise(self._fitting, self._task, micro_batch)
        out_of_memory = try_to(lambda: self._run(rows))
        self._fitting.tasks.gradients_of(self._task).open()  # nothing is left behind
        if out_of_memory is not None:
            release(self._fitting.device)
            return None
        return Probe(
            micro_batch=micro_batch,
            peak_bytes=self._gauge.peak_bytes(),
            seconds=self._seconds,
        )

    def _run(self, rows: Rows) -> None:
        fitting, task = self._fitting, self._task
        gradients = fitting.tasks.gradients_of(task)
        self._pass(rows)  # the first is slower: kernels are chosen
        self._gauge.restart()
        # The next one asks the device anew for what was given back just now; and a stall is none of
        # the device's. So the shortest counts, of two passes, or of more where they are short.
        self._seconds = min(self._pass(rows), self._pass(rows))
        if self._seconds < _SHORT_SECONDS:
            self._seconds = min(self._seconds, *(self._pass(rows) for _ in range(_MORE_PASSES)))
        nothing = torch.zeros((), dtype=torch.bool, device=fitting.device)
        task.move(nothing)
        gradients.commit_statistics(nothing)
        plain = replace(fitting.view, augmentation=None)
        evaluate(task, rows, device=fitting.device, view=plain)

    def _pass(self, rows: Rows) -> float:
        """Seconds from the copy to the end of the backward pass."""
        gradients = self._fitting.tasks.gradients_of(self._task)
        began = self._gauge.now()
        gradients.open()
        LocalPass(rows=rows, device=self._fitting.device, view=self._fitting.view).run(
            self._task, gradients
        )
        return self._gauge.now() - began


def noise(fitting: Fitting, task: Task, samples: int) -> Rows:
    """Stored samples of noise for a task, on the host, as a batch has them: page-locked for a
    GPU."""
    generator, size = torch.Generator().manual_seed(samples), (fitting.height, fitting.width)
    values = torch.randint(0, 256, (samples, 3, *size), dtype=torch.int32, generator=generator)
    fields = {
        task.input: values.to(torch.uint8).contiguous(memory_format=torch.channels_last),
        task.target.name: task.target.noise(samples, size, generator),
    }
    if fitting.device.type == "cuda":
        fields = {name: tensor.pin_memory() for name, tensor in fields.items()}
    group = task.norm_group
    return Rows(
        fields=fields,
        keys=[f"noise-{index}" for index in range(samples)],
        epochs=[0] * samples,
        groups=[group] * (samples // group),
        group_ids=list(range(0, samples, group)),
    )
