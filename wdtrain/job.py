"""Everything that is open while a run goes, opened from a command line.

The recipe is checked, data, device and networks are looked at, and micro-batches are fitted to the
device's memory, before a first step is taken. `train.py` walks through what is open here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from accelerate import Accelerator

from wdtrain import learn, memory, ranks
from wdtrain.config import Recipe, help_text, load_recipe
from wdtrain.disk.durable import described
from wdtrain.fields.resize import network_size
from wdtrain.memory.planner import Choice
from wdtrain.record.checkpoint import load_weights
from wdtrain.record.plan_cache import KeptPlan, device_facts
from wdtrain.record.run import RunRecord
from wdtrain.record.run_plan import RunPlan, plan_tasks, plan_text
from wdtrain.record.scores import Baselines, check_splits
from wdtrain.remote.urls import redacted, without_secrets
from wdtrain.store.manifest import Manifest
from wdtrain.stream import (
    Batch,
    Cursor,
    Order,
    balance_advice,
    fullest_share,
    load_dataset,
    order_of,
    stream_of,
)
from wdtrain.targets import Target

EVALUATION_BLOCKS = 2
"""Blocks a lane that are held where a split is read once: to be scored, it need not be shuffled,
and a part of it is a fair draw, since packing has dealt the samples."""


@dataclass
class Run:
    """Everything that is open while a run goes; `cursor` moves with each committed step, and
    `validated` is the last step after which the networks were looked at."""

    recipe: Recipe
    manifest: Manifest
    order: Order
    accelerator: Accelerator
    collective: ranks.Collective
    tasks: learn.TaskSet
    foreground: Target | None
    view: learn.View
    baselines: Baselines
    cursor: Cursor
    total_steps: int
    validated: int = 0
    choices: dict[str, Choice] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    stop: ranks.StopRequest = field(default_factory=ranks.StopRequest)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures that networks are trained on."""
        return network_size((self.manifest.height, self.manifest.width), self.recipe.data.size)

    @property
    def recipe_text(self) -> str:
        """The resolved recipe as YAML, as it may be kept: without what is secret in data.url."""
        return self.recipe.as_yaml(redacted(self.recipe.data.url))

    @property
    def training_view(self) -> learn.View:
        recipe = self.recipe
        return self.view.augmented(learn.augmentation_of(recipe.augment, seed=recipe.run.seed))

    def fields_of(self, more: Set[str] = frozenset()) -> list[str]:
        """The fields that the tasks see and learn, and some more, in the dataset's order: no others
        are read."""
        wanted = {name for task in self.tasks for name in (task.input, task.target.name)} | more
        return [name for name in self.manifest.fields if name in wanted]

    def open_record(self) -> RunRecord:
        """The record of the run, kept and shown as its recipe says."""
        recipe = self.recipe
        return RunRecord(
            self.accelerator,
            self.collective,
            folder=recipe.run.folder,
            console=recipe.log.console,
            keep=recipe.checkpoint.keep,
            log_every_steps=recipe.log.every_steps,
            plain_seconds=recipe.log.plain_seconds,
            tell=lambda error: error_text(error, recipe.data.url),
        )

    def is_due(self, every_steps: int) -> bool:
        """Whether something is done after this step that is done so often, and at the end."""
        steps = self.tasks.steps
        return steps > 0 and (steps == self.total_steps or steps % every_steps == 0)

    def stream(
        self,
        split: str,
        batch_size: int,
        *,
        cursor: Cursor | None = None,
        epochs: int | None = 1,
        shuffle_bytes: int | None = None,
        fields: Sequence[str] | None = None,
    ) -> ranks.StopOnAllRanks[Batch]:
        """This rank's batches of a split, as the recipe reads it, until a rank is asked to stop."""
        stream = stream_of(
            self.recipe.data,
            self.manifest,
            split,
            batch_size,
            rank=self.collective.rank,
            world=self.collective.world,
            size=self.size,
            cursor=cursor,
            epochs=epochs,
            shuffle_bytes=shuffle_bytes,
            damaged=self.damaged,
            pin_memory=self.accelerator.device.type == "cuda",
            give_up=self.stop.asked,
            fields=self.fields_of() if fields is None else fields,
        )
        return ranks.StopOnAllRanks(stream, self.collective, self.stop.asked)

    def evaluation_stream(self, split: str) -> ranks.StopOnAllRanks[Batch]:
        """This rank's batches of a split, for an evaluation: hardly shuffled, so that little is
        held beside what training holds, and the first few read no more than they need."""
        least = EVALUATION_BLOCKS * self.order.least_bytes
        return self.stream(
            split,
            self.recipe.evaluation_batch,
            shuffle_bytes=min(self.order.shuffle_bytes, least),
            fields=self.fields_of({self.foreground.name} if self.foreground else frozenset()),
        )

    def answers(
        self, split: str, limit: int | None = None, keys: Set[str] | None = None
    ) -> Iterator[learn.Answered]:
        """The batches of a split, each with every task's predictions and losses."""
        batches = self.evaluation_stream(split)
        return learn.evaluate_batches(self.tasks, batches, view=self.view, limit=limit, keys=keys)

    def plan(self, first_step: int = 0) -> RunPlan:
        """What is going to be done, by the micro-batches as they are now."""
        recipe = self.recipe
        networks = {name: task.network for name, task in recipe.tasks.items()}
        return RunPlan(
            title=recipe.run.folder,
            device=str(self.accelerator.device),
            batch_size=recipe.train.batch_size,
            ranks=self.collective.world,
            steps=self.total_steps,
            samples=self.order.samples,
            tasks=plan_tasks(self.tasks, networks),
            first_step=first_step,
        )

    def advice(self) -> str:
        """What would give every rank work in every step; "" where that is so."""
        recipe, world = self.recipe, self.collective.world
        return balance_advice(
            recipe.train.batch_size,
            world,
            norm_group=recipe.step.norm_group,
            lanes=recipe.data.lanes,
            chunk=recipe.data.chunk,
        )

    @property
    def fitting(self) -> memory.Fitting:
        """What micro-batches are fitted to: pictures, device, and the fullest rank's share."""
        recipe, (height, width) = self.recipe, self.size
        share = fullest_share(
            recipe.train.batch_size,
            self.collective.world,
            samples=self.order.samples,
            lanes=recipe.data.lanes,
            chunk=recipe.data.chunk,
        )
        return memory.Fitting(
            tasks=self.tasks,
            view=self.training_view,
            height=height,
            width=width,
            share=share,
            device=self.accelerator.device,
            collective=self.collective,
            asked=self.stop.asked,
        )

    def fit(self) -> None:
        """Micro-batches are those of the recipe or, where it leaves them open and the memory of the
        device can be measured, those that were measured there: now, or before for the same."""
        if self.recipe.step.micro_batch or self.accelerator.device.type != "cuda":
            return
        fitting, gauge = self.fitting, memory.CudaGauge(self.accelerator.device)
        facts = {**self.recipe.planned_by(), **device_facts(fitting.device)}
        kept = KeptPlan({**facts, **fitting.facts, "budget": gauge.budget_bytes // 2**26})
        known = {name: Choice.from_dict(one) for name, one in (kept.load() or {}).items()}
        # One rank's on all, since they are kept in checkpoints; what was chosen is agreed already.
        self.choices = self.collective.gather(fitting.fit(gauge, known))[0]
        if not known and self.accelerator.is_local_main_process:
            kept.save({name: choice.as_dict() for name, choice in self.choices.items()})

    def with_advice(self, error: learn.DoesNotFit) -> learn.DoesNotFit:
        """The refusal with what was needed, what is allowed, and what would fit."""
        budget_bytes = memory.budget_bytes(self.accelerator.device)
        return memory.explain_refusal(self.fitting, error, budget_bytes)

    def plan_lines(self, on: str | None) -> str:
        """What `--plan` prints; on: a device or budget that is not here, None: this one."""
        if on is None:
            try:
                self.fit()
            except learn.DoesNotFit as error:
                raise self.with_advice(error) from None
        balance = self.order.balance(self.recipe.train.batch_size, self.collective.world)
        text = plan_text(self.plan(), balance=balance, advice=self.advice())
        if on is not None:
            more = memory.estimate_lines(self.fitting, on, self.recipe.memory_limit)
        else:
            more = memory.explain_choices(self.choices) if self.choices else [_NOT_MEASURED]
        return "\n".join([text, *more])


_NOT_MEASURED = (
    "memory      not planned: step.micro_batch decides, or on a CPU step.norm_group; "
    "--on 24GiB or --on 'RTX 4090' estimates it for a GPU that is not here"
)


def error_text(error: BaseException, url: str) -> str:
    """An error for a person, without what is secret in the dataset's URL, or in any other."""
    return without_secrets(described(error), url)


def open_run(recipe: Recipe) -> Run:
    """Data, device and networks are checked and ready; nothing is written yet."""
    data = recipe.data
    manifest = load_dataset(data)
    splits = check_splits(recipe.evaluate.splits, manifest.splits)
    manifest.check_size(data.size)
    manifest.check_shards(data.train_split, *splits)
    accelerator = ranks.start_accelerator(
        precision=recipe.precision,
        trackers=recipe.log.trackers,
        folder=recipe.run.folder,
        cpu_threads=recipe.cpu_threads,
        memory=recipe.memory_limit,
        timeout_seconds=recipe.run.timeout_seconds,
    )
    collective = ranks.open_collective(recipe.run.timeout_seconds)
    order = order_of(data, manifest)
    order.check_batch(recipe.train.batch_size, collective.world)
    steps, device = recipe.total_steps(order.samples), accelerator.device
    weights = {name: load_weights(t.weights) for name, t in recipe.tasks.items() if t.weights}
    size = network_size((manifest.height, manifest.width), data.size)
    learned = learn.learned_by(recipe, manifest.fields)
    tasks = learn.build_tasks(
        recipe, learned, total_steps=steps, device=device, size=size, weights=weights
    )
    ranks.register_tasks(accelerator, tasks)
    tasks.open()  # zeros are summed
    # Before `fit` looks at what memory is left.
    ranks.set_up(device, tasks.gradient_buffer.flat, collective)
    return Run(
        recipe=recipe,
        manifest=manifest,
        order=order,
        accelerator=accelerator,
        collective=collective,
        tasks=tasks,
        foreground=learn.foreground_for(recipe, learned, manifest.fields),
        view=learn.plain_view(manifest, {one.input for one in learned.values()}, recipe.precision),
        baselines=Baselines(),
        cursor=Cursor.at(order, 0),
        total_steps=steps,
    )


@dataclass(frozen=True)
class Asked:
    """What a command line asks for. only_plan: print the plan and stop; on: for which device."""

    recipe: Recipe
    only_plan: bool
    on: str | None


def command_line(arguments: list[str]) -> Asked:
    """What is asked for; `--help` and `--print-config` print and exit."""
    parser = argparse.ArgumentParser(
        prog="wdtrain/train.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the networks of a recipe on one stream of samples. Started again by the "
        "same command, a run goes on from its newest whole checkpoint.",
        epilog=f"fields of a recipe, with their defaults:\n{help_text()}\n\n{_EXAMPLES}",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    parser.add_argument(
        "--plan", action="store_true", help="measure and print what would be done, and stop"
    )
    parser.add_argument(
        "--on",
        metavar="DEVICE",
        help="with --plan: estimate it for a GPU or budget that is not here (24GiB, 'RTX 4090')",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved recipe, and stop"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields to set")
    flags = parser.parse_intermixed_args(arguments)
    if flags.on and not flags.plan:
        parser.error("--on says for which device to plan; give --plan with it")
    recipe = load_recipe(flags.config, flags.overrides)
    if flags.print_config:
        parser.exit(message=recipe.as_yaml(redacted(recipe.data.url)))
    return Asked(recipe, flags.plan, flags.on)


_EXAMPLES = """examples:
  accelerate launch --config_file accelerate_config.yaml wdtrain/train.py --config recipes/kit.yaml
  ... --config recipes/kit.yaml run.folder=runs/try train.steps=50 tasks.mask.optimizer.lr=0.01
  ... --config recipes/kit.yaml --plan
  ... --config recipes/full.yaml train.batch_size=8192 --plan --on 24GiB"""
