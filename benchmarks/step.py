"""Our training step beside a bare PyTorch loop of the same networks, accelerate and Lightning.

Usage: python benchmarks/step.py [--tasks both] [--batch 64] [--repeat 5] [--json FILE] [--quick]

Everybody trains the same networks (seed-mask by bce+dice, seed-unet by smooth-l1, AdamW) on the
same stored batches in memory, uint8, with the same augmentation, losses, precision and threads.

  bare                   the shortest loop by hand: the limit
  bare, by part          the same with a look at the clock after each part
  bare, no augmentation  float and normalised in three operations
  bare compiled          with torch.compile (--compile)
  ours                   `train_step` with everything on, its result read one step late
  ours + record          and each step logged: metrics.jsonl, TensorBoard, plain console
  ours compiled          with torch.compile (--compile)
  ours, whole train.py   as a user starts it: streamed from disk, logged, a process of its own
  accelerate             its documented loop: prepare, accumulate, backward
  lightning              a barebones Trainer, manual optimization (see requirements-step.txt)

Rounds are interleaved, in an order that is turned round each time; the first is not counted. A
figure is the median of the rounds, a ratio the median of the rounds' ratios. See benchmarks/README.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
sys.path.insert(1, str(ROOT))

from findings import add_options, keeper  # noqa: E402
from steps.measure import Result, measure  # noqa: E402
from steps.ours import Ours, OursWithRecord  # noqa: E402
from steps.plain import Accelerated, Bare, BareByPart, unaugmented  # noqa: E402
from steps.table import as_document, report  # noqa: E402
from steps.turn import Contender  # noqa: E402
from steps.whole import Failed, WholeTraining  # noqa: E402
from steps.work import Settings, Work, open_work  # noqa: E402

from wdtrain.packing.pack import pack  # noqa: E402
from wdtrain.ranks.devices import indexed  # noqa: E402
from wdtrain.ranks.heap import keep_freed_memory  # noqa: E402
from wdtrain.scenes.playground import Playground  # noqa: E402

SIDE, DIFFICULTY, NUM_BATCHES = 64, 0.3, 8
TASKS: dict[str, tuple[str, ...]] = {
    "mask": ("mask",),
    "depth": ("depth",),
    "both": ("mask", "depth"),
}


class NotInstalled(RuntimeError):
    """A row's package is missing; the message is the command that installs it."""


def start_accelerator(settings: Settings, folder: Path) -> Accelerator:
    """For its own row and for the record's trackers; there is one a process."""
    return Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=-(-settings.batch // settings.micro_batch),
        cpu=settings.device.type == "cpu",
        log_with=["tensorboard"],
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
    )


def lightning(work: Work, packages: Path) -> Contender:
    """The row, if Lightning lies in the environment or in `packages`."""
    if packages.is_dir():
        sys.path.append(str(packages))  # last: torch and all else stay the environment's
    if importlib.util.find_spec("lightning") is None:
        raise NotInstalled(
            f"not installed: pip install --no-deps --target {packages} "
            "--requirement benchmarks/requirements-step.txt"
        )
    from steps.bolt import Lightning

    return Lightning(work)


def makers(
    work: Work, url: str, folder: Path, stack: ExitStack, options: argparse.Namespace
) -> dict[str, Callable[[], Contender]]:
    """How each row is opened, by name, in the order of the table."""
    accelerator = start_accelerator(work.settings, folder)

    def with_record() -> Contender:
        opened = OursWithRecord(work, accelerator, folder / "record")
        stack.callback(opened.close)
        return opened

    def whole() -> Contender:
        opened = WholeTraining(work.settings, url, folder / "whole")
        stack.callback(opened.close)
        return opened

    rows: dict[str, Callable[[], Contender]] = {
        "bare": lambda: Bare(work),
        "bare, by part": lambda: BareByPart(work),
        "bare, no augmentation": lambda: Bare(work, prepare=unaugmented(work)),
        "ours": lambda: Ours(work),
        "ours + record": with_record,
        "ours, whole train.py": whole,
        "accelerate": lambda: Accelerated(work, accelerator),
        "lightning": lambda: lightning(work, options.packages),
    }
    if options.compile:
        rows["bare compiled"] = lambda: Bare(work, compiled=True)
        rows["ours compiled"] = lambda: Ours(work, compiled=True)
    return rows


def open_rows(
    rows: dict[str, Callable[[], Contender]],
) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders that can be opened, and why the others cannot."""
    opened, missing = {}, {}
    for name, make in rows.items():
        try:
            opened[name] = make()
        except (NotInstalled, Failed) as error:
            missing[name] = str(error)
    return opened, missing


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", choices=TASKS, default="both", help="networks of a step (default both)")
    add("--batch", type=int, default=64, help="samples of a step (default 64)")
    add("--micro-batch", type=int, help="samples at once (default: the batch)")
    add("--norm-group", type=int, default=32, help="ours: samples normalised together (32)")
    add("--precision", choices=("bf16", "fp32"), default="bf16", help="arithmetic (default bf16)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: the cores")
    add("--steps", type=int, default=5, help="steps of a turn that count, after one (default 5)")
    add("--repeat", type=int, default=5, help="rounds that count (default 5)")
    add("--compile", action="store_true", help="bare and ours also with torch.compile")
    add("--only", default="", metavar="ROW;...", help="these rows, and bare, alone")
    add("--data", metavar="URL", help="a packed dataset (default: 2,048 playground triples)")
    add("--packages", type=Path, default=ROOT / ".bench-envs" / "step", help="where Lightning is")
    add("--plain-heap", action="store_true", help="leave glibc's heap as it is, for everybody")
    add("--quick", action="store_true", help="one round of two steps: does it run?")
    add_options(parser)
    return parser


def compare(settings: Settings, folder: Path, options: argparse.Namespace) -> dict[str, Result]:
    """Every row measured, those that cannot be opened with the reason."""
    url = options.data
    if url is None:
        url = str(folder / "data")
        pack(Playground(2048, SIDE, difficulty=DIFFICULTY), url)
    with ExitStack() as stack:
        work = open_work(url, settings, NUM_BATCHES)
        rows = makers(work, url, folder, stack, options)
        wanted = {name for name in options.only.split(";") if name} | {"bare"}
        unknown = wanted - set(rows)
        if unknown:
            raise SystemExit(f"there is no row {sorted(unknown)}; they are {list(rows)}")
        chosen = {name: make for name, make in rows.items() if name in wanted or len(wanted) == 1}
        opened, missing = open_rows(chosen)
        repeat, steps = (1, 2) if options.quick else (options.repeat, options.steps)
        return measure(opened, missing, work, repeat=repeat, steps=steps)


def settings_of(options: argparse.Namespace) -> Settings:
    """ValueError where the numbers do not fit together."""
    if min(options.steps, options.repeat, options.threads) < 1:
        raise ValueError("--steps, --repeat and --threads must be at least 1")
    return Settings(
        targets=TASKS[options.tasks],
        batch=options.batch,
        micro_batch=options.micro_batch or options.batch,
        norm_group=options.norm_group,
        precision=options.precision,
        threads=options.threads,
        device=indexed(options.device),
    )


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    try:
        settings = settings_of(options)
    except ValueError as error:
        parser.error(str(error))
    keep = keeper(parser, options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that train.py is ended too
    torch.set_num_threads(settings.threads)
    if settings.device.type == "cpu" and not options.plain_heap:
        keep_freed_memory()  # as train.py does; everybody here gains by it
    machine = (
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    )
    if settings.device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(settings.device)}"
    with tempfile.TemporaryDirectory() as scratch:
        results = compare(settings, Path(scratch), options)
    print(report(machine, settings, results))
    keep(as_document(machine, settings, results))


if __name__ == "__main__":
    main()
