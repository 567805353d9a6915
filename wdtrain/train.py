"""The corridor: loop, validate, save, stop. What it walks through is opened in `job.py`.

    accelerate launch --config_file accelerate_config.yaml wdtrain/train.py --config recipes/X.yaml

One batch trains every task of the recipe. What is kept of a run is in its folder; started again
by the same command, it goes on from the newest whole checkpoint, bit for bit.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from pathlib import Path

# The launcher puts this folder first on the path, where its modules would shadow others' names.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.path.append(str(Path.cwd()))  # networks of the user's own are found from where they stand

from wdtrain import learn, ranks
from wdtrain.job import Run, command_line, error_text, open_run
from wdtrain.record.gallery import Gallery
from wdtrain.record.outlet import speak_without_waiting
from wdtrain.record.run import RunRecord
from wdtrain.record.scores import SplitScores, check_splits
from wdtrain.stream import Cursor

COLLECT_EVERY_STEPS = 50
"""Garbage, on all ranks at once. On a CPU the heap is given back too: 0.5 % of the time."""


def resume(run: Run, record: RunRecord) -> int:
    """The run stands where its newest whole checkpoint was saved; returns that step, or 0."""
    found = record.newest(refuse=run.recipe.run.resume == "never")
    if found is None:
        return 0
    run.cursor = Cursor.loads(found.extra["cursor"])
    run.cursor.check_version()
    run.recipe.check_resumes(found.extra["recipe"])
    run.cursor.check(run.order)
    run.accelerator.load_state(str(found.path))
    run.tasks.load_state_dict(found.extra["tasks"])
    run.damaged.update(found.extra.get("damaged", {}))
    run.validated = found.extra.get("validated", found.step)
    return found.step


def train(run: Run, record: RunRecord) -> None:
    """Steps until the end, each followed by what is due after it."""
    recipe, samples = run.recipe, run.order.samples
    stream = run.stream(
        recipe.data.train_split, recipe.train.batch_size, cursor=run.cursor, epochs=None
    )
    batches, view = iter(stream), run.training_view
    with ranks.no_sudden_collection() as collect:
        while True:
            step = run.tasks.steps
            if run.is_due(recipe.evaluate_every(samples)) and run.validated < step:
                save(run, record, validate_while_training(run, record))
                collect()
            elif run.is_due(recipe.checkpoint.every_steps):
                save(run, record, None)
                collect()
            elif step % COLLECT_EVERY_STEPS == 0:
                collect()
            if step == run.total_steps:
                return
            batch = next(batches)
            rows = learn.rows_of(batch, recipe.norm_group)
            result = learn.train_step(
                run.tasks,
                rows,
                device=run.accelerator.device,
                collective=run.collective,
                view=view,
                stop_asked=run.stop.asked,
            )
            if result.stop:
                raise ranks.RunStopped
            run.cursor = batch.cursor
            record.step(run.tasks.steps, run.cursor.position / samples, result, batch)


def validate_while_training(run: Run, record: RunRecord) -> float:
    """A validation in mid-training: schedules take note of it; returns the skill shown in it."""
    lead = validate(run, record, limit=run.recipe.evaluate.max_samples or sys.maxsize)[0]
    for task in run.tasks:
        if lead.tasks[task.name].is_scored:
            task.schedule.observe(lead.tasks[task.name].loss, run.cursor.epoch)
    run.validated = run.tasks.steps
    return lead.skill()


def validate(run: Run, record: RunRecord, *, limit: int | None) -> list[SplitScores]:
    """Every split scored, the leading one first, of `limit` samples or so; None: all, finally."""
    tasks, found = {task.name: task for task in run.tasks}, []
    with record.phase("validating"):
        for split in check_splits(run.recipe.evaluate.splits, run.manifest.splits):
            scores = SplitScores(split, tasks, run.foreground)
            for batch, answers in run.answers(split, limit):
                scores.update(answers, batch, run.baselines)
            scores.reduce(run.collective.total)
            found.append(scores)
    record.validation(run.tasks.steps, found, final=limit is None)
    return found


def save(run: Run, record: RunRecord, skill: float | None) -> None:
    """Networks, optimizers, schedules and cursor are a checkpoint on disk, or nothing is."""
    weights = {task.name: task.network.state_dict() for task in run.tasks}
    damaged = dict(ChainMap(*run.collective.gather(run.damaged)))
    state = {"cursor": run.cursor.dumps(), "tasks": run.tasks.state_dict(), "damaged": damaged}
    plan = {name: choice.as_dict() for name, choice in run.choices.items()}
    looked = {"validated": run.validated, "plan": plan}
    recipe = {"recipe": run.recipe.numeric_keys(), "config": run.recipe_text}
    learned = {task.name: learn.learned_dict(task) for task in run.tasks}
    about = {**recipe, "view": run.view.as_dict(), "learned": learned, "side": min(run.size)}
    record.save(run.tasks.steps, weights, {**state, **looked, **about}, metric=skill)


def finish(run: Run, record: RunRecord) -> None:
    """Every validation sample is scored, and the report is written."""
    scores = validate(run, record, limit=None)
    with record.phase("looking at single samples"):
        gallery = Gallery(scores[0], run.collective.gather)
        gallery.fill(run.answers(gallery.split, keys=gallery.keys))
    if record.is_main:
        record.report(scores, gallery, run.plan(), run.manifest.source, run.recipe_text)
    ranks.check_stop(run.collective, run.stop.asked)
    record.finished()


def go(run: Run) -> int:
    """The run to its end, or until it is asked to stop; the exit code."""
    recipe = run.recipe
    with run.open_record() as record:
        first = resume(run, record)
        if record.is_finished(first, run.total_steps):
            return 0
        record.start(first, run.manifest.source, run.recipe_text, run.tasks.idle)
        try:
            with record.phase("fitting to memory"):
                run.fit()
            record.show(run.plan(first))
            record.warn(first, run.advice())
            with record.phase("fitting the baselines"):
                training = run.evaluation_stream(recipe.data.train_split)
                run.baselines.fit(training, run.collective.total, run.tasks)
            train(run, record)
            finish(run, record)
        except ranks.RunStopped:
            save(run, record, None)
            record.interrupted(run.stop.reason)
            return run.stop.exit_code
        except learn.DoesNotFit as error:
            record.snapshot()
            raise run.with_advice(error) from None
    return 0


def show_plan(run: Run, on: str | None) -> int:
    """What would be done is printed, and nothing is written; the exit code."""
    try:
        run.accelerator.print(run.plan_lines(on))
    except ranks.RunStopped:
        return run.stop.exit_code
    return 0


def main() -> int:
    speak_without_waiting()
    url = ""
    try:
        asked = command_line(sys.argv[1:])
        url = asked.recipe.data.url
        run = open_run(asked.recipe)
        with run.stop:
            return show_plan(run, asked.on) if asked.only_plan else go(run)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not learn.is_out_of_memory(error):
            raise
        print(f"error: {error_text(error, url)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
