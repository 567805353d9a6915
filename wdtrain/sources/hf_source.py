"""A folder that the Hugging Face `datasets` library saved, as a source: columns by name.

`save_to_disk` wrote it: a dataset, or several by split, whose names are kept as a split where they
are train, validation and test. The library is an extra, imported when such a folder is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import read_regular
from wdtrain.fields import Field, FieldError, Sample
from wdtrain.fields.base import Value
from wdtrain.fields.source import SPLITS
from wdtrain.sources.division import FOLDERS, Division
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.names import key_of
from wdtrain.sources.pattern_source import key_room, loaded, unusable

MARKS: Final = ("dataset_dict.json", "dataset_info.json", "state.json")
"""A folder that the library saved holds one of these."""
_META: Final = ("string", "int8", "int16", "int32", "int64", "bool")
"""Types of columns that are kept in a sample's JSON."""


def is_saved(folder: Path) -> bool:
    """Whether the library saved this folder."""
    return (folder / MARKS[0]).is_file() or all((folder / name).is_file() for name in MARKS[1:])


class HuggingFaceSource:
    """The rows of a saved dataset. A `Source`."""

    def __init__(self, folder: str | Path, options: Sequence[FieldOption]) -> None:
        """StoreError for a folder that the library did not save, or without such a column."""
        self._folder = str(Path(folder).absolute())
        if not is_saved(Path(folder)):
            raise StoreError(
                f"{folder} is no folder that the datasets library saved (it holds none of "
                f"{', '.join(MARKS)}); save it with dataset.save_to_disk({str(folder)!r})"
            )
        self.options = list(options)
        self.fields = tuple(option.field for option in options)
        self._splits = list(self._tables)
        self._ends = np.cumsum([len(table) for table in self._tables.values()])
        self._check_columns(folder)
        prints = [str(table._fingerprint) for table in self._tables.values()]
        self.description: dict[str, Any] = {
            "kind": "hf",
            "rows": xxhash.xxh3_128_hexdigest("|".join([*self._splits, *prints]).encode()),
            "patterns": {option.name: option.declared for option in options},
        }
        self._room = key_room(self.fields)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return open_tables(Path(self._folder))

    def _check_columns(self, folder: str | Path) -> None:
        """StoreError where a split lacks a column: all its rows would be rejects, found late."""
        anywhere = {name for table in self._tables.values() for name in table.column_names}
        for split, table in self._tables.items():
            columns = table.column_names
            where = f"{folder}, split {split}," if len(self._tables) > 1 else str(folder)
            for option in self.options:
                may_lack = option.field.optional and option.pattern in anywhere
                if option.pattern not in columns and not may_lack:
                    raise StoreError(
                        f"{where} has no column {option.pattern!r} ({option.name}); it has "
                        f"{', '.join(columns)}: write --field '{option.name}={option.kind}:COLUMN'"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[str, int]:
        """The split and the row of an index."""
        at = int(np.searchsorted(self._ends, index, side="right"))
        return self._splits[at], index - (int(self._ends[at - 1]) if at else 0)

    def name(self, index: int) -> str:
        """`SPLIT/ROW`, or `row/ROW` of a dataset without splits."""
        split, row = self._place(index)
        return f"{split or 'row'}/{row:09d}"

    def key(self, index: int) -> str:
        """The name as `names.key_of` writes it."""
        return key_of(self.name(index), self._room)

    @property
    def division(self) -> Division | None:
        """The splits as they were saved, where one is for training and another is not."""
        codes = [FOLDERS.get(split.lower()) for split in self._splits]
        if "train" not in codes or len(set(codes)) < 2:
            return None
        sizes = np.diff(self._ends, prepend=0)
        numbers = [-1 if code is None else SPLITS.index(code) for code in codes]
        counts = dict(zip(self._splits, sizes.tolist(), strict=True))
        others = [split for split, code in zip(self._splits, codes, strict=True) if code is None]
        outside = sum(counts.pop(split) for split in others)
        return Division(np.repeat(np.array(numbers, np.int8), sizes), counts, outside, others)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n], all -1: nothing says what a picture was made of."""
        unknown = np.full(len(indices), -1, np.int64)
        return unknown, unknown.copy()

    def load(self, index: int) -> Sample:
        """The sample of a row, its other columns of text and whole numbers in its JSON. FieldError
        for a cell that is empty or cannot be used."""
        split, row = self._place(index)
        table = self._tables[split]
        cells = table[row]
        arrays: dict[str, Value] = {}
        for field, option in zip(self.fields, self.options, strict=True):
            cell = cells.pop(option.pattern) if option.pattern in cells else None
            value = self._value(field, option, cell, f"{option.pattern} of {self.name(index)}")
            if value is not None:
                arrays[field.name] = value
            elif not field.optional:
                raise FieldError(
                    f"missing {field.name}: {option.pattern} is empty; declare --field "
                    f"'{option.with_options('optional')}' to keep such samples, or raise "
                    "--max-rejects to leave them out"
                )
        kinds = table.features
        meta = {
            name: value
            for name, value in cells.items()
            if value is not None and getattr(kinds[name], "dtype", None) in _META
        }
        return Sample(self.key(index), arrays, {**meta, "name": self.name(index)})

    def raw(self, index: int) -> list[bytes | np.ndarray | None]:
        """The cell of each field, None where it is empty or nothing that `load` reads."""
        split, row = self._place(index)
        row_cells = self._tables[split][row]
        cells = [row_cells.get(option.pattern) for option in self.options]
        name = self.name(index)
        return [each if isinstance(each, bytes) else _contents(each, name) for each in cells]

    def _value(self, field: Field, option: FieldOption, cell: Any, file: str) -> Value | None:
        if cell is None:
            return None
        if isinstance(cell, dict) and {"bytes", "path"} <= set(cell):
            return loaded(field, option, _picture(cell, file), file=file)
        if isinstance(cell, bytes):
            return loaded(field, option, cell, file=file)
        try:
            return field.from_array(_array(cell, file), file=file)
        except FieldError as error:
            raise unusable(error, option, file) from error


def open_tables(folder: Path) -> dict[str, Any]:
    """By split ("" of a dataset without any), the tables; pictures stay the bytes that they are."""
    try:
        import datasets
    except ImportError as error:
        raise StoreError(
            "a folder of the datasets library needs that library; install it (pip install "
            "'wdtrain[hf]')"
        ) from error
    found = datasets.load_from_disk(str(folder))
    tables = dict(found) if isinstance(found, datasets.DatasetDict) else {"": found}
    for split, table in tables.items():
        for column, kind in table.features.items():
            if isinstance(kind, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        tables[split] = table
    return tables


def _picture(cell: dict[str, Any], file: str) -> bytes:
    """The bytes of a cell of pictures: in the table, or in the file that it names."""
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    try:
        return read_regular(os.fspath(cell["path"]))
    except (OSError, TypeError) as error:
        raise FieldError(f"{file} names a file that cannot be read: {cell['path']}") from error


def cells_of(folder: Path, most: int) -> dict[str, list[tuple[bytes | np.ndarray, str]]]:
    """By column, the first cells that may be fields: pictures and arrays of two or three sides."""
    table = next(iter(open_tables(folder).values()))
    found: dict[str, list[tuple[bytes | np.ndarray, str]]] = {}
    for row in range(min(most, len(table))):
        for column, cell in table[row].items():
            data = _contents(cell, f"{column} of row {row}")
            if data is not None:
                found.setdefault(column, []).append((data, f"{column} of row {row}"))
    return found


def _contents(cell: Any, file: str) -> bytes | np.ndarray | None:
    if isinstance(cell, dict) and {"bytes", "path"} <= set(cell):
        return _picture(cell, file)
    if isinstance(cell, list) and cell and isinstance(cell[0], list):
        return _array(cell, file)
    return None


def _array(cell: Any, file: str) -> np.ndarray:
    try:
        return np.asarray(cell)
    except ValueError as error:
        raise FieldError(
            f"{file} holds rows that are not all of one length; save it as a picture or an Array2D"
        ) from error
