"""What only several samples of a source together leave open, asked before any is packed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np

from wdtrain.fields import Field, FieldError
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.pattern_source import completed

FILES_READ: Final = 48
"""Of a field: spread over all there are."""


@runtime_checkable
class OpenSource(Protocol):
    """A source whose fields somebody declared, or could declare: `options`, in the order of its
    fields; none where all is said."""

    options: Sequence[FieldOption]

    @property
    def fields(self) -> tuple[Field, ...]: ...

    def __len__(self) -> int: ...

    def raw(self, index: int) -> Sequence[bytes | np.ndarray | None]:
        """What a sample holds of each field, as it lies; None where there is nothing."""

    def name(self, index: int) -> str:
        """The sample's name, for people."""


@runtime_checkable
class AskingSource(Protocol):
    """A source that is declared in another way than by `--field`."""

    def asked(self, error: FieldError, option: FieldOption) -> FieldError:
        """The question of a field, in the words that settle it there."""


def spread_over(count: int, most: int = 9) -> list[int]:
    """Up to so many indices, spread evenly."""
    return sorted(set(np.linspace(0, count - 1, most).astype(int).tolist())) if count else []


def ask(source: object) -> None:
    """FieldError, with the declarations that settle it, where the samples of a source could mean
    several things (`Field.judge`). Up to 48 of them are read, where a field is open."""
    if not isinstance(source, OpenSource):
        return
    pairs = list(zip(source.options, source.fields, strict=False))
    is_open = [field.is_open for _, field in pairs]
    if not any(is_open):
        return
    found: list[list[tuple[bytes | np.ndarray, str]]] = [[] for _ in pairs]
    for index in spread_over(len(source), FILES_READ):
        with contextlib.suppress(FieldError):  # found again, and rejected with its reason, at load
            contents = source.raw(index)
            for at, data in enumerate(contents[: len(pairs)]):
                if data is not None and is_open[at]:
                    found[at].append((data, f"{pairs[at][0].name} of {source.name(index)}"))
    for (option, field), each in zip(pairs, found, strict=True):
        try:
            field.judge(readable(field, each))
        except FieldError as error:
            words = source.asked if isinstance(source, AskingSource) else completed
            raise words(error, option) from error


def readable(
    field: Field, contents: Sequence[tuple[bytes | np.ndarray, str]]
) -> list[tuple[bytes | np.ndarray, str]]:
    """Those that the field can read: the others are rejects, or questions of their own."""
    found = []
    for data, file in contents:
        with contextlib.suppress(FieldError):
            read = field.load if isinstance(data, bytes) else field.from_array
            read(data, file=file)  # type: ignore[arg-type]
            found.append((data, file))
    return found
