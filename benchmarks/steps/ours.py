"""Our step with everything on, and the same with what a run keeps of each step.

This is the one place here that calls `train_step`. Its result is read one step late, as
`RunRecord` does.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from steps.turn import Turn
from steps.work import LEARNED, Work
from wdtrain import learn, ranks
from wdtrain.learn.rows import Rows
from wdtrain.learn.step import StepResult
from wdtrain.record.run import RunRecord
from wdtrain.record.run_plan import RunPlan, plan_tasks

PLAIN_SECONDS = 10.0


class Ours:
    """Grouped norms, keyed dropout, buffer, agreement, finite check, augmentation, stopwatch."""

    def __init__(self, work: Work, *, compiled: bool = False) -> None:
        settings = work.settings
        recipe, fields = work.recipe(compiled=compiled), work.manifest.fields
        self.tasks = learn.build_tasks(
            recipe,
            learn.learned_by(recipe, fields),
            total_steps=1,
            device=settings.device,
            size=(work.manifest.height, work.manifest.width),
        )
        self.work, self.collective = work, ranks.open_collective()
        self.losses: dict[str, float] = {}

    def take(self, turn: Turn) -> None:
        late: StepResult | None = None
        for rows in turn:
            result = self.step(rows)
            self._read(late, turn)
            late = result
        self._read(late, turn)

    def _read(self, late: StepResult | None, turn: Turn) -> None:
        if late is not None:
            reading = late.read()
            turn.readings.append(reading.seconds)
            self.losses = reading.losses

    def step(self, rows: Rows) -> StepResult:
        return learn.train_step(
            self.tasks,
            rows,
            device=self.work.settings.device,
            view=self.work.view,
            collective=self.collective,
        )


@dataclass(frozen=True)
class Ready:
    """A batch that was not waited for."""

    wait_seconds: float = 0.0
    occupancy: dict[str, float] = field(default_factory=dict)


class OursWithRecord(Ours):
    """Each step also goes to metrics.jsonl, TensorBoard and the plain console (into a file).

    Close it with `close`.
    """

    def __init__(self, work: Work, accelerator: Accelerator, folder: Path) -> None:
        super().__init__(work)
        folder.mkdir(parents=True)
        self._console = (folder / "console.txt").open("w")
        with redirect_stdout(self._console):
            record = RunRecord(
                accelerator,
                self.collective,
                folder=str(folder),
                console="plain",
                plain_seconds=PLAIN_SECONDS,
            )
        self.record = record.__enter__()
        settings = work.settings
        networks = {target: LEARNED[target][0] for target in settings.targets}
        plan = RunPlan(
            title="step",
            device=str(settings.device),
            batch_size=settings.batch,
            ranks=1,
            steps=10**9,
            samples=work.manifest.splits["train"].samples,
            tasks=plan_tasks(self.tasks, networks),
            first_step=0,
        )
        self.record.start(0, work.manifest.source, "{}\n", self.tasks.idle)
        self.record.show(plan)

    def take(self, turn: Turn) -> None:
        for rows in turn:
            result = self.step(rows)
            self.record.step(self.tasks.steps, 0.0, result, Ready())

    def close(self) -> None:
        self.record.__exit__(None, None, None)
        self._console.close()
