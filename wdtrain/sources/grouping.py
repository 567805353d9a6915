"""`--group`: which samples belong together, for a split that does not leak: scenes, videos,
patients.

A regular expression over the sample's name, whose first group names the group, or a column of a CSV
file that lists the samples. Whole groups fall on one side; a sample of no group is by itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.fields import Sample
from wdtrain.fields.source import Source

_TABLE: Final = re.compile(r"(?P<file>.+\.(?:csv|tsv)):(?P<column>[^:/\\]+)", re.IGNORECASE)
_NAMES: Final = ("name", "key", "file", "filename", "file_name", "image", "path", "id", "sample")
_SHOWN: Final = 3
_CHUNK: Final = 65_536


class Grouping(Protocol):
    """The group of each name."""

    def of(self, name: str) -> str | None: ...


class _ByPattern:
    def __init__(self, text: str) -> None:
        try:
            self._regex = re.compile(text)
        except re.error as error:
            raise StoreError(
                f"--group {text!r} is no regular expression ({error}); write for example "
                "--group '(scene[0-9]+)_', or FILE.csv:COLUMN"
            ) from error
        if self._regex.groups == 0:
            raise StoreError(
                f"--group {text!r} has no group in brackets, so nothing says which part of a name "
                f"is its group; write for example --group '({text})'"
            )

    def of(self, name: str) -> str | None:
        found = self._regex.search(name)
        return None if found is None else found[1]


class _ByTable:
    """The rows of a CSV or TSV file, by the sample they name: with or without ending and folders,
    as it stands there. Without folders only where that names one group: `a/1` and `b/1` may be of
    different ones."""

    def __init__(self, file: str, column: str) -> None:
        self._groups: dict[str, str] = {}
        try:
            with Path(file).open(newline="", encoding="utf-8-sig") as lines:
                rows = csv.DictReader(lines, delimiter="\t" if file.lower()[-3:] == "tsv" else ",")
                columns = list(rows.fieldnames or ())
                if column not in columns:
                    raise StoreError(
                        f"--group {file}:{column}: {file} has no column {column!r}; it has "
                        f"{', '.join(columns)}"
                    )
                names = next((each for each in columns if each.lower() in _NAMES), columns[0])
                for row in rows:
                    if row[names] and row[column]:
                        self._add(row[names], row[column], f"{file}, {names} {row[names]!r}")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"--group: {file} cannot be read ({reason})") from error

    def _add(self, name: str, group: str, where: str) -> None:
        if self._groups.setdefault(name, group) != group:
            raise StoreError(f"--group: {where} stands in two groups; keep one")

    def of(self, name: str) -> str | None:
        last = name.rpartition("/")[2]
        found = (
            self._groups.get(name),
            self._stems.get(name),
            self._groups.get(last),
            self._stems.get(last),
            self._files.get(last),
        )
        return next((group for group in found if group), None)

    @cached_property
    def _stems(self) -> dict[str, str]:
        """By name without ending."""
        return _unique((_stem(name), group) for name, group in self._groups.items())

    @cached_property
    def _files(self) -> dict[str, str]:
        """By name without folders and ending."""
        pairs = self._groups.items()
        return _unique((_stem(name).rpartition("/")[2], group) for name, group in pairs)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The groups of names, without the names that several are given for."""
    found: dict[str, str] = {}
    for name, group in pairs:
        if found.setdefault(name, group) != group:
            found[name] = ""
    return {name: group for name, group in found.items() if group}


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)


def parse_group(text: str) -> Grouping:
    """What `--group` says. StoreError for what is neither a pattern nor a table's column."""
    table = _TABLE.fullmatch(text)
    return _ByPattern(text) if table is None else _ByTable(table["file"], table["column"])


def told_group(text: str) -> str:
    """`--group` as a manifest stores it: without the folder of a table."""
    return text if _TABLE.fullmatch(text) is None else text.rpartition("/")[2]


class GroupedSource:
    """A source whose samples are in groups: in all else the source that it was made of."""

    def __init__(self, source: Source, text: str) -> None:
        """StoreError where no sample has a group: the pattern or the table is of other names."""
        self._source, self._grouping = source, parse_group(text)
        self.description: dict[str, Any] = {**source.description, "group": self._summary(text)}

    def _summary(self, text: str) -> dict[str, Any]:
        """How many samples have a group, and a digest of which."""
        digest, count = xxhash.xxh3_128(), 0
        for start in range(0, len(self._source), _CHUNK):
            stop = min(start + _CHUNK, len(self._source))
            ids = self.groups(np.arange(start, stop))
            count += int((ids >= 0).sum())
            digest.update(ids.tobytes())
        if count == 0:
            names = ", ".join(self._name(index) for index in range(min(len(self._source), _SHOWN)))
            raise StoreError(
                f"--group {text!r} finds no group in any name ({names}, ...); write a pattern of "
                "which one is found there, or a table that lists these names"
            )
        return {"by": told_group(text), "samples": count, "digest": digest.hexdigest()}

    def _name(self, index: int) -> str:
        name = getattr(self._source, "name", self._source.key)
        return str(name(index))

    def __len__(self) -> int:
        return len(self._source)

    def groups(self, indices: np.ndarray) -> np.ndarray:
        """int64 [n] ids of the groups; -1 where a sample has none."""
        found = (self._grouping.of(self._name(int(index))) for index in indices)
        return np.fromiter(
            (-1 if group is None else _group_id(group) for group in found), np.int64, len(indices)
        )

    def load(self, index: int) -> Sample:
        sample = self._source.load(index)
        group = self._grouping.of(self._name(index))
        if group is None:
            return sample
        return Sample(sample.key, sample.arrays, {**sample.meta, "group": group})

    def __getattr__(self, name: str) -> Any:
        """All else, also what a source may have or not: a division, files that can be watched."""
        if name.startswith("__") or name == "_source":  # while it is unpickled there is none yet
            raise AttributeError(name)
        return getattr(self._source, name)


def _group_id(group: str) -> int:
    return int(xxhash.xxh3_64_intdigest(group.encode("utf-8", "surrogatepass"))) >> 1
