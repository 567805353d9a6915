"""The part of `pack-shards` that says what is packed: --field, --layout, --group, --kind.

Owns what is said of a source that is refused: the command that would pack it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from wdtrain.commands.own_kinds import add_kinds, register_kinds
from wdtrain.disk.failures import StoreError
from wdtrain.fields.source import Source
from wdtrain.packing.jobs import TooManyRejects
from wdtrain.packing.probing import MisfitsError
from wdtrain.remote.unpacking import PACKED_ENDINGS, packed_ending, unpacking_of_folder
from wdtrain.remote.urls import has_secrets, is_url
from wdtrain.scenes import parse_source
from wdtrain.sources.asking import ask
from wdtrain.sources.field_options import FieldOption, parse_field
from wdtrain.sources.grouping import GroupedSource
from wdtrain.sources.layouts import LAYOUTS
from wdtrain.sources.named_source import LAYOUT_NAMES, open_source
from wdtrain.sources.suggest import Suggestion, advice, uneven

SOURCE_HELP: Final = (
    "a folder, the tars of a WebDataset ('https://host/data-{0000..0099}.tar'), or "
    "NAME:key=value,... to make samples"
)
FIELD_HELP: Final = (
    "a field of each sample and where its files lie below SOURCE; {key} is one file name without "
    "its ending, {split} a folder that is a split; of tars what their members end in, of a saved "
    "dataset the column. Again for each field; KIND is image, mask, classes or depth"
)
LAYOUT_HELP: Final = f"instead of --field, how the files lie: {', '.join(LAYOUT_NAMES)}"
GROUP_HELP: Final = (
    "samples that belong together (scenes, videos, patients) fall on one side of the split: a "
    "regular expression over their names whose first (group) is the group, or FILE.csv:COLUMN"
)
UNPACK: Final = "This command unpacks its tars; pack from there, as *.tar:"
FIELD_EXAMPLES: Final = """\
anybody's data (docs/your-data.md has more):
  pack-shards FOLDER set --field image=image:'images/{key}.jpg' \\
      --field depth=depth:'depth/{key}.npy',unit=m --group '(scene[0-9]+)_'
  pack-shards FOLDER set --layout voc
  pack-shards 'https://host/data-{0000..0099}.tar' set --field image=image:jpg \\
      --field mask=mask:seg.png
  pack-shards SAVED set --layout hf --field image=image:image \\
      --field labels=classes:annotation,classes=40
"""


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Which fields, where they lie, and what belongs together."""
    group = parser.add_argument_group("what is packed")
    group.add_argument(
        "--field", action="append", default=[], metavar="NAME=KIND:PATTERN[,option=value...]",
        help=FIELD_HELP,
    )  # fmt: skip
    group.add_argument("--layout", metavar="LAYOUT", help=LAYOUT_HELP)
    group.add_argument("--group", metavar="REGEX|FILE.csv:COLUMN", help=GROUP_HELP)
    add_kinds(group)


def layouts_help() -> str:
    """What each layout is, a line each."""
    texts = {"triples": "KEY.overlay.jpg, KEY.mask.png, KEY.depth.png, triples.json (the default)"}
    texts |= {name: layout.what for name, layout in LAYOUTS.items()}
    texts["hf"] = "what the Hugging Face datasets library saved (save_to_disk)"
    return "layouts:\n" + "".join(f"  {name:<12}{what}\n" for name, what in texts.items())


def source_of(options: argparse.Namespace) -> Source | Callable[[], Source]:
    """The source that is made on the fly, or else what opens the folder or the tars: `pack` starts
    its processes while these are listed."""
    register_kinds(options)
    made: Source | None = parse_source(options.source)
    if made is not None and (options.field or options.layout):
        raise StoreError(
            f"{options.source} is made on the fly and has its own fields; leave --field and "
            "--layout out"
        )
    if made is not None:
        return _grouped(options.group, lambda: made) if options.group else made
    declared = [parse_field(text) for text in options.field]
    opened = partial(_asked, options.source, declared, options.layout)
    return partial(_grouped, options.group, opened) if options.group else opened


def _asked(text: str, declared: Sequence[FieldOption], layout: str | None) -> Source:
    source = open_source(text, declared, layout)
    ask(source)
    return source


def _grouped(group: str, opened: Callable[[], Source]) -> GroupedSource:
    return GroupedSource(opened(), group)


def advice_on(
    options: argparse.Namespace, arguments: Sequence[str], error: ValueError
) -> list[str]:
    """Lines that name the command that would pack a source which was refused; none where it was
    refused for something else, or nothing was found."""
    try:
        if parse_source(options.source) is not None:
            return []
        declared = [parse_field(text) for text in options.field]
        found = advice(options.source, declared, options.layout)
        given = Suggestion(options.source, _as_given(options))
        is_rejected = isinstance(error, MisfitsError) or isinstance(error.__cause__, TooManyRejects)
        fitting = _fitting(options, found or given) if found or is_rejected else []
    except (ValueError, OSError):
        return []
    if found is None and not fitting:
        unpack = unpacking_of_folder(Path(options.source))
        return [UNPACK, f"  {unpack.command}"] if unpack else []
    found = _within(options.max_rejects, found or given)
    command = shlex.join([_program(), *_kept(options.source, arguments, found), *fitting])
    command = f"{found.first} && {command}" if found.first else command
    assumed = f", if {'; '.join(found.meanings)}" if found.meanings else ""
    without = f", without {'; '.join(found.left_out)}" if found.left_out else ""
    cropped = ", all cropped to one shape" if fitting else ""
    what = "unpacks and packs" if found.first else "packs"
    what = f"{what} it{_first_by_hand(options.source, found)}"
    return [f"This command {what}{cropped}{without}{assumed}:", f"  {command}"]


def _first_by_hand(source: str, found: Suggestion) -> str:
    """What a person has to do before the command that was found, which does not do it."""
    if _is_elsewhere(source, found) and not found.first:
        program = PACKED_ENDINGS.get(packed_ending(source.partition("?")[0]))
        by = f" by {program} -dc" if program else ""
        return f", once {found.source} is there, fetched and unpacked{by}"
    return ", with the URL in full again" if has_secrets(source) else ""


def _is_elsewhere(source: str, found: Suggestion) -> bool:
    """Whether what is packed is here only once it is fetched."""
    return is_url(source) and not is_url(found.source)


def _as_given(options: argparse.Namespace) -> list[str]:
    """What was said of fields, as arguments."""
    layout = ["--layout", options.layout] if options.layout else []
    return [*layout, *(word for text in options.field for word in ("--field", text))]


def _fitting(options: argparse.Namespace, found: Suggestion) -> list[str]:
    """What brings samples of several sizes to one, where that was not said."""
    if options.fit is not None:
        return []
    said = list(zip(found.arguments[::2], found.arguments[1::2], strict=True))
    declared = [parse_field(text) for option, text in said if option == "--field"]
    layout = next((text for option, text in said if option == "--layout"), None)
    is_seen = found.first or _is_elsewhere(options.source, found)
    size = found.size if is_seen else uneven(found.source, declared, layout)
    if size is None:
        return []
    return [*([] if options.size else ["--size", f"{size[0]}x{size[1]}"]), "--fit", "crop"]


def _within(max_rejects: float, found: Suggestion) -> Suggestion:
    """Without a share of rejects that is allowed anyhow."""
    if found.arguments[-2:-1] != ["--max-rejects"] or float(found.arguments[-1]) > max_rejects:
        return found
    return replace(found, arguments=found.arguments[:-2])


def _program() -> str:
    """The tool, as it was called."""
    return sys.argv[0] if os.path.basename(sys.argv[0]) == "pack-shards" else "pack-shards"


def _kept(source: str, arguments: Sequence[str], found: Suggestion) -> list[str]:
    """The arguments that were given, with what was found in place of what was said of fields."""
    kept, rest = [], iter(arguments)
    for word in rest:
        if word in ("--field", "--layout"):
            next(rest, None)
        elif not word.startswith(("--field=", "--layout=")):
            kept.append(found.source if word == source else word)
    return [*kept, *found.arguments]
