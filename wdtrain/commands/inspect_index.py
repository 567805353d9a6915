"""`inspect-shards index`: somebody else's tars, trained on as they lie."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from wdtrain.commands.own_kinds import add_kinds, register_kinds
from wdtrain.commands.pack_shards import MAX_REJECTS, long_work
from wdtrain.disk.failures import StoreError
from wdtrain.packing.foreign_scan import ForeignField
from wdtrain.packing.indexing import IndexOptions, Naming, write_index
from wdtrain.remote.remote_files import Remote
from wdtrain.remote.tar_stream import CompressedTar
from wdtrain.remote.unpacking import packed_ending, unpacking
from wdtrain.remote.urls import is_url
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.grouping import parse_group, told_group
from wdtrain.sources.names import key_of
from wdtrain.sources.packed_tars import compression_of
from wdtrain.sources.pattern_source import key_room
from wdtrain.sources.tar_source import named_tars
from wdtrain.store.foreign_index import ForeignIndex
from wdtrain.store.manifest import Manifest

_DEFAULTS: Final[dict[str, Any]] = {
    "group": None,
    "holdout_samples": IndexOptions().holdout,
    "seed": IndexOptions().seed,
    "max_rejects": IndexOptions().max_rejects,
}
_EXAMPLES: Final = """\
examples:
  inspect-shards index 'photos-{0000..0099}.tar' --out shards/photos \\
      --field image=image:jpg --field mask=mask:seg.png,foreground=1
  inspect-shards index 'https://host/rgbd-{000..127}.tar' --out shards/rgbd \\
      --field 'image=image:jpg|jpeg' --field depth=depth:depth.npy,unit=m \\
      --group '(scene[0-9]+)/' --holdout-samples 0.05

Then: data.url=OUT in a recipe. Each tar is read once, from its beginning to its end, and nothing of
it is copied: what is written are places, checksums, and sums of up to 2,048 pictures. Tars have to
be plain. What is read often is best packed (tools/pack-shards URLS TARGET --field ...): that takes
once what an index takes each time.
"""


def add_index(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The action `index` of a tool."""
    text = (
        "train on somebody else's plain .tar WebDataset as it lies: write a manifest and an index"
    )
    parser = actions.add_parser(
        "index",
        help=text,
        description=text,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("urls", metavar="URLS", nargs="+", help="paths or URLs of tars; {0000..0099} counts")
    add("--out", type=Path, required=True, metavar="DIR", help="a folder without a manifest")
    add(
        "--field",
        action="append",
        required=True,
        metavar="NAME=KIND:ENDING[,option=value...]",
        help="a field, and what the names of its members end on behind the key; several: jpg|png",
    )
    add_kinds(parser)
    add(
        "--holdout-samples",
        type=float,
        metavar="P",
        default=_DEFAULTS["holdout_samples"],
        help="share of samples, with --group of whole groups, that training never sees: the split "
        f"val; 0: none; default {_DEFAULTS['holdout_samples']}",
    )
    add(
        "--group",
        metavar="PATTERN",
        help="what of a sample's name is its group (scene, video, patient): the first bracket of a "
        "pattern, or FILE.csv:COLUMN; a group lies whole in one split",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the splits; default 0")
    add(
        "--max-rejects", type=float, default=_DEFAULTS["max_rejects"], metavar="P", help=MAX_REJECTS
    )
    parser.set_defaults(act=index)


def index(options: argparse.Namespace) -> int:
    """Writes manifest and index, and says what is in them."""
    register_kinds(options)
    fields = [foreign_field(text) for text in options.field]
    room = key_room([each.field for each in fields])
    naming = Naming(lambda name: key_of(name, room))
    if options.group is not None:
        naming = replace(naming, group_of=parse_group(options.group).of)
    asked = IndexOptions(
        holdout=options.holdout_samples,
        group=None if options.group is None else told_group(options.group),
        seed=options.seed,
        max_rejects=options.max_rejects,
    )
    urls = [url for text in options.urls for url in named_tars(text)]
    started = time.perf_counter()
    with long_work("indexing", "bytes") as progress:
        try:
            manifest = write_index(
                urls, options.out, fields, asked, naming, remote=Remote(), progress=progress
            )
        except CompressedTar as error:
            raise StoreError(_unpacked_first(error, options)) from error
    _report(manifest, options.out, len(urls), time.perf_counter() - started)
    return 0


def _unpacked_first(error: CompressedTar, options: argparse.Namespace) -> str:
    """What is said of compressed tars: the command that unpacks and indexes them."""
    texts = [each for text in options.urls for each in _told_apart(text)]
    packed = [text for text in texts if _is_packed(text, error)]
    found = unpacking(packed, error.how)
    plain = dict(zip(packed, found.plain, strict=True))
    words = [plain.get(text, text) for text in texts] + ["--out", str(options.out)]
    for name in ("field", "kind"):
        words += [word for text in getattr(options, name) for word in (f"--{name}", text)]
    for name in ("group", "holdout_samples", "seed", "max_rejects"):
        if (value := getattr(options, name)) != _DEFAULTS[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    again = shlex.join(["tools/inspect-shards", "index", *words])
    if not found.command:
        return f"{error.found}; fetch all, unpack them ({error.how} -dc), and then: {again}"
    return f"{error.found}; this unpacks and indexes all: {found.command} && {again}"


def _told_apart(text: str) -> list[str]:
    """The text; of local tars of which some are compressed and some are not, or variously, each."""
    if is_url(text):
        return [text]
    tars = named_tars(text)
    return [text] if len(set(map(compression_of, tars))) == 1 else tars


def _is_packed(text: str, error: CompressedTar) -> bool:
    """Whether a text names compressed tars, which are alike; behind URLs, by their ending, or as
    the one that was found."""
    if is_url(text):
        return bool(packed_ending(text)) or error.name in named_tars(text)
    return compression_of(named_tars(text)[0]) is not None


def foreign_field(text: str) -> ForeignField:
    """The field that `--field` declares of tars. StoreError for a pattern that is no ending."""
    option = parse_field(text)
    endings = tuple(each.lower().removeprefix(".") for each in option.pattern.split("|"))
    for ending in endings:
        if not ending or any(letter in ending for letter in "/{}* "):
            raise StoreError(
                f"--field {text!r}: in a tar a member's name is that of its sample, a dot and an "
                f"ending, and {ending!r} is no ending; write for example "
                f"--field '{option.name}={option.kind}:jpg'"
            )
    return ForeignField(option.field, endings, str(option))


def _report(manifest: Manifest, folder: Path, tars: int, seconds: float) -> None:
    splits = ", ".join(f"{name} {split.samples:,}" for name, split in manifest.splits.items())
    found = manifest.index
    assert found is not None, "it was just written"
    print(
        f"indexed {manifest.samples:,} samples of {tars:,} tars in {seconds:.1f} s into {folder}: "
        f"{splits}"
    )
    print(
        f"{index_summary(found)}; {manifest.rejects['count']:,} rejected; digest "
        f"{manifest.digest[:12]}; train with data.url={folder}"
    )
    print(_held_out(manifest))


def _held_out(manifest: Manifest) -> str:
    """What training never sees, in words."""
    if manifest.splits.keys() == {"train"}:
        asked = manifest.settings["holdout"]
        if asked > 0:
            return (
                f"nothing is held out, though --holdout-samples is {asked:g}: "
                f"{_undivided(manifest)}; train with evaluate.splits=[train], or index more"
            )
        return (
            "nothing is held out: --holdout-samples 0.1 makes the split val; else train with "
            "evaluate.splits=[train]"
        )
    held = manifest.samples - manifest.split("train").samples
    groups = " in whole groups" if manifest.settings["group"] else ""
    return (
        f"held out of training: {held:,} of {manifest.samples:,} samples{groups} "
        f"({held / manifest.samples:.0%}), the split val; --holdout-samples 0 holds out none"
    )


def _undivided(manifest: Manifest) -> str:
    """Why nothing is held out although it was asked for."""
    if manifest.samples == 1:
        return "one sample cannot be divided"
    whys = ["one group cannot be divided"] if manifest.settings["group"] else []
    whys += ["what would be was rejected"] if manifest.rejects["count"] else []
    return ", or ".join(whys)


def index_summary(found: ForeignIndex) -> str:
    """The sizes of pictures, and what an index is, in words."""
    low, high = (f"{height} x {width}" for height, width in (found.smallest, found.largest))
    size = f"{low} to {high} (data.size is needed: height and width)" if found.is_mixed else high
    return f"{size}, foreign tars by an index of {found.num_bytes:,} bytes"
