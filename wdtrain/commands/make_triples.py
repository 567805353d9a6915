"""make-triples: the playground, a kit of pictures or the seed project, written as plain files.

Per triple KEY.overlay.jpg KEY.mask.png KEY.depth.png KEY.json, and `triples.json` at the end: a
folder without it is an interrupted run, which the same command finishes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import track

from wdtrain.commands import Output, run_command, tool_parser
from wdtrain.disk.sourcefiles import is_clutter
from wdtrain.fields import DepthField, Field, FieldError, Sample
from wdtrain.fields.sample import encode_meta
from wdtrain.fields.source import Source
from wdtrain.packing.contents import FromFiles, all_contents
from wdtrain.record.outputs import TEMPORARY_PREFIX, write_new
from wdtrain.scenes.compose import Composition
from wdtrain.scenes.lift import lifts_json
from wdtrain.scenes.playground import Playground
from wdtrain.sources.folder import TRIPLES, UNFINISHED
from wdtrain.sources.layouts import open_layout

_MOST_WAITING = 32


def main() -> int:
    return run_command(_main)


def _main() -> int:
    arguments = _parser().parse_args()
    source, lifts = arguments.build(arguments)
    rejects = write_triples(source, arguments.out)
    if lifts is not None:
        print(_keep_lifts(lifts(), lift_path(arguments.out)))
    passed_over = getattr(source, "passed_over", None)
    if passed_over is not None and passed_over.count:
        print(f"note: {passed_over}", file=sys.stderr)
    print(f"{len(source) - len(rejects)} triples in {arguments.out}, {len(rejects)} rejected")
    for reject in rejects[:10]:
        print(f"rejected {reject['key']}: {reject['reason']}", file=sys.stderr)
    if len(rejects) == len(source):
        raise ValueError("every triple was rejected; the reasons stand above and in triples.json")
    return 0


def lift_path(out: Path) -> Path:
    """Where the lifts of a composition are kept: beside the folder, which holds triples alone."""
    return out.parent / f"{out.name}.lift.json"


def _keep_lifts(text: str, path: Path) -> str:
    """What to say of the lifts: they are in `path`, where nobody has corrected them there."""
    try:
        write_new(path, text.encode())
    except FileExistsError:
        return (
            f"lift: {path} was there already with other numbers, corrected by hand or of another "
            "kit, and is left as it is; move it away and run again to have those of this folder"
        )
    return f"lift: {path} (correct it by hand and give it back with --lift)"


def write_triples(source: Source, out: Path) -> list[dict[str, str]]:
    """The rejects; `out` then holds all other triples and, written last, `triples.json`.

    An interrupted run of the same source is finished: what is whole in it is not made again.
    """
    about = dict(source.description)
    if isinstance(source, FromFiles):
        about["contents"] = all_contents(source, len(source))
    (depth,) = (field for field in source.fields if isinstance(field, DepthField))
    description = {"depth": depth.format.as_dict(), "source": about}
    spec = json.dumps(description, sort_keys=True)
    if (whole := _open(out, spec)) is not None:
        return whole
    _remove_leftovers(out)
    with ThreadPoolExecutor(max_workers=1) as writer:
        rejects = _make(source, out, writer)
    index_text = json.dumps(
        {**description, "count": len(source) - len(rejects), "rejects": rejects}, indent=1
    )
    _write(out / TRIPLES, (index_text + "\n").encode())
    (out / UNFINISHED).unlink()
    return rejects


def _make(source: Source, out: Path, writer: Executor) -> list[dict[str, str]]:
    """The rejects. A second thread writes: creating files takes as long as making pictures."""
    rejects: list[dict[str, str]] = []
    writing: deque[Future[None]] = deque()
    for index in _progress(range(len(source)), f"making triples in {out}"):
        key = source.key(index)
        if (out / f"{key}.json").exists():
            continue
        try:
            sample = source.load(index)
        except FieldError as error:
            rejects.append({"key": key, "reason": str(error)})
            continue
        writing.append(writer.submit(_write_triple, out, source.fields, sample))
        if len(writing) > _MOST_WAITING:
            writing.popleft().result()
    for written in writing:
        written.result()
    return rejects


def _open(out: Path, spec: str) -> list[dict[str, str]] | None:
    """None with `out` ready to be written to, or the rejects if it is whole already."""
    if (out / TRIPLES).is_file():
        index = _read_index(out / TRIPLES)
        held = {name: index.get(name) for name in ("depth", "source")}
        if json.dumps(held, sort_keys=True) == spec:
            rejects: list[dict[str, str]] = index["rejects"]
            return rejects
        raise ValueError(
            f"{out} holds triples of another specification; they would be mixed; choose another "
            "--out or remove it"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; triples are written to a folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    started = out / UNFINISHED
    if started.is_file():
        if started.read_text(encoding="utf-8") != spec:
            raise ValueError(
                f"{out} holds an interrupted run of another specification; choose another --out or "
                "remove it"
            )
    elif any(not _is_ours_or_nobodys(path.name) for path in out.iterdir()):
        raise ValueError(f"{out} is not empty; choose another --out, or empty it")
    else:
        _write(started, spec.encode())
    return None


def _read_index(path: Path) -> dict[str, Any]:
    """What a `triples.json` says; {} for one that says nothing that can be read."""
    try:
        index = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return index if isinstance(index, dict) else {}


def _is_ours_or_nobodys(name: str) -> bool:
    return name.startswith(TEMPORARY_PREFIX) or is_clutter(name)


def _remove_leftovers(out: Path) -> None:
    for path in out.glob(f"{TEMPORARY_PREFIX}*.partial"):
        path.unlink()


def _write_triple(out: Path, fields: tuple[Field, ...], sample: Sample) -> None:
    """The triple's four files; the JSON comes last and marks it whole."""
    for field in fields:
        value = sample.arrays[field.name]
        data = value if isinstance(value, bytes) else field.encode(value, "image", quality=90)
        _write(out / f"{sample.key}.{field.member('image')}", data)
    _write(out / f"{sample.key}.json", encode_meta(sample.meta))


def _write(path: Path, data: bytes) -> None:
    """`data` under its name, whole or not at all, and never over anything else."""
    try:
        write_new(path, data, synced=False)
    except FileExistsError as error:
        raise ValueError(
            f"{path} exists and is not what is made here, so it would be lost; move it away "
            "and run the same command again"
        ) from error


def _progress(indices: range, title: str) -> Iterable[int]:
    console = Output(stderr=True)
    if not console.is_terminal:
        return indices
    return track(indices, description=title, console=console, transient=True)


# ---------------------------------------------------------------------------- the command line

Built = tuple[Source, Callable[[], str] | None]


def _playground(arguments: argparse.Namespace) -> Built:
    names = ("count", "size", "difficulty", "seed", "backgrounds", "cutouts", "placements", "fresh")
    return Playground(**{name: getattr(arguments, name) for name in names}), None


def _compose(arguments: argparse.Namespace) -> Built:
    names = ("depth", "placements", "count", "size", "seed", "lift")
    options = {name: getattr(arguments, name) for name in names}
    source = Composition(arguments.backgrounds, arguments.cutouts, **options)
    product = source.description
    print(
        f"{product['backgrounds']} backgrounds x {product['cutouts']} cut-outs x 2 x "
        f"{product['placements']} placements = {product['product']} triples"
        + (f", of which {len(source)} are drawn" if arguments.count else "")
    )
    return source, lambda: lifts_json(source.lifts())


def _import_seed(arguments: argparse.Namespace) -> Built:
    return open_layout("seed", arguments.folder, []), None


_HELP = {
    "playground": (
        _playground,
        "procedural scenes with exact depth; nothing is downloaded",
        "make-triples playground --count 1000 --size 64 --difficulty 0.3 --seed 0 --out scenes",
    ),
    "compose": (
        _compose,
        "cut-outs (PNG with alpha) over backgrounds, on the floor, with lifted depth or none",
        "make-triples compose --backgrounds rooms --cutouts people --placements 20 --out triples",
    ),
    "import-seed": (
        _import_seed,
        "the seed project's layout: fg/NAME.jpg, mask/mask_NAME.jpg, depth/depth_NAME.jpg",
        "make-triples import-seed FOLDER --out triples",
    ),
}


def _parser() -> argparse.ArgumentParser:
    examples = "examples:\n  " + "\n  ".join(example for _, _, example in _HELP.values())
    parser = tool_parser(
        "make-triples", "Make triples (overlay, mask, depth) as a folder of files.", examples
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers = {}
    for name, (build, text, example) in _HELP.items():
        sub = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        sub.set_defaults(build=build)
        subparsers[name] = sub
    _playground_options(subparsers["playground"])
    _compose_options(subparsers["compose"])
    subparsers["import-seed"].add_argument("folder", type=Path, metavar="FOLDER")
    for sub in subparsers.values():
        sub.add_argument(
            "--out", type=Path, required=True, metavar="FOLDER", help="an empty folder"
        )
    return parser


def _playground_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--count", type=int, required=True, help="how many triples")
    sub.add_argument("--size", type=int, default=64, help="pixels; default 64")
    sub.add_argument(
        "--difficulty", type=float, default=0.5, help="0 (plain) to 1 (hard); default 0.5"
    )
    sub.add_argument("--seed", type=int, default=0, help="default 0")
    sub.add_argument("--backgrounds", type=int, help="different ones; default count / 10")
    sub.add_argument("--cutouts", type=int, help="different figures; default count / 50")
    sub.add_argument("--placements", type=int, default=20, help="of each pair; default 20")
    sub.add_argument("--fresh", action="store_true", help="new parts in every scene (slower)")


def _compose_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backgrounds", type=Path, required=True, metavar="DIR", help="photos")
    sub.add_argument("--cutouts", type=Path, required=True, metavar="DIR", help="PNGs with alpha")
    sub.add_argument("--depth", choices=("lift", "none"), default="lift", help="default lift")
    sub.add_argument("--placements", type=int, default=20, help="of each pair; default 20")
    sub.add_argument("--count", type=int, help="a seeded sample of the product; default all of it")
    sub.add_argument("--size", type=int, default=64, help="pixels; default 64")
    sub.add_argument("--seed", type=int, default=0, help="default 0")
    sub.add_argument("--lift", type=Path, metavar="FILE", help="lifts corrected by hand (JSON)")


if __name__ == "__main__":
    sys.exit(main())
