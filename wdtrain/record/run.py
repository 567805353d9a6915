"""The record of one run: its folder's lock, log, checkpoints and status, and its console.

One object that the training loop tells what happened; on ranks other than 0 it writes nothing but
keeps step with the checkpoints' folders. A step's numbers are read when the next one is recorded,
so that logging does not wait for the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TextIO

from accelerate import Accelerator
from torch import Tensor

from wdtrain.record.checkpoint import Checkpoint, Checkpoints, save_weights
from wdtrain.record.console import Progress, RunPlan, make_console
from wdtrain.record.durable import write_whole
from wdtrain.record.gallery import Gallery
from wdtrain.record.lock import RunLock
from wdtrain.record.memory import measure_memory
from wdtrain.record.report import outcome, write_report
from wdtrain.record.runlog import RunError, RunLog, State, read_status, save_config, write_status
from wdtrain.record.scores import BASELINE_NAMES, SplitScores


class Reading(Protocol):
    """The numbers of a step, on the host."""

    @property
    def losses(self) -> dict[str, float]: ...
    @property
    def grad_norms(self) -> dict[str, float]: ...
    @property
    def seconds(self) -> dict[str, float]: ...


class StepNumbers(Protocol):
    """What a step did; `read` waits for the device."""

    @property
    def samples(self) -> int: ...
    @property
    def skipped(self) -> bool: ...
    @property
    def learning_rates(self) -> dict[str, float]: ...
    def read(self) -> Reading: ...


class Waited(Protocol):
    """How long a batch was waited for, and how busy its reader's threads were by stage, 0..1."""

    @property
    def wait_seconds(self) -> float: ...
    @property
    def occupancy(self) -> dict[str, float]: ...


_Late = tuple[int, float, StepNumbers, dict[str, float], dict[str, float]]
"""Step, epoch, what it did, seconds of the loop's own parts, occupancy of the reader."""

_FAILED = ".failed-rank-"
_OTHERS_SECONDS = 1.0


class RunRecord:
    """What is kept and shown of a run. A context manager: the folder is locked inside.

    Rank 0 writes and draws; numbers also go to accelerate's trackers. plain_seconds: between lines
    of the plain console.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        folder: str,
        console: Literal["auto", "live", "plain"] = "auto",
        keep: int = 2,
        log_every_steps: int = 1,
        plain_seconds: float = 10.0,
    ) -> None:
        self.folder = Path(folder)
        self.is_main = bool(accelerator.is_main_process)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=keep)
        self._accelerator, self._every = accelerator, log_every_steps
        self._stack = ExitStack()
        if self.is_main:
            self.console = make_console(console, interval_seconds=plain_seconds)
        else:
            self.console = make_console("plain", self._stack.enter_context(_silence()))
        self._late: _Late | None = None
        self._passed_over: list[str] = []
        self._is_started = False
        self._saved_step: int | None = None
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        """The folder is this run's alone, and free of what killed saves left."""
        if self.is_main:
            self._stack.enter_context(RunLock(self.folder))
            self.checkpoints.clean()
            for path in self.folder.glob(f"{_FAILED}*"):
                path.unlink()
        self._accelerator.wait_for_everyone()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, KeyboardInterrupt) and self._is_started:
                self._status("interrupted", "Ctrl-C twice: what was not saved is lost")
            elif isinstance(error, Exception) and self._is_started:
                self._fail(error)
        finally:
            self._stack.close()

    def _fail(self, error: Exception) -> None:
        """The status says why the run failed; if another rank did, in that rank's words."""
        if not self.is_main:
            write_whole(self.folder / f"{_FAILED}{self._accelerator.process_index}", _text(error))
            return
        if not isinstance(error, ValueError | OSError):
            time.sleep(_OTHERS_SECONDS)  # a lost connection is the echo of another rank's error
            others = sorted(self.folder.glob(f"{_FAILED}*"))
            if others:
                rank = others[0].name.removeprefix(_FAILED)
                said = RunError(f"rank {rank}: {others[0].read_text()}")
                self._status("failed", str(said))
                raise said from error
        self._status("failed", str(error) or type(error).__name__)

    def start(self, plan: RunPlan, data: Mapping[str, Any], recipe: str) -> None:
        """The log is cut back to where the run goes on, and the console shows the plan.

        data: what it is trained on, as the manifest says; recipe: YAML.
        """
        if self.is_main:
            save_config(self.folder, recipe)
        self.log = self._stack.enter_context(RunLog(self.folder, active=self.is_main))
        self.log.cut_back(plan.first_step)
        self._accelerator.init_trackers("tensorboard")
        self._stack.callback(self._accelerator.end_training)
        self._stack.enter_context(self.console)
        self._status("running")
        self._is_started, self._saved_step = True, plan.first_step or None
        self.console.start(plan)
        self.console.event(data_sentence(data))
        for reason in self._passed_over:
            self.console.event(f"passed over: {reason}")
        if plan.first_step:
            self.console.event(f"goes on after step {plan.first_step:,}")
        self._since = time.monotonic()

    def newest(self, *, refuse: bool) -> Checkpoint | None:
        """The newest whole checkpoint, or None; ValueError if there is one and `refuse` is set."""
        found = self.checkpoints.latest()
        self._passed_over = self.checkpoints.skipped
        if found and refuse:
            raise RunError(
                f"run.resume is never and {self.folder} holds a checkpoint of step {found.step}; "
                "starting anew would overwrite it; choose another run.folder, or remove it"
            )
        return found

    def is_finished(self, step: int, plan: RunPlan) -> bool:
        """Whether nothing is left to do after `step`, which is then said."""
        status = read_status(self.folder)
        if step < plan.steps or not status or status["state"] != "finished":
            return False
        if self.is_main:
            print(f"{self.folder} is finished, all {step:,} steps; nothing was changed")
        return True

    def finished(self) -> None:
        """Everything is done, on every rank."""
        self._accelerator.wait_for_everyone()
        self._status("finished")
        self.console.event(f"finished; the report is {self.folder / 'report.md'}")

    def interrupted(self, why: str) -> None:
        """Asked to stop, and everything that was committed is saved."""
        why = why or "another rank was asked to stop"
        self._status("interrupted", why)
        self.console.event(f"stopped by {why}, saved; the same command goes on from here")

    def _status(self, state: State, why: str = "") -> None:
        if self.is_main:
            write_status(self.folder, state, why)

    def step(
        self,
        step: int,
        epoch: float,
        result: StepNumbers,
        batch: Waited,
    ) -> None:
        """A step was taken; its numbers are read one step later."""
        self.flush()
        now = time.monotonic()
        parts, self._since = {"data": batch.wait_seconds, "all": now - self._since}, now
        self._late = (step, epoch, result, parts, batch.occupancy)

    def flush(self) -> None:
        """Writes the step that has not been read yet, if any."""
        if self._late is None:
            return
        step, epoch, result, parts, occupancy = self._late
        self._late = None
        reading = result.read()
        seconds = parts.pop("all")
        memory = measure_memory(self._accelerator.device)
        parts |= reading.seconds
        self.console.step(
            Progress(
                step=step,
                losses=reading.losses,
                samples=result.samples,
                seconds=parts,
                memory=memory,
            )
        )
        if step % self._every:
            return
        line = {
            "epoch": round(epoch, 6),
            **{f"loss/{task}": loss for task, loss in reading.losses.items()},
            **{f"grad_norm/{task}": norm for task, norm in reading.grad_norms.items()},
            **{f"learning_rate/{task}": rate for task, rate in result.learning_rates.items()},
            "skipped": int(result.skipped),
            "samples": result.samples,
            "seconds": round(seconds, 6),
            "samples_per_second": round(result.samples / max(seconds, 1e-9), 3),
            **{f"seconds/{part}": round(spent, 6) for part, spent in parts.items()},
            **{f"occupancy/{stage}": round(share, 4) for stage, share in occupancy.items()},
            "memory_bytes": memory.used_bytes,
        }
        self._write(step, line)

    @contextmanager
    def aside(self, doing: str) -> Iterator[None]:
        """Time in here, `doing` something else ("validating"), is not counted as training."""
        self.flush()
        self.console.phase(doing)
        yield
        self.console.phase("")
        self._since = time.monotonic()

    def validation(self, step: int, scores: Sequence[SplitScores], *, final: bool = False) -> None:
        """The scores of every split, logged; those of the first, the leading one, are shown."""
        if not final:  # those of the end are said in the report's own sentence
            lead = scores[0].tasks
            self.console.validation(step, [task.score(name) for name, task in lead.items()])
        prefix = "final" if final else "validation"
        line = {}
        for split in scores:
            for name, task in split.tasks.items():
                at = f"{prefix}/{split.name}/{name}"
                result = task.result()
                line[f"{at}/loss"] = result["loss"]
                line |= {f"{at}/{metric}": v for metric, v in result["metrics"].items()}
                line[f"{at}/baseline/{task.metric}"] = result["baseline"].get(task.metric)
        self._write(step, line)

    def report(
        self,
        scores: Sequence[SplitScores],
        gallery: Gallery,
        plan: RunPlan,
        data: Mapping[str, Any],
        recipe: str,
    ) -> Path:
        """`report.md` stands in the folder. data: what it was trained on; recipe: YAML."""
        samples, grids = gallery.save(self.folder)
        networks = {
            task.name: {"network": task.network, "parameters": task.parameters}
            for task in plan.tasks
        }
        tasks = {
            name: {
                **networks[name],
                "target": task.target,
                "metric": task.metric,
                "baseline_name": BASELINE_NAMES[task.target],
            }
            for name, task in scores[0].tasks.items()
        }
        results = {
            "title": plan.title,
            "lead_split": gallery.split,
            "run": {
                "steps": plan.steps,
                "batch": plan.batch_lines()[0].removeprefix("batch "),
                "device": plan.device,
            },
            "data": {**data, "training samples": plan.samples},
            "tasks": tasks,
            "splits": {
                split.name: {"tasks": {name: task.result() for name, task in split.tasks.items()}}
                for split in scores
            },
            "samples": samples,
            "grids": grids,
            "recipe": recipe,
        }
        self.console.event(outcome(results))
        return write_report(self.folder, results)

    def _write(self, step: int, line: Mapping[str, Any]) -> None:
        if self.is_main:
            self.log.append({"step": step, **line})
            numbers = {k: v for k, v in line.items() if isinstance(v, int | float)}
            self._accelerator.log(numbers, step=step)

    def save(
        self,
        step: int,
        weights: Mapping[str, Mapping[str, Tensor]],
        extra: Mapping[str, Any],
        *,
        metric: float | None,
    ) -> None:
        """A whole checkpoint of `step` is on disk. All ranks call it, and all of them write.

        It holds what accelerate was shown, `weights` by task as safetensors, and `extra`. The log
        up to here is on disk before the checkpoint has its name. metric: of the validation of this
        very step, if there was one.
        """
        if step == self._saved_step:
            return  # asked to stop right after a checkpoint: that one holds all there is
        self._saved_step = step
        with self.aside("saving"):
            folder = self.checkpoints.begin(step)
            self._accelerator.save_state(str(folder))
            if self.is_main:
                self.log.sync()
                for task, state in weights.items():
                    save_weights(folder / f"{task}.safetensors", state)
            self._accelerator.wait_for_everyone()
            if self.is_main:
                self.checkpoints.commit(step, extra, metric=metric)
                self.console.event(f"checkpoint of step {step:,} saved")
                left_out = extra.get("damaged", {})
                if left_out:
                    self.console.event(f"left out so far: {len(left_out)}, first {min(left_out)}")
            self._accelerator.wait_for_everyone()


def _text(error: Exception) -> bytes:
    return (str(error) or type(error).__name__).encode()


def data_sentence(data: Mapping[str, Any]) -> str:
    """data: playground of difficulty 0.3, 20,000 triples"""
    text = f"data: {data.get('name', 'triples')}"
    if "difficulty" in data:
        text += f" of difficulty {data['difficulty']:g}"
    return text + (f", {data['count']:,} triples" if "count" in data else "")


def _silence() -> TextIO:
    """Where the consoles of all ranks but 0 write to."""
    return Path(os.devnull).open("w")
