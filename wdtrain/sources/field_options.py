"""`--field NAME=KIND:PATTERN[,option=value...]`: what a person declares of the files of one field.

Owns that line: how it is read, written, and completed by an option that settles a question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from wdtrain import fields
from wdtrain.fields import KINDS, Field, FieldError
from wdtrain.fields.errors import kind_and_options

_EXAMPLE: Final = "--field 'depth=depth:depth/{key}.npy,unit=m'"
_LINE: Final = re.compile(r"(?P<name>[^=:,{}/]+)=(?:(?P<kind>[^=:,{}/]+):)?(?P<rest>.*)", re.DOTALL)
_COMMA: Final = re.compile(r",(?![^{}]*\})")


@dataclass(frozen=True)
class FieldOption:
    """One declared field: `pattern` matches its files, `options` say what its values mean."""

    name: str
    kind: str
    pattern: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is written on a command line, not quoted."""
        return f"{self.name}={self.kind}:{self.declared}"

    @property
    def declared(self) -> str:
        """The pattern and the options: what stands for PATTERN where fields name a line."""
        options = [f"{name}={value}" if value else name for name, value in self.options.items()]
        return ",".join([self.pattern, *options])

    @property
    def field(self) -> Field:
        """FieldError for options that the kind has not, or a kind that there is not."""
        return fields.declared(self.name, self.kind, self.options)

    @staticmethod
    def of(field: Field, declared: str) -> FieldOption:
        """What declares this field; declared: as a source's description has it, of which only the
        pattern counts."""
        return FieldOption(field.name, field.kind, _COMMA.split(declared)[0], field.typed())

    def with_options(self, text: str) -> FieldOption:
        """With options added, written as "unit=mm" or "foreground=1,unknown=255"; of another kind
        as "classes:classes=3"."""
        kind, options = kind_and_options(text, self.kind)
        more = _read_options(self.name, options.split(","))
        return replace(self, kind=kind, options={**self.options, **more})


def parse_field(text: str) -> FieldOption:
    """The field that a line declares. FieldError says what is wrong, and a line that would work."""
    found = _LINE.fullmatch(text)
    if found is None:
        raise FieldError(
            f"--field {text!r} names no field: NAME=KIND:PATTERN is needed, for example {_EXAMPLE}"
        )
    name, kind = found["name"], found["kind"]
    pattern, *options = _COMMA.split(found["rest"])
    if kind is None:
        likely = kind_by_name(name)
        raise FieldError(
            f"--field {text!r} names no kind; write --field '{name}={likely}:"
            f"{found['rest'] or '{key}.png'}' ({', '.join(KINDS)} are known)"
        )
    if not pattern:
        raise FieldError(
            f"--field {text!r} does not say where its files lie; write for example "
            f"--field '{name}={kind}:{name}/{{key}}.png'"
        )
    fields.kind_of(kind)
    option = FieldOption(name, kind, pattern, _read_options(name, options))
    _ = option.field  # refused now, not at the first sample
    return option


def _read_options(name: str, texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        option, _, value = text.partition("=")
        if option in found:
            raise FieldError(f"field {name}: {option} is declared twice; keep one")
        found[option] = value
    return found


def kind_by_name(name: str) -> str:
    """The kind that a field, folder or column of this name most likely is."""
    for kind, words in LIKELY.items():
        if any(word in name.lower() for word in words):
            return kind
    return "image"


LIKELY: Final = {
    "depth": ("depth", "disp", "distance"),
    "mask": ("mask", "matte", "alpha", "foreground", "silhouette", "saliency"),
    "classes": ("label", "class", "seg", "annotation", "semantic", "category", "gt"),
}
"""By kind: words in the names of folders and files that mean it."""
