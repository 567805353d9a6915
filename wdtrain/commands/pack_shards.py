"""`pack-shards`: a folder of triples, or a source made on the fly, into a streamed dataset."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wdtrain.commands import Output, run_command, tool_parser
from wdtrain.commands.pack_sources import (
    FIELD_EXAMPLES,
    SOURCE_HELP,
    add_source_options,
    advice_on,
    layouts_help,
    source_of,
)
from wdtrain.packing.fit import FITS
from wdtrain.packing.options import PackingOptions
from wdtrain.packing.pack import ENGINES, pack_with
from wdtrain.packing.parts import PackingPart, PartDone
from wdtrain.packing.plan import SPLIT_BY
from wdtrain.packing.splits import Holdout
from wdtrain.remote.urls import is_url, without_secrets
from wdtrain.sources.declared import declaration_note
from wdtrain.sources.folder import declaration
from wdtrain.store import manifest as manifests
from wdtrain.store.manifest import Manifest

_EXAMPLES: Final = """\
examples:
  pack-shards triples/ shards/mine
  pack-shards photos/ shards/small --size 64 --encoding raw
  pack-shards photos/ shards/square --size 256x256 --fit crop
  pack-shards playground:count=20000,size=64,difficulty=0.5 shards/playground --processes 2
  pack-shards playground:count=20000,size=64,labels=true shards/playground-labels   # eight classes
  pack-shards triples/ shards/plain --compression none        # plain .tar shards
  pack-shards triples/ shared/mine --part 2/4                 # one of four machines
  pack-shards triples/ shared/mine --engine ray               # tasks of a Ray cluster

A folder holds KEY.overlay.jpg, KEY.mask.png, KEY.depth.png and, if you like, KEY.json for each
triple; triples.json in it says what their values mean. Without it depth is relative, masks alpha.
  {"depth": {"kind": "metric", "unit": "mm", "near_m": 0.5, "far_m": 20.0}}
      linear depth, 0 unknown: unit mm, cm or m, or "scale", the values a metre (TUM 5000, KITTI
      256); it is packed as 16-bit logarithmic codes between the limits
  {"depth": {"kind": "metric", "unit": "code", "near_m": 0.5, "far_m": 20.0, "bits": 16}}
      codes as make-triples and docs/format.md write them; kind may be geometric, and without limits
      inverse or relative
  {"mask": {"foreground": [1], "background": [0, 255]}}
      masks of labels; without it a mask is alpha, foreground from 128, and may be empty
Folders train/, val/ and test/ below it are kept as splits. Files that were mended since are seen.
A packing that was killed goes on when the same command is given again. The exit code is 0, or 2
after an error.

On many machines, all of which see SOURCE and TARGET: give each the same command with its --part I/N
(in a SLURM array of 1-N: --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT), at once or one after
the other, in any order; a part that was killed is given again. The one that finds all shards there
writes the manifest. The bytes are those that one machine would have written.
"""
SIZE_HELP: Final = (
    "resize: the shorter side, or height x width; a sample of another shape is rejected unless "
    "--fit says what becomes of it; default: the source's size"
)
FIT_HELP: Final = (
    "what becomes of a sample of another shape: stretch it, crop it to its middle, or pad it "
    "(black in images, unknown in all else: nothing is learned from it); default: it is rejected"
)
COMPRESSION_HELP: Final = "default zstd:9; raw zstd:-1 (fast: a third of the time, 1.1 x the bytes)"
MAX_REJECTS: Final = (
    "share of samples that may be left out; above it nothing is packed; default 0.001"
)
ENGINE_HELP: Final = (
    "processes of this machine (default), or ray: tasks of the cluster that RAY_ADDRESS names, "
    "else of a Ray started here"
)
SPLITS_HELP: Final = (
    "own: keep the folders train/, val/ (valid/, validation/, dev/) and test/ of SOURCE as splits; "
    "deal: divide it by its backgrounds and cut-outs; auto (default): own where all triples lie in "
    "such folders"
)
_PLAIN_EVERY_SECONDS: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `pack-shards` with these arguments (default: those of the command line)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    lines: list[str] = []
    code = run_command(lambda: _pack_or_advise(given, lines))
    for line in lines:
        print(without_secrets(line, *filter(is_url, given)), file=sys.stderr)
    return code


def _pack_or_advise(given: Sequence[str], lines: list[str]) -> int:
    """As `_pack`; `lines` are what is to be said after the error of a source that is refused."""
    options = _parser().parse_args(given)
    try:
        return _pack(options)
    except ValueError as error:
        lines += advice_on(options, given, error)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "pack-shards",
        "Packs pictures, masks, classes, depths into shards that stream exactly.",
        f"{FIELD_EXAMPLES}\n{layouts_help()}\n{_EXAMPLES}",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help=SOURCE_HELP)
    add("target", metavar="TARGET", help="the folder of the dataset: new or empty")
    add("--encoding", choices=("image", "raw"), default="image", help="JPEG and PNG, or arrays")
    add("--compression", metavar="zstd:N|none", help=COMPRESSION_HELP)
    add("--size", type=_size, metavar="S|HxW", help=SIZE_HELP)
    add("--fit", choices=FITS, help=FIT_HELP)
    add("--processes", type=int, metavar="N", help="default: the usable cores")
    add("--part", metavar="I/N", help="pack every N-th shard only, from the I-th")
    add("--engine", choices=ENGINES, default="processes", help=ENGINE_HELP)
    add("--seed", type=int, default=0, metavar="N", help="of shuffle and splits; default 0")
    add("--max-rejects", type=float, default=0.001, metavar="P", help=MAX_REJECTS)
    add("--shard-samples", type=int, metavar="N", help="default 8192, fewer for a small source")
    add("--quality", type=int, default=90, metavar="Q", help="of JPEGs encoded here; default 90")
    add("--splits", choices=SPLIT_BY, default="auto", help=SPLITS_HELP)
    add_source_options(parser)
    _add_shares(parser.add_argument_group("shares held out of training, 0 to 1"))
    return parser


def _add_shares(group: argparse._ArgumentGroup) -> None:
    for name, what in (
        ("backgrounds", "backgrounds"),
        ("cutouts", "cut-outs"),
        ("pairs", "pairs of a known background and a known cut-out"),
        ("samples", "samples, where the source does not know their parts; whole groups of them"),
    ):
        share = getattr(Holdout(), name)
        text = f"{what}; default {share}"
        group.add_argument(f"--holdout-{name}", type=float, default=share, metavar="P", help=text)


def _size(text: str) -> int | tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64 or 96x128")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def _pack(options: argparse.Namespace) -> int:
    chosen = _options(options)
    source = source_of(options)
    note: str | None = None
    was_there = (Path(options.target) / manifests.MANIFEST_NAME).exists()
    started = time.perf_counter()
    with long_work("packing") as progress:
        packed = pack_with(source, options.target, replace(chosen, progress=progress))
    if not options.field and options.layout in (None, "triples") and callable(source):
        folder = Path(options.source)
        note = declaration_note(folder, declaration(folder))
    if note:
        print(f"note: {note}", file=sys.stderr)
    if isinstance(packed, PartDone):
        print(packed)
    elif was_there:
        print(f"{options.target} is packed already with these settings; nothing was changed")
    else:
        _report(packed, options.target, time.perf_counter() - started)
    return 0


def _options(options: argparse.Namespace) -> PackingOptions:
    """What the command line chose."""
    part = None if options.part is None else PackingPart.parse(options.part)
    return PackingOptions(
        encoding=options.encoding,
        compression=options.compression,
        size=options.size,
        fit=options.fit,
        processes=options.processes,
        seed=options.seed,
        max_rejects=options.max_rejects,
        shard_samples=options.shard_samples,
        jpeg_quality=options.quality,
        holdout=Holdout(
            backgrounds=options.holdout_backgrounds,
            cutouts=options.holdout_cutouts,
            pairs=options.holdout_pairs,
            samples=options.holdout_samples,
        ),
        part=None if part is None else (part.number, part.count),
        engine=options.engine,
        splits=options.splits,
        say=_say,
    )


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _report(manifest: Manifest, target: str, seconds: float) -> None:
    splits = ", ".join(f"{name} {split.samples:,}" for name, split in manifest.splits.items())
    print(f"packed {manifest.samples:,} samples in {seconds:.1f} s into {target}: {splits}")
    print(
        f"{manifest.num_bytes:,} bytes, {manifest.num_bytes / manifest.samples:,.0f} a sample; "
        f"{manifest.rejects['count']:,} rejected; digest {manifest.digest[:12]}"
    )


@contextmanager
def long_work(what: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, total) that shows progress: a bar on a terminal, else lines.

    what: "packing"; unit: what is counted.
    """
    console = Output(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(what, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(what: str, unit: str) -> Callable[[int, int], None]:
    started = last = time.perf_counter()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= _PLAIN_EVERY_SECONDS:
            last = now
            rate = done / (now - started)
            print(f"{what}: {done:,} of {total:,} {unit}, {rate:,.0f} a second", file=sys.stderr)

    return show
