"""How much memory a step takes on a device that is not here: an estimate, and shown as one.

A task's own local pass runs on the meta device under a `Meter`, which gives its `Footprint`; from
the footprints of all tasks and a budget follows the largest micro-batch of each. The surprise: a
pass over 8,192 samples costs no more than one over 32, so a footprint is known up to the batch and
never extrapolated.

Beside the CPU allocator's own record the peak of a pass was 6 % too low to 5 % too high for the
seed networks in float32 and bfloat16 (`benchmarks/estimate.py`). No GPU has been compared; what one
adds is not in it: workspaces of cuDNN and what other kernels take for themselves, rounding and
fragmentation of the caching allocator. `MARGIN` is for these. Evaluation takes less than training,
the optimizer works in place, and `torch.compile`, whose kernels keep less, is left out.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wdtrain.learn.gradient_buffer import TaskGradients
from wdtrain.learn.out_of_memory import DoesNotFit
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import LocalPass
from wdtrain.learn.task import Task, TaskSet
from wdtrain.learn.view import View
from wdtrain.memory.intensity_memory import with_measured_intensities
from wdtrain.memory.metering import META_DEVICE, Casts, Meter, allocated

MARGIN = 0.1
"""Share of a budget that is left to what a GPU adds to the estimate."""
INDEX_LIMIT = 2**31
"""Elements of one tensor from which 32-bit indices in kernels no longer reach."""
_GROUPS = 4
"""Norm groups of a large pass: memory does not depend on how many there are, time does."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a task takes of a device.

    fixed_bytes: weights, buffers, gradients and optimizer state, resident all the time; passes:
    (samples, bytes at the peak of a pass, above what is resident) by rising samples, the first of
    one norm group; largest_elements_per_sample: of the largest tensor of a pass.
    """

    fixed_bytes: int
    passes: tuple[tuple[int, int], ...]
    largest_elements_per_sample: int

    @property
    def norm_group(self) -> int:
        return self.passes[0][0]

    @property
    def bytes_per_sample(self) -> float:
        """What one more sample takes in a large pass."""
        (few, less), (many, more) = self.passes[-2:]
        return (more - less) / (many - few)

    def pass_bytes(self, samples: int) -> int:
        """The peak of one forward and backward of so many samples, above what is resident.

        Between two passes by the line through them, which is above the truth: a peak is the
        highest of many moments, each of which grows in a line. Below one norm group in proportion,
        which is right where activations are the most of it.
        """
        group, one = self.passes[0]
        if samples < group:
            return -(-one * samples // group)
        counts = [count for count, _ in self.passes]
        upper = min(max(1, bisect_left(counts, samples)), len(counts) - 1)
        (few, less), (many, more) = self.passes[upper - 1 : upper + 1]
        return less - (less - more) * (samples - few) // (many - few)


def footprint(task: Task, *, view: View, height: int, width: int, most: int) -> Footprint:
    """The footprint of a task for pictures of this size, in pixels; the task stays as it was.

    view: as in training, its augmentation included; most: samples of a rank's part of a batch, up
    to which passes are tried, each twice the one before. Takes about 0.1 s a pass, on the host.
    Raises ValueError for a network that cannot run without data.
    """
    view = with_measured_intensities(view, task.norm_group, (height, width))
    tasks = TaskSet([_on_meta(task, view)])
    # A float32 pass under casts of our own: see `Casts`.
    view = replace(view, precision="fp32") if view.precision == "bf16" else view
    meters, samples = [], task.norm_group
    while True:
        meters.append((samples, _measured(tasks, view, samples, (height, width))))
        # A tensor that is as large in a pass of another size is no activation but a weight.
        growing = meters[-1][1].sizes - meters[0][1].sizes
        largest = -(-max(growing, default=0) // samples)
        if len(meters) > 1 and (samples >= most or samples * largest >= INDEX_LIMIT):
            return Footprint(
                fixed_bytes=_resident_bytes(task),
                passes=tuple((count, meter.peak_bytes) for count, meter in meters),
                largest_elements_per_sample=largest,
            )
        samples *= 2


def largest_micro_batches(
    footprints: Mapping[str, Footprint], budget_bytes: int, *, most: int, margin: float = MARGIN
) -> dict[str, int]:
    """The most samples of each task that fit at once, in whole norm groups.

    budget_bytes: what the allocator may hold; `margin` of it stays free; most: samples of a rank's
    part of a batch. Raises DoesNotFit where a single norm group is too much.
    """
    allowed = int(budget_bytes * (1 - margin))
    fixed = sum(each.fixed_bytes for each in footprints.values())
    found = {}
    for name, each in footprints.items():
        group, per_group = each.norm_group, each.norm_group * each.largest_elements_per_sample
        indexed = (INDEX_LIMIT - 1) // max(1, per_group)
        if indexed == 0:
            raise DoesNotFit(
                f"a tensor of task {name!r} has {per_group:,} elements for one norm group of "
                f"{group} samples; kernels count to {INDEX_LIMIT - 1:,}; choose a smaller "
                "step.norm_group or data.size"
            )
        sizes = range(group, min(indexed, -(-most // group)) * group + 1, group)
        fitting = bisect_right(sizes, allowed - fixed, key=each.pass_bytes)
        if fitting == 0:
            raise DoesNotFit(
                f"task {name!r} needs about {gib(each.pass_bytes(group))} for one norm group of "
                f"{group} samples, beside {gib(fixed)} that the tasks hold all the time, and "
                f"{gib(allowed)} may be used ({gib(budget_bytes)} less {margin:.0%}); a group goes "
                "through a network whole; choose a smaller step.norm_group, data.size or network, "
                "or a larger device"
            )
        found[name] = sizes[fitting - 1]
    return found


def explain_footprint(
    footprints: Mapping[str, Footprint],
    micro_batches: Mapping[str, int],
    *,
    where: str,
    budget_bytes: int,
    margin: float = MARGIN,
) -> list[str]:
    """Lines for a person: what was estimated for which device, and how little that is."""
    fixed = sum(each.fixed_bytes for each in footprints.values())
    lines = [
        f"estimate for {where}, {gib(budget_bytes)} of it allowed, {margin:.0%} of that left to "
        "cuDNN and the allocator; nothing was measured there"
    ]
    for name, samples in micro_batches.items():
        each = footprints[name]
        peak = fixed + each.pass_bytes(samples)
        lines.append(
            f"micro-batch {samples} for {name} (estimated): {gib(peak)} at its peak, {gib(fixed)} "
            f"of it held all the time, {each.bytes_per_sample / 2**20:.2f} MiB a sample"
        )
    return lines


def gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def _resident_bytes(task: Task) -> int:
    kept: list[Tensor] = [*task.network.parameters(), *task.network.buffers()]
    for state in task.optimizer.state.values():
        kept += [value for value in state.values() if isinstance(value, Tensor)]
    live = task.live_parameters
    gradient_buffer = TaskGradients.size(live, task.network) * live[0].element_size()
    return allocated(gradient_buffer) + sum(allocated(t.numel() * t.element_size()) for t in kept)


def _on_meta(task: Task, view: View) -> Task:
    """The task with a copy of its network that has shapes alone, not compiled, in one pass."""
    memo: dict[int, Any] = {}
    for module in task.network.modules():
        own = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        for tensor in own:
            if isinstance(tensor, Tensor):  # so that the copy below never copies their data
                memo[id(tensor)] = _shape_of(tensor)
    network, context = copy.deepcopy((task.network, task.context), memo)
    if view.precision == "bf16":
        plain = network.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with Casts():
                return plain(*args, **kwargs)

        network.forward = forward
    return replace(task, network=network, context=context, micro_batch=INDEX_LIMIT)


def _shape_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device=META_DEVICE)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _measured(tasks: TaskSet, view: View, samples: int, size: tuple[int, int]) -> Meter:
    """One local pass of the only task, with everything that it allocates followed."""
    (task,) = tasks
    tasks.open()
    resident = [*task.network.parameters(), *task.network.buffers(), tasks.gradient_buffer.flat]
    meter = Meter(resident)
    try:
        with meter:
            rows = _rows(samples, task, size)
            LocalPass(rows=rows, device=META_DEVICE, view=view).run(task, tasks.gradients_of(task))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split("\n", 1)[0].split())[:200]
        raise ValueError(
            f"the memory of task {task.name!r} cannot be estimated: without data, on the meta "
            f"device, its network {type(task.network).__name__} stops with {reason!r}; plan on the "
            "device itself, where steps are measured"
        ) from error
    return meter


def _rows(samples: int, task: Task, size: tuple[int, int]) -> Rows:
    """Stored samples without data, in a few groups: memory does not depend on their number."""
    count = min(_GROUPS, samples // task.norm_group)
    group = samples // count
    learned = task.target.noise(1, (1, 1), torch.Generator())
    picture = torch.empty((samples, 3, *size), dtype=torch.uint8, device=META_DEVICE)
    shape = (samples, learned.shape[1], *size)
    return Rows(
        fields={
            task.input: picture.contiguous(memory_format=torch.channels_last),
            task.target.name: torch.empty(shape, dtype=learned.dtype, device=META_DEVICE),
        },
        keys=[str(index) for index in range(samples)],
        epochs=[0] * samples,
        groups=[group] * count,
        group_ids=[group * index for index in range(count)],
    )
