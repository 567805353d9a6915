"""Where a benchmark's numbers go: one JSON file, which takes the place of nothing but its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from wdtrain.record.outputs import OVERWRITE_HELP, OutputError, Outputs

Keep = Callable[[object], None]
"""Writes what was found, a JSON value."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """--json and --overwrite."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)


def keeper(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Keep:
    """What writes the file of `--json`. Asked for before anything is measured: the parser refuses
    a place that cannot be written to."""
    if options.json is None:
        return lambda found: None
    tool = f"benchmarks/{Path(sys.argv[0]).name}"
    how = {"overwrite": options.overwrite, "ending": ".json"}
    try:
        out = Outputs.for_file(options.json, tool, **how)
    except OutputError as error:
        parser.error(str(error))
    return lambda found: out.write(options.json.name, f"{json.dumps(found, indent=1)}\n".encode())
