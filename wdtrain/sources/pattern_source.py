"""Anybody's folder as a source: the files that `--field` declares, by their patterns.

The order is that of the sorted names. What is missing or cannot be used is found when a sample is
loaded, and becomes its reject, with the declaration that would settle it where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import content_of
from wdtrain.fields import Field, FieldError, Sample
from wdtrain.fields.base import Value
from wdtrain.fields.errors import about_file
from wdtrain.fields.source import SPLITS
from wdtrain.sources.division import FOLDERS, Division, division_of
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.names import key_of, printable
from wdtrain.sources.pattern_listing import FieldFiles, ident, list_samples
from wdtrain.sources.patterns import FOLDERS as ANY_FOLDERS
from wdtrain.sources.patterns import SPLIT, Pattern, values_of
from wdtrain.sources.reading import FileSamples, read_member

LONGEST_NAME: Final = 100
"""Bytes of a member's name in a tar header (POSIX ustar), where it has no folder."""
_SHOWN: Final = 3


class Parts(Protocol):
    """Which parts a sample is made of, as far as its name shows."""

    def of(self, name: str) -> dict[str, str]:
        """What its JSON names: background and cutout, or nothing."""

    def ids(self, name: str) -> tuple[int, int]:
        """Background and cut-out; -1 where not known."""


def key_room(fields: Sequence[Field]) -> int:
    """How long a key of a sample with these fields may be."""
    members = [field.member(form) for field in fields for form in ("image", "raw")]
    return LONGEST_NAME - max(len(f".{member}") for member in members)


class PatternSource(FileSamples):
    """The samples that patterns find in a folder. A `Source`."""

    def __init__(
        self,
        folder: str | Path,
        options: Sequence[FieldOption],
        *,
        lists: Mapping[str, Sequence[str]] | None = None,
        parts: Callable[[Sequence[str]], Parts] | None = None,
    ) -> None:
        """Lists the folder. StoreError where a pattern finds nothing there.

        lists: by split, the names that are of it; other names are passed over. parts: what the
        names tell of the parts of samples.
        """
        self._folder = Path(folder).absolute()
        self._prefix = os.fsencode(self._folder) + b"/"
        if not self._folder.is_dir():
            raise StoreError(f"{folder} is not a folder; --field looks for files in one")
        self.options = list(options)
        self.fields = tuple(option.field for option in options)
        self._files = [
            FieldFiles(option, Pattern(option.pattern), field.optional)
            for option, field in zip(options, self.fields, strict=True)
        ]
        found = list_samples(self._folder, self._files)
        self._names, self._slots, self._variants = found.names, found.slots, found.variants
        self.passed_over = found.passed_over
        self._check_found(folder, found.counts)
        self.description: dict[str, Any] = {
            "kind": "files",
            "listing": found.digest,
            "patterns": {option.name: option.declared for option in options},
        }
        self._listed = None if lists is None else self._keep_listed(lists)
        self._parts = parts(list(map(self.name, range(len(self))))) if parts else None
        self._room = key_room(self.fields)

    def _check_found(self, folder: str | Path, counts: list[int]) -> None:
        for each, count in zip(self._files, counts, strict=True):
            if count == 0 and not each.is_optional:
                there = f"; there are {', '.join(self.passed_over.first)}"
                raise StoreError(
                    f"{folder} holds no file of the pattern {each.pattern.text!r} "
                    f"({each.option.name})"
                    f"{there if self.passed_over.count else ''}; write it as they are named"
                )

    def _keep_listed(self, lists: Mapping[str, Sequence[str]]) -> np.ndarray:
        """int8 [n] splits of the names that are in lists; all other names go."""
        codes = {
            os.fsencode(name): SPLITS.index(split) for split, each in lists.items() for name in each
        }
        found = np.array([codes.get(bytes(name), -1) for name in self._names], np.int8)
        for name in self._names[found < 0]:
            self.passed_over.add(bytes(name), "in no split list")
        self._names = self._names[found >= 0]
        if not len(self._names):
            raise StoreError(f"no sample of {self._folder} stands in a split list; name them there")
        split_names = {split: sorted(each) for split, each in lists.items()}
        self.description["lists"] = content_of([repr(split_names).encode()])
        return found[found >= 0]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The sample's name as its files have it: what its patterns tell, joined by slashes."""
        return printable(bytes(self._names[index]))

    def key(self, index: int) -> str:
        """The name as `names.key_of` writes it."""
        return key_of(bytes(self._names[index]), self._room)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] ids of backgrounds and cut-outs; -1 where names do not tell."""
        if self._parts is None:
            unknown = np.full(len(indices), -1, np.int64)
            return unknown, unknown.copy()
        of = self._parts.ids
        found = [of(self.name(int(index))) for index in np.asarray(indices)]
        both = np.array(found, np.int64).reshape(-1, 2)
        return both[:, 0].copy(), both[:, 1].copy()

    @cached_property
    def division(self) -> Division | None:
        """A person's own split: that of {split}, of the lists, or of folders so named."""
        if self._listed is not None:
            counts = {SPLITS[code]: int((self._listed == code).sum()) for code in set(self._listed)}
            return Division(self._listed, counts, 0, []) if len(counts) > 1 else None
        if SPLIT in self._slots:
            return self._division_of_folders()
        marked = np.char.add(self._names, b"-")  # as in a listing, where a name ends in a mark
        return division_of(marked) if ANY_FOLDERS in self._slots else None

    def _division_of_folders(self) -> Division:
        folders = [printable(self._values(index)[SPLIT]) for index in range(len(self))]
        there = sorted(set(folders))
        codes = {
            name: SPLITS.index(FOLDERS[name.lower()]) if name.lower() in FOLDERS else -1
            for name in there
        }
        found = np.array([codes[name] for name in folders], np.int8)
        outside = np.flatnonzero(found < 0)
        counts = {name: folders.count(name) for name in there if codes[name] >= 0}
        first = [self.name(int(index)) for index in outside[:_SHOWN]]
        return Division(found, counts, len(outside), first)

    def load(self, index: int) -> Sample:
        """The sample, without the optional fields that it lacks. FieldError says what is missing or
        cannot be used, and how it could be declared."""
        values = self._values(index)
        read = [self._read(at, values) for at in range(len(self._files))]
        self._loaded = index, content_of(data for _, data in read)
        arrays: dict[str, Value] = {}
        for field, each, (path, data) in zip(self.fields, self._files, read, strict=True):
            if data is not None:
                arrays[field.name] = loaded(field, each.option, data, file=printable(path))
            elif not field.optional:
                raise self._missing(each, path)
        name = self.name(index)
        meta = {"name": name, **(self._parts.of(name) if self._parts else {})}
        return Sample(self.key(index), arrays, meta)

    def raw(self, index: int) -> list[bytes | None]:
        """The bytes of the file of each field, None where there is none."""
        values = self._values(index)
        return [self._read(at, values)[1] for at in range(len(self._files))]

    def _missing(self, each: FieldFiles, path: bytes) -> FieldError:
        what, option = each.option.name, each.option
        if option.kind == "image":
            return FieldError(
                f"missing {what}: there is no {printable(path)}, though there are other files of it"
            )
        return FieldError(
            f"missing {what}: there is no {printable(path)}; declare --field "
            f"'{option.with_options('optional')}' to keep such samples, {what} unknown, or raise "
            "--max-rejects to leave them out"
        )

    def _values(self, index: int) -> dict[str, bytes]:
        return values_of(self._slots, bytes(self._names[index]))

    def _read(self, at: int, values: dict[str, bytes]) -> tuple[bytes, bytes | None]:
        """The path below the folder and the bytes of a field's file, None where there is none.
        FieldError where there are several, or it cannot be read."""
        paths = self._paths_of(at, values)
        what = self._files[at].option.name
        if len(paths) > 1:
            names = " and ".join(map(printable, paths))
            raise FieldError(f"more than one {what}: {names}; keep one")
        return paths[0], read_member(self._prefix + paths[0], what=what, file=paths[0])

    def _paths_of(self, at: int, values: dict[str, bytes]) -> list[bytes]:
        """Where a field's file lies, below the folder: the usual place, or what is there
        instead or besides."""
        pattern = self._files[at].pattern
        usual = None if pattern.usual is None else pattern.path(values, pattern.usual)
        others = [
            pattern.path(values, variant)
            for variant in self._variants[at].of(ident(self._slots, pattern, values))
        ]
        if not others:
            return [usual or pattern.path(values, [b"*"] * pattern.num_open)]
        if usual is not None and self._is_another(usual, others[0]):
            return [usual, *others]
        return others

    def _is_another(self, usual: bytes, other: bytes) -> bool:
        """Whether there are two files. Where names differ in more than their case, there are."""
        try:
            two = [os.lstat(self._prefix + path) for path in (usual, other)]
            return not os.path.samestat(*two)
        except FileNotFoundError:
            return False

    def _paths(self, index: int) -> Iterator[bytes]:
        values = self._values(index)
        for at in range(len(self._files)):
            for path in self._paths_of(at, values):
                yield self._prefix + path


def loaded(field: Field, option: FieldOption, data: bytes, *, file: str) -> Value:
    """The value of a field in a file. A FieldError names both, and where it proposes declarations,
    it proposes them for this very option."""
    try:
        return field.load(data, file=file)
    except FieldError as error:
        raise unusable(error, option, file) from error


def unusable(error: FieldError, option: FieldOption, file: str) -> FieldError:
    """An error of one file of a field."""
    return FieldError(about_file(str(completed(error, option)), field=option.name, file=file))


def completed(error: FieldError, option: FieldOption) -> FieldError:
    """An error in whose lines PATTERN is what was declared."""
    return FieldError(str(error).replace("PATTERN", option.declared))
