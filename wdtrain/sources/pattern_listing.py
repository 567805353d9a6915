"""Which samples there are by patterns, and which files each has, in some 100 bytes a sample.

As `listing.py` for triples: names go into one byte string and become one fixed-width array; of
files only hashes are kept, and of those that do not lie where the pattern's first choices say, how
they differ. A sample is a name of which one field that is no optional one has a file.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import PassedOver
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.listing import as_array, files_below, outside
from wdtrain.sources.patterns import Found, Pattern, join_name

_DIGEST_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True)
class FieldFiles:
    """A declared field and the pattern of its files."""

    option: FieldOption
    pattern: Pattern
    is_optional: bool


@dataclass(frozen=True)
class Variants:
    """Of one field: the files that are not of the usual variant, by sorted hash of their name."""

    hashes: np.ndarray
    numbers: np.ndarray
    texts: list[tuple[bytes, ...]]

    def of(self, wanted: int) -> list[tuple[bytes, ...]]:
        """Those of one sample, sorted."""
        if not self.texts:
            return []
        first, last = (
            np.searchsorted(self.hashes, np.uint64(wanted), side) for side in ("left", "right")
        )
        return sorted(self.texts[number] for number in self.numbers[first:last].tolist())


@dataclass(frozen=True)
class Samples:
    """names: sorted bytes [n]. slots: what each name is joined of. digest: of all files' names."""

    names: np.ndarray
    slots: tuple[str, ...]
    variants: list[Variants]
    counts: list[int]
    digest: str
    passed_over: PassedOver


@dataclass
class _FieldFound:
    """What a walk has found of one field so far."""

    hashes: array[int] = field(default_factory=lambda: array("Q"))
    unusual: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("I"))
    texts: dict[tuple[bytes, ...], int] = field(default_factory=dict)

    def add(self, ident: int, variant: tuple[bytes, ...], usual: tuple[bytes, ...] | None) -> None:
        self.hashes.append(ident)
        if variant != usual:
            self.unusual.append(ident)
            self.numbers.append(self.texts.setdefault(variant, len(self.texts)))

    def variants(self) -> Variants:
        hashes, numbers = np.array(self.unusual, np.uint64), np.array(self.numbers, np.uint32)
        order = np.argsort(hashes, kind="stable")
        return Variants(hashes[order], numbers[order], list(self.texts))


def list_samples(folder: Path, files: Sequence[FieldFiles]) -> Samples:
    """The samples below a folder. StoreError for patterns that do not go together."""
    slots = _slots_of(files)
    passed_over, found = PassedOver(), [_FieldFound() for _ in files]
    names, digest = bytearray(), 0
    leading = next(
        at
        for at, each in enumerate(files)
        if not each.is_optional and set(each.pattern.slots) == set(slots)
    )
    for path in files_below(os.fsencode(folder), passed_over):
        matches = list(_matches(files, path))
        if not matches:
            passed_over.add(path)
            continue
        digest += xxhash.xxh3_128_intdigest(path)
        for at, match in matches:
            pattern = files[at].pattern
            found[at].add(ident(slots, pattern, match.values), match.variant, pattern.usual)
            if at == leading:
                names += join_name(slots, match.values) + b"\0"
    if found[leading].hashes:
        for name in _without_leading(folder, files, slots, leading, found, passed_over):
            names += name + b"\0"
    return Samples(
        np.unique(as_array(names)),
        slots,
        [each.variants() for each in found],
        [len(each.hashes) for each in found],
        f"{digest & _DIGEST_MASK:032x}",
        passed_over,
    )


def _matches(files: Sequence[FieldFiles], path: bytes) -> Iterator[tuple[int, Found]]:
    for at, each in enumerate(files):
        match = each.pattern.match(path)
        if match is not None:
            yield at, match


def _slots_of(files: Sequence[FieldFiles]) -> tuple[str, ...]:
    """The slots of a sample's name: those of the pattern that has most, in which all others'
    are."""
    needed = [each for each in files if not each.is_optional]
    if not needed:
        raise StoreError(
            "every field is optional, so nothing says what a sample is; one must not be"
        )
    slots = max((each.pattern.slots for each in needed), key=len)
    for each in files:
        if strange := [slot for slot in each.pattern.slots if slot not in slots]:
            raise StoreError(
                f"the pattern {each.pattern.text!r} of {each.option.name} distinguishes files by "
                f"{{{strange[0]}}}, and that of the others has none; write it into all of them, or "
                "* where it is no matter"
            )
    return slots


def ident(slots: Sequence[str], pattern: Pattern, values: dict[str, bytes]) -> int:
    """64 bits of what a field's pattern captures of a sample."""
    shared = slots if pattern.slots == slots else [slot for slot in slots if slot in pattern.slots]
    return xxhash.xxh3_64_intdigest(join_name(shared, values))


def _without_leading(
    folder: Path,
    files: Sequence[FieldFiles],
    slots: tuple[str, ...],
    leading: int,
    found: list[_FieldFound],
    passed_over: PassedOver,
) -> Iterator[bytes]:
    """The names of samples of which the leading field has no file, and another that is needed has:
    a second listing, if there are any. Of optional fields such files are passed over."""
    known = {slots: found[leading].hashes}
    lone: dict[int, set[int]] = {}
    for at, each in enumerate(files):
        shared = tuple(slot for slot in slots if slot in each.pattern.slots)
        if shared not in known:
            known[shared] = array("Q", _narrowed(folder, files[leading], slots, shared))
        if rest := outside(array("Q", found[at].hashes), known[shared]):
            lone[at] = rest
    if not lone:
        return
    for path in files_below(os.fsencode(folder), PassedOver()):
        for at, match in _matches(files, path):
            if ident(slots, files[at].pattern, match.values) not in lone.get(at, ()):
                continue
            if set(files[at].pattern.slots) == set(slots) and not files[at].is_optional:
                yield join_name(slots, match.values)
            else:
                passed_over.add(path, f"{files[at].option.name} of no sample")


def _narrowed(
    folder: Path, leading: FieldFiles, slots: tuple[str, ...], shared: tuple[str, ...]
) -> Iterator[int]:
    """The hashes of the leading field's names by fewer slots."""
    for path in files_below(os.fsencode(folder), PassedOver()):
        match = leading.pattern.match(path)
        if match is not None:
            yield xxhash.xxh3_64_intdigest(join_name(shared, match.values))
