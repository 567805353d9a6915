"""The record of one run: its folder's lock, log, checkpoints and status, and its console.

One object that the training loop reports events to; on ranks other than 0 it writes nothing but
keeps step with the checkpoints' folders. A step's numbers are read when the next one is recorded,
so that logging does not wait for the device.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from accelerate import Accelerator
from torch import Tensor

from wdtrain.disk.durable import described, write_whole, writing
from wdtrain.disk.failures import RunError
from wdtrain.record.checkpoint import Checkpoints, SavedCheckpoint, save_weights
from wdtrain.record.console import Progress, RunPlan, make_console
from wdtrain.record.gallery import Gallery
from wdtrain.record.heartbeat import Heartbeat, process_facts
from wdtrain.record.process_memory import measure_memory, save_snapshot
from wdtrain.record.protocols import Ranks, StepNumbers, Waited
from wdtrain.record.run_lock import RunLock, lock_holder
from wdtrain.record.runlog import RunLog, State, read_status, save_config, write_status
from wdtrain.record.scores import SplitScores

_Late = tuple[int, float, StepNumbers, dict[str, float], dict[str, float]]
"""Step, epoch, what it did, seconds of the loop's own parts, occupancy of the reader."""

_FAILED = ".failed-rank-"
_OTHERS_SECONDS = 1.0


class RunRecord:
    """What is kept and shown of a run. A context manager: the folder is locked inside.

    Rank 0 writes and draws; numbers also go to accelerate's trackers. plain_seconds: between lines
    of the plain console. tell: an error in words for all who may read the folder.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        collective: Ranks,
        *,
        folder: str,
        console: Literal["auto", "live", "plain"] = "auto",
        keep: int = 2,
        log_every_steps: int = 1,
        plain_seconds: float = 10.0,
        tell: Callable[[BaseException], str] = described,
    ) -> None:
        self.folder = Path(folder)
        self.is_main = collective.rank == 0
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=keep)
        self._accelerator, self._collective = accelerator, collective
        self._every, self._tell = log_every_steps, tell
        self._stack = ExitStack()
        self._heartbeat = Heartbeat(self.folder)
        if self.is_main:
            self.console = make_console(console, interval_seconds=plain_seconds)
        else:
            self.console = make_console("plain", self._stack.enter_context(_silence()))
        self._late: _Late | None = None
        self._passed_over: list[str] = []
        self._is_started = False
        self._idle: Mapping[str, int] = {}
        self._saved: tuple[int, str] | None = None
        self._metric: float | None = None
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        """The folder is this run's alone, and free of what killed saves left."""
        if self.is_main:
            self._stack.enter_context(RunLock(self.folder))
            self.checkpoints.clean()
            for path in self.folder.glob(f"{_FAILED}*"):
                path.unlink()
        self._collective.barrier("rank 0, which takes the run folder")
        self._check_shared()
        return self

    def _check_shared(self) -> None:
        """Raises RunError on all ranks unless each sees the lock that rank 0 took: on a disk of its
        own a rank finds other checkpoints, and would go on from another step."""
        holders = self._collective.gather(lock_holder(self.folder), "the run folder's lock")
        blind = [str(rank) for rank, holder in enumerate(holders) if holder != holders[0]]
        if blind:
            raise RunError(
                f"run folder {self.folder} is not the same on all machines: rank "
                f"{', '.join(blind)} does not see the lock that rank 0 took ({holders[0]}): "
                "checkpoints are written and read by all ranks; set run.folder to a disk that "
                "all machines share"
            )

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
                with suppress(OSError):  # a disk that refuses this too: the error itself is printed
                    self._fail(error)
        finally:
            self._heartbeat.stop()
            self._stack.close()

    def _fail(self, error: Exception) -> None:
        """The status says why the run failed; if another rank did, in that rank's words."""
        lost = getattr(error, "lost", None)  # ranks that a collective waited for in vain
        if lost is None:
            if self.is_main:
                self._status("failed", self._tell(error))
            else:
                write_whole(self._failed(self._collective.rank), self._tell(error).encode())
            return
        time.sleep(_OTHERS_SECONDS)  # what ended those ranks may be about to be reported
        status = read_status(self.folder) or {}
        if not getattr(error, "speaks", False) or status.get("state") != "running":
            return  # another rank reports it, or has done so
        reported = [rank for rank in lost if self._failed(rank).exists()]
        if reported:
            first = reported[0]
            failure = RunError(f"rank {first}: {self._failed(first).read_text()}")
            write_status(self.folder, "failed", str(failure), **process_facts())
            raise failure from error
        write_status(self.folder, "failed", self._tell(error), **process_facts())

    def _failed(self, rank: int) -> Path:
        return self.folder / f"{_FAILED}{rank}"

    def snapshot(self) -> None:
        """What the device's memory holds is in the folder, where it is a GPU's."""
        path = save_snapshot(self.folder, self._accelerator.device)
        if path is not None:
            self.console.event(f"memory snapshot: {path}, for https://pytorch.org/memory_viz")

    def start(
        self, first_step: int, data: Mapping[str, Any], recipe: str, idle: Mapping[str, int]
    ) -> None:
        """The log is cut back to where the run goes on, and the run's events are written.

        data: what it is trained on, as the manifest says; recipe: YAML; idle: the run's own count
        of the steps that each task did not take, looked at whenever the status is written.
        """
        self._idle = idle
        if self.is_main:
            save_config(self.folder, recipe)
        self.log = self._stack.enter_context(RunLog(self.folder, active=self.is_main))
        self.log.cut_back(first_step)
        self._accelerator.init_trackers("tensorboard")
        self._stack.callback(self._accelerator.end_training)
        self._stack.enter_context(self.console)
        self._status("running")
        self._is_started = True
        self.console.event(data_sentence(data))
        for reason in self._passed_over:
            self.console.event(f"passed over: {reason}")
        for damage in self.log.damaged:
            self.console.event(f"warning: {damage}")
        if first_step:
            self.console.event(f"goes on after step {first_step:,}")

    def show(self, plan: RunPlan) -> None:
        """The console shows what is going to be done, from now on."""
        self.console.start(plan)
        self._since = time.monotonic()

    def warn(self, step: int, text: str) -> None:
        """Something that a person should know of is shown, and stands in the log; "": nothing."""
        if text:
            self.console.event(f"warning: {text}")
            self.log.append({"step": step, "warning": text})

    def newest(self, *, refuse: bool) -> SavedCheckpoint | None:
        """The newest checkpoint that all ranks find whole and the same, on all of them, or None;
        ValueError if there is one and `refuse` is set."""
        found = self.checkpoints.newest_of_all(self._collective.gather)
        self._passed_over = self.checkpoints.skipped
        if found:
            self._saved, self._metric = (found.step, _canonical(found.extra)), found.metric
        if found and refuse:
            raise RunError(
                f"run.resume is never and {self.folder} holds a checkpoint of step {found.step}; "
                "starting anew would overwrite it; choose another run.folder, or remove it"
            )
        return found

    def is_finished(self, step: int, total_steps: int) -> bool:
        """Whether nothing is left to do after `step`; if so, it is reported."""
        status = read_status(self.folder)
        if step < total_steps or not status or status["state"] != "finished":
            return False
        if self.is_main:
            print(f"{self.folder} is finished, all {step:,} steps; nothing was changed")
        return True

    def finished(self) -> None:
        """Everything is done, on every rank."""
        self._collective.barrier("the report")
        self._status("finished")
        self.console.event(f"finished; the report is {self.folder / 'report.md'}")

    def interrupted(self, why: str) -> None:
        """Asked to stop, and everything that was committed is saved."""
        why = why or "another rank was asked to stop"
        self._status("interrupted", why)
        self.console.event(f"stopped by {why}, saved; the same command goes on from here")

    def _status(self, state: State, why: str = "") -> None:
        if self.is_main:
            idle = {task: steps for task, steps in self._idle.items() if steps}
            self._heartbeat.say(state, why, **({"idle_steps": idle} if idle else {}))

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
        for recovery in result.recoveries:
            self.console.event(f"step {step:,}: {recovery}")

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
            "skipped": int(reading.skipped),
            "idle": len(reading.idle),
            "recoveries": len(result.recoveries),
            "samples": result.samples,
            "seconds": round(seconds, 6),
            "samples_per_second": round(result.samples / max(seconds, 1e-9), 3),
            **{f"seconds/{part}": round(spent, 6) for part, spent in parts.items()},
            **{f"occupancy/{stage}": round(share, 4) for stage, share in occupancy.items()},
            "memory_bytes": memory.used_bytes,
            "memory_peak_bytes": memory.peak_bytes,
            "memory_retries": memory.retries,
        }
        self._write(step, line)

    @contextmanager
    def phase(self, doing: str) -> Iterator[None]:
        """Time in here, `doing` something else ("validating"), is not counted as training."""
        self.flush()
        self.console.phase(doing)
        yield
        self.console.phase("")
        self._since = time.monotonic()

    def validation(self, step: int, scores: Sequence[SplitScores], *, final: bool = False) -> None:
        """The scores of every split, logged; those of the first, the leading one, are shown."""
        if not final:  # those of the end are in the report's own sentence
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
        # Here, since it brings matplotlib along, a tenth of a start, which nothing else needs.
        from wdtrain.record.report import outcome, task_facts, write_report

        samples, grids = gallery.save(self.folder)
        networks = {
            task.name: {"network": task.network, "parameters": task.parameters}
            for task in plan.tasks
        }
        tasks = {
            name: {
                **networks[name],
                **task_facts(task.target, task.result()["metrics"]),
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
            "memory_budget_bytes": measure_memory(self._accelerator.device).budget_bytes,
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
            with writing(self.folder):
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
        very step, if there was one; that of an earlier checkpoint of this step stays.
        """
        what = (step, _canonical(extra))
        if all(self._collective.gather(what == self._saved, "what is to be saved")):
            return  # asked to stop right after a checkpoint: that one holds all there is
        if metric is None and self._saved and self._saved[0] == step:
            metric = self._metric
        self._saved, self._metric = what, metric
        with self.phase("saving"):
            try:
                self._agreed("every rank's part of a checkpoint", lambda: self._part(step, weights))
                self._agreed("the checkpoint of rank 0", lambda: self._commit(step, extra, metric))
            except BaseException:
                if self.is_main:
                    self.checkpoints.abandon(step)
                raise

    def _part(self, step: int, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """This rank's files of a checkpoint are written, in its temporary folder."""
        folder = self.checkpoints.begin(step)
        with writing(folder):
            self._accelerator.save_state(str(folder))
        if self.is_main:
            self.log.sync()
            for task, state in weights.items():
                save_weights(folder / f"{task}.safetensors", state)

    def _commit(self, step: int, extra: Mapping[str, Any], metric: float | None) -> None:
        if self.is_main:
            self.checkpoints.commit(step, extra, metric=metric)
            self.console.event(f"checkpoint of step {step:,} saved")
            left_out = extra.get("damaged", {})
            if left_out:
                self.console.event(f"left out so far: {len(left_out)}, first {min(left_out)}")

    def _agreed(self, what: str, act: Callable[[], None]) -> None:
        """All ranks have done it; an OSError of one of them is an error on all, in its words."""
        error = None
        try:
            act()
        except OSError as caught:
            error = caught
        answers = self._collective.gather("" if error is None else self._tell(error), what)
        if error is not None:
            raise error
        refused = [f"rank {rank}: {why}" for rank, why in enumerate(answers) if why]
        if refused:
            raise RunError(refused[0])


def _canonical(extra: Mapping[str, Any]) -> str:
    return json.dumps(extra, sort_keys=True)


def data_sentence(data: Mapping[str, Any]) -> str:
    """data: playground of difficulty 0.3, 20,000 triples"""
    text = f"data: {data.get('name', 'triples')}"
    if "difficulty" in data:
        text += f" of difficulty {data['difficulty']:g}"
    return text + (f", {data['count']:,} triples" if "count" in data else "")


def _silence() -> TextIO:
    """Where the consoles of all ranks but 0 write to."""
    return Path(os.devnull).open("w")
