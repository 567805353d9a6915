"""`--kind NAME=package.module:Class`, for every tool that opens a dataset or packs one: kinds of
fields of one's own, as `data.kinds` of a recipe names them."""

from __future__ import annotations

import argparse

from wdtrain.fields import FieldError, register

_HELP = "a kind of field of your own: the class in a module that can be imported; again for each"


def add_kinds(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--kind` is one of the options."""
    parser.add_argument(
        "--kind", action="append", default=[], metavar="NAME=PACKAGE.MODULE:CLASS", help=_HELP
    )


def register_kinds(options: argparse.Namespace) -> None:
    """The kinds that were given are known from here on. FieldError for what names no class."""
    for text in options.kind:
        name, equals, path = text.partition("=")
        if not equals:
            raise FieldError(
                f"--kind {text!r} names no class; write --kind NAME=package.module:Class"
            )
        register(name, path)
