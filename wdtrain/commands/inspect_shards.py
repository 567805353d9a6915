"""`inspect-shards`: what a packed dataset holds, whether it is whole, whether it leaks, in which
order it is read (`inspect_order.py`), and what networks saw of a sample (`inspect_augment.py`)."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Final

from rich.console import Console
from rich.table import Table

from wdtrain.commands import Output, run_command, tool_parser
from wdtrain.commands.contact_sheet import contact_sheet
from wdtrain.commands.inspect_augment import add_augment
from wdtrain.commands.inspect_index import add_index, index_summary
from wdtrain.commands.inspect_order import add_order
from wdtrain.commands.own_kinds import add_kinds, register_kinds
from wdtrain.commands.pack_shards import long_work
from wdtrain.commands.read_elsewhere import programs
from wdtrain.disk.failures import StoreError
from wdtrain.packing.audit import audit
from wdtrain.packing.verify import verify
from wdtrain.record.outputs import OVERWRITE_HELP, Outputs
from wdtrain.record.picture_grid import png_of
from wdtrain.remote.urls import redacted
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.layouts import layout_with
from wdtrain.sources.named_source import HF
from wdtrain.store.manifest import Manifest

_EXAMPLES: Final = """\
examples:
  inspect-shards show shards/mine
  inspect-shards verify shards/mine          # reads every byte, decodes every sample
  inspect-shards audit shards/mine           # is something held out trained on?
  inspect-shards grid shards/mine --out sheet.png --split train --count 24
  inspect-shards order shards/mine --position 1000 --count 32
  inspect-shards order --run runs/mine --step 1200 --world 8 --rank 3
  inspect-shards augment --run runs/mine playground-000000017 --epoch 0,1,2
  inspect-shards index 'data-{0000..0099}.tar' --out shards/data --field image=image:jpg --field ...

audit says `proven`, `found leaks`, or `not known` where samples do not name what they are made of,
where pictures look alike, or where splits of the source's own share what they are made of; pictures
are compared by their bytes and by a perceptual hash, too.
TARGET is a dataset's folder or URL. The exit code is 0, 1 where a dataset is damaged or leaks, and
2 after an error.
"""
_SHOWN_REJECTS: Final = 10
_SHOWN_PROBLEMS: Final = 50

Act = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `inspect-shards` with these arguments (default: the command line's)."""
    return run_command(lambda: _act(_parser().parse_args(arguments)))


def _act(options: argparse.Namespace) -> int:
    return int(options.act(options))


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("inspect-shards", "Looks into a packed dataset.", _EXAMPLES)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, act, text in (
        ("show", show, "what the manifest says: fields, splits, sizes, rejects"),
        ("verify", verify_all, "read every block, check every checksum, decode every sample"),
        (
            "audit",
            audit_all,
            "is something held out trained on? By names and by looks",
        ),
        ("grid", write_grid, "write a contact sheet: the fields of some samples side by side"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("target", metavar="TARGET", help="a dataset's folder or URL")
        add_kinds(action)
        action.set_defaults(act=_of_manifest(act))
        if name == "grid":
            _grid_options(action)
    add_index(actions)
    add_order(actions)
    add_augment(actions)
    return parser


def _of_manifest(act: Callable[[Manifest, argparse.Namespace], int]) -> Act:
    """An action on a manifest as one on the options that name it."""

    def of_target(options: argparse.Namespace) -> int:
        register_kinds(options)
        return act(Manifest.load(options.target), options)

    return of_target


def _grid_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("--out", type=Path, default=Path("grid.png"), help="default grid.png")
    action.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    action.add_argument("--split", default="train", help="default train")
    action.add_argument("--count", type=int, default=24, help="samples; default 24")


def show(manifest: Manifest, options: argparse.Namespace) -> int:
    """Prints the manifest for a person."""
    console = Output(soft_wrap=True)
    console.print(
        f"[bold]{redacted(manifest.url)}[/]: {manifest.samples:,} samples of {_form(manifest)}, "
        f"{manifest.samples_per_block} a block, digest {manifest.digest[:12]}"
    )
    console.print(_fields_table(manifest))
    lines = " \\\n    ".join(declarations(manifest))
    is_of_files = manifest.source.keys() & {"patterns", "endings"}
    what = (
        "declared by"
        if is_of_files or manifest.source.get("kind") == HF
        else "its tars are declared by"
    )
    console.print(f"{what}\n    {lines}", markup=False, highlight=False)
    for image in manifest.sums:
        for name, values in zip(("mean", "std"), manifest.mean_and_std(image), strict=True):
            numbers = " ".join(f"{value:.4f}" for value in values)
            console.print(f"{image} {name} (train, red green blue): {numbers}")
    console.print(_splits_table(manifest))
    _print_rejects(console, manifest)
    if manifest.index is not None:
        return 0  # others have their tars as they are
    for title, program in programs(manifest, next(iter(manifest.splits))).items():
        console.print(f"\nread with {title}, and no code of ours:", markup=False)
        console.print(indent(program, "    "), markup=False, highlight=False)
    return 0


def _form(manifest: Manifest) -> str:
    if manifest.index is not None:
        return index_summary(manifest.index)
    return f"{manifest.height} x {manifest.width}, {manifest.encoding}, {manifest.compression}"


def _fields_table(manifest: Manifest) -> Table:
    table = Table("field", "kind", "member", "dtype")
    for name, field in manifest.fields.items():
        member = (
            f"KEY.{field.member(manifest.encoding)}" if manifest.index is None else "as it lies"
        )
        table.add_row(name, field.kind, member, str(field.dtype))
    return table


def declarations(manifest: Manifest) -> list[str]:
    """What declares the fields, as it is typed: of somebody's files as they were found, of all else
    by the endings of its members."""
    source = manifest.source
    layout = HF if source.get("kind") == HF else layout_with(source.get("patterns", {}))
    said = [f"--layout {layout}"] if layout else []
    for field in manifest.fields.values():
        kind = type(field)
        if kind.__module__.partition(".")[0] != "wdtrain":
            said.append(f"--kind {field.kind}={kind.__module__}:{kind.__qualname__}")
    for name, field in manifest.fields.items():
        endings = source.get("endings", {}).get(name)
        pattern = "|".join(endings) if endings else source.get("patterns", {}).get(name)
        option = FieldOption.of(field, pattern or field.member(manifest.encoding))
        said.append(f"--field {shlex.quote(str(option))}")
    return said


def _splits_table(manifest: Manifest) -> Table:
    table = Table("split", "samples", "shards", "bytes", "bytes a sample")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, split in manifest.splits.items():
        num_bytes = sum(shard.num_bytes for shard in split.shards)
        if manifest.index is not None:
            num_bytes = manifest.index.split_bytes[name]
        row = (split.samples, len(split.shards), num_bytes, round(num_bytes / split.samples))
        table.add_row(name, *(f"{value:,}" for value in row))
    return table


def _print_rejects(console: Console, manifest: Manifest) -> None:
    rejects = manifest.rejects
    passed_over = manifest.source.get("passed_over", {})
    if passed_over.get("count"):
        first = ", ".join(passed_over["first"])
        text = f"files that are no part of a sample: {passed_over['count']:,}, e.g. {first}"
        console.print(text, markup=False)
    console.print(f"rejects: {rejects['count']:,}")
    for reason, count in rejects["reasons"].items():
        console.print(f"  {count:,} x {reason}", markup=False)
    for entry in rejects["list"][:_SHOWN_REJECTS]:
        console.print(f"  {entry['key']}: {entry['reason']}", markup=False)


def verify_all(manifest: Manifest, options: argparse.Namespace) -> int:
    """Prints what is damaged; 1 if anything is."""
    negatives: Counter[str] = Counter()
    with long_work("verifying") as progress:
        problems = verify(manifest, progress, negatives=negatives)
    if not problems:
        count = f"{manifest.samples:,} samples decoded"
        if empty := negatives.total():
            count += f", {empty:,} of them without foreground"
        print(f"{redacted(manifest.url)} is whole: {count}, all sums right")
    return _print_problems(problems)


def audit_all(manifest: Manifest, options: argparse.Namespace) -> int:
    """Prints the parts of each split and what leaks; 1 if anything does."""
    with long_work("auditing") as progress:
        found = audit(manifest, progress)
    table = Table("split", "samples", "backgrounds", "cut-outs", "pairs", "groups")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, parts in found.splits.items():
        of_parts = len(parts.backgrounds), len(parts.cutouts), len(parts.pairs), len(parts.groups)
        table.add_row(name, *(f"{count:,}" for count in (parts.samples, *of_parts)))
    Output().print(table)
    if found.verdict == "proven":
        print("proven: no leak: no split shares what it must not, and no key comes twice")
    elif found.verdict == "found leaks":
        print("found leaks:")
    elif found.doubts:
        print("not known: what is on both sides, or looks so, is for a person to judge:")
    else:
        print(f"not known: nothing was found, but {'; '.join(found.unknown)}")
    code = _print_problems(found.problems)
    for doubt in found.doubts:
        print(doubt)
    for note in [*(found.unknown if found.problems or found.doubts else []), *found.notes]:
        print(f"({note})")
    return code


def _print_problems(problems: list[str]) -> int:
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(problem)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"... and {len(problems) - _SHOWN_PROBLEMS:,} more")
    return 1 if problems else 0


def write_grid(manifest: Manifest, options: argparse.Namespace) -> int:
    """Writes a contact sheet as PNG."""
    if options.count < 1:
        raise StoreError(f"--count {options.count}: at least 1 sample is needed")
    out = Outputs.for_file(
        options.out, "inspect-shards grid", overwrite=options.overwrite, ending=".png"
    )
    picture = contact_sheet(manifest, split=options.split, count=options.count)
    out.write(options.out.name, png_of(picture))
    print(f"wrote {options.out} ({picture.shape[1]} x {picture.shape[0]})")
    return 0
