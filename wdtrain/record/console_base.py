"""What a console is given, and what it computes from it: plans, progress, scores, speeds.

The surprise: speed and time left come from the console's own clock, never from what the training
loop believes about itself; time that no part of the step accounts for is shown as "other".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from wdtrain.record.glyphs import number, size
from wdtrain.record.process_memory import ProcessMemory
from wdtrain.targets.metrics import label

PARTS = ("data", "copy", "augment", "forward_backward", "sync", "optimizer")
_MIN_SHOWN_SHARE = 0.005
NOT_SCORED = "not scored, for no sample of the split has a known pixel"


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """One task as the console introduces it; micro_batch in samples."""

    name: str
    network: str
    parameters: int
    micro_batch: int


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is going to do. samples: of one epoch; first_step: where it resumes, else 0."""

    title: str
    device: str
    batch_size: int
    ranks: int
    steps: int
    samples: int
    tasks: tuple[TaskPlan, ...]
    first_step: int = 0

    def batch_lines(self, times: str = "×") -> list[str]:
        """batch 256 = 1 rank × 8 passes × 32; one line if all tasks do the same."""
        lines = {task.name: self._batch_line(task.micro_batch, times) for task in self.tasks}
        if len(set(lines.values())) == 1:
            return list(lines.values())[:1]
        return [f"{line}  ({name})" for name, line in lines.items()]

    def _batch_line(self, micro_batch: int, times: str) -> str:
        passes, rest = divmod(self.batch_size, self.ranks * micro_batch)
        passes += rest > 0
        ranks = f"{self.ranks} rank{'s' * (self.ranks != 1)}"
        most = "at most " if rest else ""
        return (
            f"batch {self.batch_size:,} = {ranks} {times} {most}"
            f"{passes} pass{'es' * (passes != 1)} {times} {micro_batch}"
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step that was taken. samples: over all ranks. seconds: per part of the step (`PARTS`)."""

    step: int
    losses: Mapping[str, float]
    samples: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: ProcessMemory | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The latest validation of a task: its leading metric beside the baseline's.

    is_known: whether any sample had a pixel to score; where none had, there is no value.
    """

    task: str
    metric: str
    value: float
    baseline: float | None = None
    baseline_name: str = ""
    is_known: bool = True

    def sentence(self) -> str:
        """mask IoU 0.6120 (colour threshold 0.1430)"""
        if not self.is_known:
            return f"{self.task}: {NOT_SCORED}"
        text = f"{self.task} {label(self.metric)} {number(self.value)}"
        if self.baseline is None:
            return text
        return f"{text} ({self.baseline_name or 'baseline'} {number(self.baseline)})"


class Console(ABC):
    """Told what happens, shows it. A context manager: leaving it gives the terminal back."""

    @abstractmethod
    def start(self, plan: RunPlan) -> None:
        """The run begins (or goes on at plan.first_step)."""

    @abstractmethod
    def step(self, progress: Progress) -> None:
        """A step was taken."""

    @abstractmethod
    def validation(self, step: int, scores: Sequence[Score]) -> None:
        """The validation after this step gave these scores."""

    @abstractmethod
    def event(self, text: str) -> None:
        """Something worth a line happened: a checkpoint, a resume, a damaged sample."""

    @abstractmethod
    def phase(self, text: str) -> None:
        """What is done from now on other than training ("validating"); "" is training again."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes; what was held back is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Speedometer:
    """Samples, seconds a part and losses from when it was made up to the last step, by the clock.

    Time between `pause` and `go` (validation, saving) is not counted as training.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = clock()
        self._trained_seconds = 0.0
        self._counted_seconds = 0.0
        self.samples = 0
        self.steps = 0
        self.seconds: dict[str, float] = {}
        self.losses: dict[str, list[float]] = {}
        """Of each task: the sum, and of how many steps; a task may take fewer than there are."""

    def add(self, progress: Progress) -> None:
        self._counted_seconds = self.trained_seconds
        self.samples += progress.samples
        self.steps += 1
        for part, seconds in progress.seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        for task, loss in progress.losses.items():
            total, steps = self.losses.get(task, [0.0, 0])
            self.losses[task] = [total + loss, steps + 1]

    def pause(self) -> None:
        self._trained_seconds = self.trained_seconds
        self._since = None

    def go(self) -> None:
        self._since = self._since if self._since is not None else self._clock()

    @property
    def trained_seconds(self) -> float:
        """Seconds of training so far, those since the last step included."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._trained_seconds + running

    def samples_per_second(self) -> float:
        return self._rate(self.samples)

    def steps_per_second(self) -> float:
        return self._rate(self.steps)

    def _rate(self, count: int) -> float:
        return count / self._counted_seconds if self._counted_seconds > 0 else 0.0

    def mean_losses(self) -> dict[str, float]:
        return {task: total / steps for task, (total, steps) in self.losses.items()}

    def shares(self) -> dict[str, float]:
        """Share 0..1 of the time for each part, `PARTS` first; the rest is "other"."""
        measured = sum(self.seconds.values())
        total = max(self._counted_seconds, measured)
        if total <= 0:
            return {}
        order = [*PARTS, *(part for part in self.seconds if part not in PARTS)]
        shares = {part: self.seconds[part] / total for part in order if part in self.seconds}
        other = 1 - measured / total
        return {**shares, **({"other": other} if other > _MIN_SHOWN_SHARE else {})}


def seconds_left(plan: RunPlan, step: int, elapsed_seconds: float) -> float:
    """What the rest of the run takes at the pace since it started here; nan before a step."""
    done = step - plan.first_step
    return (plan.steps - step) * elapsed_seconds / done if done > 0 else float("nan")


def memory_text(memory: ProcessMemory) -> str:
    """11.2 GiB of 18.0 GiB, or RSS 2.1 GiB; with the peak, and what the allocator had to free."""
    text = f"{memory.what} {size(memory.used_bytes)}"
    if memory.budget_bytes is not None:
        text = f"{size(memory.used_bytes)} of {size(memory.budget_bytes)}"
    if memory.peak_bytes > memory.used_bytes:
        text += f", peak {size(memory.peak_bytes)}"
    return text + (f", {memory.retries} retries" if memory.retries else "")
