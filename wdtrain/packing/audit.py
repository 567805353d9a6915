"""Was the dataset split without a leak? Judged by the stored samples alone.

What a sample's JSON names decides whether a background, a cut-out or a group is on both sides, and
what the pictures show whether one of them is, under whatever name. Where samples name nothing, that
is reported: nothing found is then no proof.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from wdtrain.disk.failures import DamagedSample
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import decode_jpeg
from wdtrain.packing.duplicates import key_hash
from wdtrain.packing.likeness import Prints, find_alike
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.foreign import ForeignBlock
from wdtrain.store.manifest import Manifest, canonical
from wdtrain.store.samples import AnyBlock, decode_row

_PARTS: Final = {"background": "backgrounds", "cutout": "cut-outs"}
_NEW_BACKGROUND: Final = ("val-new-seen", "val-new-new")
_NEW_CUTOUT: Final = ("val-seen-new", "val-new-new")
_SEEN_BACKGROUND: Final = ("val-seen-seen", "val-seen-new")
_IS_OWN: Final = "the split is the source's own, so nothing was held out by packing"
_LOOKED_AT_PX: Final = 64
_SHOWN: Final = 5


@dataclass
class SplitParts:
    """What one split holds: sample count, hashes of its backgrounds, cut-outs, pairs and groups,
    and how many samples name neither their group nor the one or the other part."""

    samples: int = 0
    backgrounds: set[int] = field(default_factory=set)
    cutouts: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)
    unnamed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0))

    def add(self, meta: dict[str, Any]) -> int:
        """Counts a sample; the hash of its group, or else of its background, 0 where it names
        none."""
        self.samples += 1
        found = {name: part_hash(meta.get(name)) for name in _PARTS}
        if group := part_hash(meta.get("group")):
            self.groups.add(group)
        for name, part in found.items():
            self.unnamed[name] += not (part or group)
        background, cutout = found["background"], found["cutout"]
        if background:
            self.backgrounds.add(background)
        if cutout:
            self.cutouts.add(cutout)
        if background and cutout:
            self.pairs.add((background, cutout))
        return group or background


def part_hash(name: Any) -> int:
    """64 bits of the name of a part, 0 where there is none."""
    return 0 if name is None else key_hash(canonical(name).decode()) or 1


@dataclass(frozen=True)
class Audit:
    """The parts of each split, what speaks against it, and what nothing is known of.

    `problems` are leaks and damage, one line each. `doubts`: what is on both sides, or looks as if
    it were, and whether it may be there only a person knows. `unknown`: what no sample names, so
    that finding nothing proves nothing. `notes`: what was looked at.
    """

    splits: dict[str, SplitParts]
    problems: list[str]
    doubts: list[str]
    unknown: list[str]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """`found leaks`, `not known`, or `proven`."""
        if self.problems:
            return "found leaks"
        return "not known" if self.doubts or self.unknown else "proven"


@dataclass
class _Seen:
    """What is kept of all samples, in order: 8 bytes of key and of group or background, the key
    itself, and the prints of the picture."""

    splits: dict[str, SplitParts]
    image: str | None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    keys: list[np.ndarray] = field(default_factory=list)
    backgrounds: list[np.ndarray] = field(default_factory=list)
    prints: Prints = field(default_factory=Prints)
    samples: int = 0

    def add(self, split: str, block: AnyBlock) -> None:
        found = [self.splits[split].add(block.meta(row)) for row in range(block.num_samples)]
        self.backgrounds.append(np.array(found, np.uint64))
        self.keys.append(np.array([key.encode() for key in block.keys]))
        if self.image is not None:
            image, rows = self.image, range(block.num_samples)
            self.prints.add([_picture(block, row, image) for row in rows])
        self.samples += block.num_samples

    def key(self, index: int) -> str:
        """The key of a sample by its place among all."""
        for keys in self.keys:
            if index < len(keys):
                return bytes(keys[index]).decode()
            index -= len(keys)
        raise IndexError(index)


def _picture(block: AnyBlock, row: int, image: str) -> np.ndarray:
    """The picture of a sample, at 64 pixels or more a side."""
    manifest = block.manifest
    field = manifest.fields[image]
    if field.codec(manifest.encoding) != "jpeg" or isinstance(block, ForeignBlock):
        return decode_row(block, row, fields=[image])[image]
    try:
        size = (_LOOKED_AT_PX, _LOOKED_AT_PX)
        return decode_jpeg(block.members(row)[list(manifest.fields).index(image)], at_least=size)
    except FieldError as error:
        raise DamagedSample(block.keys[row], str(error)) from error


def audit(manifest: Manifest, progress: PackingProgress) -> Audit:
    """Whether training holds something that was held out: by its name, or by its looks.

    Reads every sample's JSON and picture; keeps some 150 bytes a sample and the different parts.
    Raises on damage.
    """
    seen = _Seen(defaultdict(SplitParts), next(iter(manifest.sums), None))
    for split in manifest.splits.values():
        first = seen.samples
        for _, _, block in walk_blocks(manifest, split):
            seen.add(split.name, block)
            progress(seen.samples, manifest.samples)
        seen.rows[split.name] = np.arange(first, seen.samples)
    parts = dict(seen.splits)
    is_own = manifest.settings.get("splits") == "own"
    leaks = [] if is_own else list(_leaks(parts))
    shared = list(_shared_by_choice(parts)) if is_own else []
    notes = [_IS_OWN] if is_own else []
    alike = _alike(seen)
    return Audit(
        parts,
        problems=[*leaks, *_miscounts(manifest, parts), *_repeated(seen), *alike.problems],
        doubts=[*shared, *alike.doubts],
        unknown=list(_unknown(parts)),
        notes=[*notes, *alike.notes],
    )


def _unknown(parts: dict[str, SplitParts]) -> Iterator[str]:
    samples = sum(split.samples for split in parts.values())
    for name, plural in _PARTS.items():
        unnamed = sum(split.unnamed[name] for split in parts.values())
        if unnamed:
            yield (
                f"{unnamed:,} of {samples:,} samples do not name their {name}, so nothing shows "
                f"whether {plural} are on both sides"
            )


def _repeated(seen: _Seen) -> Iterator[str]:
    hashes = np.array([key_hash(bytes(k).decode()) for keys in seen.keys for k in keys], np.uint64)
    repeated = len(hashes) - len(np.unique(hashes))
    if repeated:
        yield f"{repeated:,} keys come more than once in the dataset"


# ---------------------------------------------------------------------------- by their names


def _leaks(parts: dict[str, SplitParts]) -> Iterator[str]:
    """One line for each pair of splits that share what they must not."""
    for name, held in parts.items():
        for other, seen in parts.items():
            if other == name:
                continue
            if name in _NEW_BACKGROUND and other not in (*_NEW_BACKGROUND, "val"):
                yield from _shared(name, other, "backgrounds", held.backgrounds & seen.backgrounds)
            if name in _NEW_CUTOUT and other not in (*_NEW_CUTOUT, "val"):
                yield from _shared(name, other, "cut-outs", held.cutouts & seen.cutouts)
            if name < other:
                yield from _shared(name, other, "groups", held.groups & seen.groups)
                yield from _shared(name, other, "pairs of parts", held.pairs & seen.pairs)


def _shared_by_choice(parts: dict[str, SplitParts]) -> Iterator[str]:
    """What splits share that a person has made: whether they may, that person knows."""
    train = parts.get("train", SplitParts())
    for name, held in parts.items():
        if name != "train":
            yield from _shared(name, "train", "groups", held.groups & train.groups)
            yield from _shared(name, "train", "backgrounds", held.backgrounds & train.backgrounds)
            yield from _shared(name, "train", "cut-outs", held.cutouts & train.cutouts)


def _shared(name: str, other: str, what: str, shared: set[Any]) -> Iterator[str]:
    if shared:
        yield f"{other} and {name} share {len(shared):,} {what}"


def _miscounts(manifest: Manifest, parts: dict[str, SplitParts]) -> Iterator[str]:
    for name, split in manifest.splits.items():
        found = parts[name].samples if name in parts else 0
        if found != split.samples:
            yield f"{name} holds {found:,} samples, the manifest says {split.samples:,}"


# ---------------------------------------------------------------------------- by their looks


class _Looks(NamedTuple):
    """What the pictures show, as in `Audit`."""

    problems: list[str]
    doubts: list[str]
    notes: list[str]


def _alike(seen: _Seen) -> _Looks:
    """Which pictures are on both sides, or look as if they were."""
    trained = seen.rows.get("train", np.empty(0, np.int64))
    held_splits = {name: rows for name, rows in seen.rows.items() if name != "train"}
    if not len(trained) or not held_splits:
        return _Looks([], [], ["there is no second side: no picture is held out"])
    if seen.image is None:
        return _Looks([], [], ["there is no image: no sample was compared by its looks"])
    named = "groups" if any(split.groups for split in seen.splits.values()) else "backgrounds"
    table = seen.prints.table()
    groups = np.concatenate(seen.backgrounds)
    for name, rows in held_splits.items():
        if name not in _SEEN_BACKGROUND:
            groups[rows] = 0  # a background that these share with training is what is looked for
    held = np.concatenate(list(held_splits.values()))
    alike = find_alike(table, held, trained, groups)
    notes = [
        f"{len(held):,} pictures held out were compared with {len(trained):,} of train by their "
        f"bytes, {alike.looked_for:,} of them by their looks"
    ]
    if flat := int(table.is_flat[held].sum()):
        notes.append(f"{flat:,} of those held out are too flat to be known by their looks")
    first, second = np.concatenate(seen.backgrounds)[alike.similar].T
    is_named = (first > 0) & (second > 0)
    problems, doubts = [], []
    for name, rows in held_splits.items():
        looks = f"pictures of {name} look like pictures of train"
        problems += _pairs(seen, alike.same, rows, f"pictures of {name} are pictures of train")
        problems += _pairs(seen, alike.similar[~is_named], rows, looks)
        if name in _SEEN_BACKGROUND:  # train has it too, whatever others look like
            continue
        for chosen, why in (
            (first == second, f"of the same {named[:-1]}"),
            (first != second, f"though their {named} have other names"),
        ):
            pairs = alike.similar[is_named & chosen]
            doubts += _pairs(seen, pairs, rows, f"{looks}, {why}: look at them")
    return _Looks(problems, doubts, notes)


def _pairs(seen: _Seen, pairs: np.ndarray, rows: np.ndarray, what: str) -> list[str]:
    """One line of how many of these rows have a like, and the keys of the first; [] if none has."""
    mine = pairs[np.isin(pairs[:, 0], rows)]
    if not len(mine):
        return []
    shown = ", ".join(f"{seen.key(one)} ~ {seen.key(two)}" for one, two in mine[:_SHOWN].tolist())
    return [f"{len(mine):,} {what} ({shown}{', ...' if len(mine) > _SHOWN else ''})"]
