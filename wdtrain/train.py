"""The corridor: parse, build, loop, stop. It alone opens every door, and decides nothing itself.

    accelerate launch --config_file accelerate_config.yaml wdtrain/train.py --config recipes/X.yaml

One batch trains every task of the recipe. What is kept of a run lies in its folder; started again
by the same command, it goes on from the newest whole checkpoint, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# The launcher puts this folder first on the path, where its modules would shadow others' names.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.path.append(str(Path.cwd()))  # networks of the user's own are found from where they stand

from accelerate import Accelerator
from accelerate.utils import gather_object

from wdtrain import learn
from wdtrain.config import Recipe, from_command_line
from wdtrain.record.checkpoint import load_weights
from wdtrain.record.gallery import Gallery
from wdtrain.record.plan import RunPlan, plan_run, plan_text
from wdtrain.record.run import RunRecord
from wdtrain.record.scores import Baselines, SplitScores, check_splits
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Cursor, Order, Stream, open_stream


@dataclass
class Run:
    """Everything that is open while a run goes; `cursor` moves with each committed step."""

    recipe: Recipe
    manifest: Manifest
    order: Order
    accelerator: Accelerator
    collective: learn.Collective
    tasks: learn.TaskSet
    view: learn.View
    baselines: Baselines
    plan: RunPlan
    cursor: Cursor
    damaged: dict[str, str] = field(default_factory=dict)

    def stream(self, split: str, batch_size: int, **more: Any) -> Stream:
        """This rank's batches of a split, read as the recipe says."""
        ranks = {"rank": self.collective.rank, "world": self.collective.world}
        how = {**self.recipe.data.stream_arguments(), "damaged": self.damaged}
        return open_stream(
            self.manifest, split=split, batch_size=batch_size, **{**how, **ranks, **more}
        )

    def answers(self, split: str, limit: int | None = None, **how: Any) -> Iterator[learn.Answered]:
        """The batches of a split, each with every task's predictions and losses."""
        batches = self.stream(split, self.recipe.evaluation_batch, **how)
        return learn.evaluate_batches(self.tasks, batches, view=self.view, limit=limit)


def open_run(recipe: Recipe) -> Run:
    """Data, device and networks are checked and ready; nothing is written yet."""
    manifest, data = Manifest.load(**recipe.data.manifest_arguments()), recipe.data
    splits = check_splits(recipe.evaluate.splits, manifest.splits)
    manifest.check_shards(data.train_split, *splits)
    accelerator = learn.start_accelerator(**recipe.launch_arguments())
    collective = learn.open_collective()
    order = Order(manifest, data.train_split, seed=data.seed, lanes=data.lanes, chunk=data.chunk)
    order.check_batch(recipe.train.batch_size, collective.world)
    steps, device = recipe.total_steps(order.samples), accelerator.device
    weights = {name: load_weights(t.weights) for name, t in recipe.tasks.items() if t.weights}
    common = {**recipe.build_arguments(), "device": device, "weights": weights}
    tasks = learn.build_tasks(recipe.task_arguments(steps), **common)
    learn.register(accelerator, tasks)
    mean, std = manifest.overlay_mean, manifest.overlay_std
    view = learn.plain_view(mean, std, manifest.depth, recipe.precision)
    facts = {"device": str(device), "ranks": collective.world, "samples": order.samples}
    plan = plan_run(tasks, {**recipe.plan_arguments(), **facts, "steps": steps})
    rest = (Baselines(manifest.depth), plan, Cursor.at(order, 0))
    return Run(recipe, manifest, order, accelerator, collective, tasks, view, *rest)


def resume(run: Run, record: RunRecord) -> int:
    """The run stands where its newest whole checkpoint was saved; returns that step, or 0."""
    found = record.newest(refuse=run.recipe.run.resume == "never")
    if found is None:
        return 0
    run.recipe.check_resumes(found.extra["recipe"])
    run.cursor = Cursor.loads(found.extra["cursor"])
    run.cursor.check(run.order)
    run.accelerator.load_state(str(found.path))
    run.tasks.load_state_dict(found.extra["tasks"])
    run.damaged.update(found.extra.get("damaged", {}))
    return found.step


def train(run: Run, record: RunRecord, stop: learn.StopRequest) -> bool:
    """Steps until the end; False when asked to stop, then with what was committed saved."""
    recipe, samples = run.recipe, run.order.samples
    augmentation = learn.Augmentation(seed=recipe.run.seed, **recipe.augment.model_dump())
    view = run.view.augmented(augmentation)
    where = {"cursor": run.cursor, "epochs": None}
    batches = iter(run.stream(recipe.data.train_split, recipe.train.batch_size, **where))
    context = {"device": run.accelerator.device, "view": view, "collective": run.collective}
    while run.tasks.steps < run.plan.steps:
        batch = next(batches)
        rows = learn.rows_of(batch, recipe.norm_group)
        result = learn.train_step(run.tasks, rows, stop_asked=stop.asked, **context)
        if result.stop:
            save(run, record, None)
            return False
        run.cursor, step, skill = batch.cursor, run.tasks.steps, None
        record.step(step, run.cursor.position / samples, result, batch)
        is_last = step == run.plan.steps
        if is_last or step % recipe.evaluate_every(samples) == 0:
            lead = validate(run, record, limit=recipe.evaluate.max_samples or sys.maxsize)[0]
            for task in run.tasks:
                task.schedule.observe(lead.tasks[task.name].loss, run.cursor.epoch)
            skill = lead.skill()
        if skill is not None or step % recipe.checkpoint.every_steps == 0:
            save(run, record, skill)
    return True


def validate(run: Run, record: RunRecord, *, limit: int | None) -> list[SplitScores]:
    """Every split scored, the leading one first, of `limit` samples or so; None: all, finally."""
    targets, found = {task.name: task.target for task in run.tasks}, []
    with record.aside("validating"):
        for split in check_splits(run.recipe.evaluate.splits, run.manifest.splits):
            scores = SplitScores(split, targets, run.manifest.depth)
            for batch, answers in run.answers(split, limit):
                scores.update(answers, batch, run.baselines)
            scores.reduce(run.collective.total)
            found.append(scores)
    record.validation(run.tasks.steps, found, final=limit is None)
    return found


def save(run: Run, record: RunRecord, skill: float | None) -> None:
    """Networks, optimizers, schedules and cursor are a checkpoint on disk, or nothing is."""
    weights = {task.name: task.network.state_dict() for task in run.tasks}
    damaged = dict(gather_object(list(run.damaged.items())))
    state = {"cursor": run.cursor.dumps(), "tasks": run.tasks.state_dict(), "damaged": damaged}
    side = run.recipe.data.size or min(run.manifest.height, run.manifest.width)
    recipe = {"recipe": run.recipe.decisive(), "config": run.recipe.as_yaml()}
    about = {**recipe, "view": run.view.as_dict(), "side": side}
    record.save(run.tasks.steps, weights, {**state, **about}, metric=skill)


def finish(run: Run, record: RunRecord) -> None:
    """Every validation sample is scored, and the report is written."""
    scores = validate(run, record, limit=None)
    gallery = Gallery(scores[0], gather_object)
    if record.is_main:
        gallery.fill(run.answers(gallery.split, rank=0, world=1))
        record.report(scores, gallery, run.plan, run.manifest.source, run.recipe.as_yaml())
    record.finished()


def go(run: Run) -> int:
    """The run to its end, or until it is asked to stop; the exit code."""
    recipe, stop = run.recipe, learn.StopRequest()
    with RunRecord(run.accelerator, **recipe.record_arguments()) as record:
        first = resume(run, record)
        if record.is_finished(first, run.plan):
            return 0
        plan = replace(run.plan, first_step=first)
        record.start(plan, run.manifest.source, recipe.as_yaml())
        with record.aside("fitting the baselines"):
            training = run.stream(recipe.data.train_split, recipe.evaluation_batch)
            run.baselines.fit(training, run.collective.total, {task.target for task in run.tasks})
        if not train(run, record, stop):
            record.interrupted(stop.reason)
            return stop.exit_code
        finish(run, record)
    return 0


def main() -> int:
    try:
        recipe, plan_only = from_command_line(sys.argv[1:])
        run = open_run(recipe)
        if plan_only:
            balance = run.order.balance(recipe.train.batch_size, run.collective.world)
            run.accelerator.print(plan_text(run.plan, balance=balance, lanes=recipe.data.lanes))
            return 0
        return go(run)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
