"""What is said of a field that cannot be used, and of a file that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

from wdtrain.triple import TripleError as FieldError
from wdtrain.triple import check_pixels, decoding

__all__ = ["AmbiguousError", "FieldError", "check_pixels", "decoding"]


class AmbiguousError(FieldError):
    """A file that could mean several things, until one of `choices` is declared.

    found: what was found. choices: by the options that would settle it ("unit=mm"), what the file
    then means; `name` and `kind` are those of the field.
    """

    def __init__(self, found: str, choices: Mapping[str, str], *, name: str, kind: str) -> None:
        self.found, self.choices, self.name, self.kind = found, dict(choices), name, kind
        told = "; ".join(
            f"--field '{name}={kind}:PATTERN,{options}' ({meaning})"
            for options, meaning in choices.items()
        )
        super().__init__(f"{found}; declare which it is: {told}")

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.found, self.choices, self.name, self.kind)


def _again(found: str, choices: dict[str, str], name: str, kind: str) -> AmbiguousError:
    return AmbiguousError(found, choices, name=name, kind=kind)
