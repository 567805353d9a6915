"""What a person could say so that a source is packed: found by looking at it, and tried.

A refusal that names a command that works is worth more than one that explains the rules. Names tell
which files are of one sample (`families.py`), a few of the files what their values are; what could
mean several things is taken as its likeliest, and said. What is suggested was read as suggested.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import read_regular
from wdtrain.fields import FieldError, Sample
from wdtrain.fields.resize import Size
from wdtrain.fields.source import Source
from wdtrain.remote.unpacking import (
    PACKED_ENDINGS,
    Unpacking,
    packed_ending,
    unpacking,
    unpacking_of_folder,
)
from wdtrain.sources.asking import FILES_READ, ask, spread_over
from wdtrain.sources.families import KIND_OF, Family, families_in, with_partner
from wdtrain.sources.field_options import FieldOption, parse_field
from wdtrain.sources.folder import TRIPLES as TRIPLES_JSON
from wdtrain.sources.hf_source import cells_of, is_saved
from wdtrain.sources.layouts import LAYOUTS, open_layout
from wdtrain.sources.meanings import NAMES, Candidate, Meaning, answered_each, settled
from wdtrain.sources.named_source import HF, open_source
from wdtrain.sources.packed_tars import compression_of, first_samples
from wdtrain.sources.pattern_source import PatternSource
from wdtrain.sources.readable import Contents, divided, is_photo, left_out, share_to_allow
from wdtrain.sources.tar_source import TAR_ENDINGS, TarSource, is_tar, member_families

_ORDER: Final = ("image", "mask", "classes", "depth", "")
_MOST_APART: Final = 12


@dataclass(frozen=True)
class Suggestion:
    """What works: the source as it is to be given, and what is to be said beside it. meanings: of
    options that were chosen among several, what they mean. left_out: what lies there and cannot be
    used, with the reason. first: a command that has to be run before. size: to which samples of
    several sizes may be brought, where that was looked at already."""

    source: str
    arguments: list[str]
    meanings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    first: str = ""
    size: Size | None = None


def advice(
    text: str, declared: Sequence[FieldOption] = (), layout: str | None = None
) -> Suggestion | None:
    """What could be said of a source that was refused; None where it was refused for something
    else, or where nothing was found that works."""
    try:
        source = open_source(text, declared, layout)
    except (StoreError, FieldError):
        return suggested(text, declared)
    if not _is_asked(source) and not _is_refused(source):
        return None
    if declared and isinstance(source, PatternSource | TarSource):
        return _with_answers(text, source, declared, layout) or suggested(text)
    return suggested(text)


def uneven(text: str, declared: Sequence[FieldOption], layout: str | None) -> Size | None:
    """The commonest (height, width) of some samples, where they are not all of one size."""
    return _uneven(open_source(text, declared, layout))


def _uneven(source: Source) -> Size | None:
    sizes: Counter[Size] = Counter()
    for index in spread_over(len(source), FILES_READ):
        with contextlib.suppress(FieldError):
            arrays = source.load(index).arrays
            sizes.update([field.size_of(arrays[field.name]) for field in source.fields[:1]])
    return sizes.most_common(1)[0][0] if len(sizes) > 1 else None


def _check(source: Source, sample: Sample) -> None:
    """FieldError for arrays that packing would reject, or that have not one size."""
    sizes = set()
    for each in source.fields:
        value = sample.arrays.get(each.name)
        if value is not None:
            sizes.add(each.size_of(value))
        if isinstance(value, np.ndarray):
            each.check(value)
    if len(sizes) > 1:
        raise FieldError(f"{sample.key} is of several sizes")


def _is_refused(source: Source) -> bool:
    """Whether no more than half of some samples can be loaded."""
    wrong = 0
    indices = spread_over(len(source))
    for index in indices:
        try:
            _check(source, source.load(index))
        except FieldError:
            wrong += 1
    return 2 * wrong >= len(indices)


def _is_asked(source: Source) -> bool:
    try:
        ask(source)
    except FieldError:
        return True
    return False


def _with_answers(
    text: str,
    source: PatternSource | TarSource,
    declared: Sequence[FieldOption],
    layout: str | None,
) -> Suggestion | None:
    """The same declarations, with the likeliest answers to what they leave open; a few samples that
    cannot be read do not hide it."""
    files, broken = _read(source)
    answered, meanings = [], list[Meaning]()
    for at, option in enumerate(declared):
        contents: Contents = [
            (data, name) for name, each in files if (data := each[at]) is not None
        ]
        found, unreadable = divided(contents)
        found = [(data, option.pattern) for data, _ in found]
        broken += [name for name in unreadable if name not in broken]
        candidate = Candidate(option.name, option.pattern, option.kind, found)
        found_option = next(answered_each(option, candidate, meanings, []), None)
        if found_option is None:
            return None
        answered.append(found_option)
    if answered == list(declared):
        return None
    arguments = ["--layout", layout] if layout else []
    arguments += [word for option in answered for word in ("--field", str(option))]
    if broken:
        num_read = len(spread_over(len(source), FILES_READ))
        arguments += ["--max-rejects", f"{share_to_allow(len(broken), num_read):g}"]
    without = [left_out(broken)] if broken else []
    return Suggestion(text, arguments, [f"{name}: {meant}" for name, meant in meanings], without)


def _read(
    source: PatternSource | TarSource,
) -> tuple[list[tuple[str, Sequence[bytes | None]]], list[str]]:
    """By name what some samples hold of each field, and the names of those that have too much."""
    files, broken = list[tuple[str, Sequence[bytes | None]]](), list[str]()
    for index in spread_over(len(source), FILES_READ):
        try:
            files.append((source.name(index), source.raw(index)))
        except FieldError:
            broken.append(source.name(index))
    return files, broken


def suggested(text: str, declared: Sequence[FieldOption] = ()) -> Suggestion | None:
    """What could be said of a source so that it is packed; None where nothing was found. declared:
    what was said of tars that were refused because they are compressed."""
    with contextlib.suppress(StoreError, FieldError, OSError):
        folder = Path(text)
        if is_tar(text) and not folder.is_dir():
            return _of_tars(text, declared)
        if not folder.is_dir() or (folder / TRIPLES_JSON).exists():  # it says what it holds
            return None
        if is_saved(folder):
            return _of_candidates(text, ["--layout", HF], _in_saved(folder))
        if (layout := _layout_of(folder)) is not None:
            return Suggestion(text, ["--layout", layout])
        if (found := _of_candidates(text, [], _in_folder(folder))) is not None:
            return found
        if any(path.name.lower().endswith(TAR_ENDINGS[0]) for path in folder.iterdir()):
            return _beside_packed(folder, _of_tars(f"{text.rstrip('/')}/*.tar"))
        if (unpack := unpacking_of_folder(folder)) is not None:
            packed = next(path for path in sorted(folder.iterdir()) if packed_ending(path.name))
            return _of_packed(str(packed), PACKED_ENDINGS[packed_ending(packed.name)], unpack)
    return None


def _of_tars(text: str, declared: Sequence[FieldOption] = ()) -> Suggestion | None:
    how = compression_of(text)
    if how is not None:
        return _of_packed(text, how, unpacking([text], how), declared)
    return _of_candidates(text, [], _in_tars(text))


def _beside_packed(folder: Path, found: Suggestion | None) -> Suggestion | None:
    """Of the tars of a folder, where others in it are compressed."""
    names = sorted(path.name for path in folder.iterdir() if packed_ending(path.name))
    if found is None or not names:
        return found
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    told = f"{names[0]}{others} (compressed: unpack these first, and they are packed as well)"
    return replace(found, left_out=[*found.left_out, told])


def _of_packed(
    text: str, how: str, unpack: Unpacking, declared: Sequence[FieldOption] = ()
) -> Suggestion | None:
    """Of compressed tars, by the first samples in the first: as they are once they are unpacked."""
    with first_samples(text, how) as sample:
        found = advice(sample, declared)
        if found is None and declared:
            found = Suggestion(sample, [w for each in declared for w in ("--field", str(each))])
        if found is None:
            return None
        said = [parse_field(line) for line in found.arguments[1::2] if "=" in line]
        size = _uneven(open_source(sample, said))
    return replace(found, source=unpack.plain[0], first=unpack.command, size=size)


def _layout_of(folder: Path) -> str | None:
    for name, layout in LAYOUTS.items():
        if layout.is_in(folder):
            with contextlib.suppress(StoreError, FieldError, OSError):
                _try(open_layout(name, folder, []))
                return name
    return None


def _try(source: Source) -> None:
    """Some samples are loaded; FieldError for what cannot be packed."""
    for index in spread_over(len(source)):
        _check(source, source.load(index))


# ---------------------------------------------------------------------------- where fields may be


def _in_folder(folder: Path) -> list[Candidate]:
    families = families_in(folder)
    leading = _leading(folder, families)
    is_apart = leading is None
    if is_apart:  # folders that no word tells apart, each of another field
        families = families_in(folder, by_folder=True)
        leading = _leading(folder, families) if len(families) <= _MOST_APART else None
    if leading is None:
        return []
    leading, others = with_partner(leading, [each for each in families if each != leading])
    found = []
    for family in (leading, *others):
        kind = "image" if family is leading else KIND_OF.get(family.word, "")
        if kind == "image" and family is not leading:
            kind = ""  # by what is in it: `depth/image_02` is no picture
        contents, broken = divided(_contents(folder, list(family.paths.values())))
        is_complete = leading.paths.keys() == family.paths.keys()
        own = family.folders[-1] if is_apart and family.folders else ""
        is_named = re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", own) is not None
        word = own if is_named else family.word
        found.append(Candidate(word, family.pattern, kind, contents, is_complete, is_named, broken))
    return found


def _leading(folder: Path, families: Sequence[Family]) -> Family | None:
    """The family of the pictures that are seen: by its word, else by what is in it."""
    by_word = [each for each in families if KIND_OF.get(each.word) == "image"]
    unnamed = [each for each in families if not each.word]
    for each in [*by_word, *unnamed]:
        some = divided(_contents(folder, list(each.paths.values()), 9))[0]
        if all(is_photo(data) for data, _ in some):
            return each
    return None


def _contents(folder: Path, paths: Sequence[str], most: int = FILES_READ) -> Contents:
    paths = sorted(paths)
    return [(read_regular(folder / paths[at]), paths[at]) for at in spread_over(len(paths), most)]


def _in_tars(text: str) -> list[Candidate]:
    found = []
    for ending, contents in member_families(text, FILES_READ).items():
        word = ending.rpartition(".")[0].rpartition(".")[2] or ending
        kind = KIND_OF.get(word, "")
        is_seen = kind in ("", "image") and all(is_photo(data) for data, _ in contents[:3])
        kind = "image" if is_seen else kind
        found.append(Candidate(word, ending, kind, list(contents)))
    return found


def _in_saved(folder: Path) -> list[Candidate]:
    found = []
    for column, contents in cells_of(folder, FILES_READ).items():
        kind = KIND_OF.get(column.lower(), "")
        is_seen = kind in ("", "image") and all(is_photo(data) for data, _ in contents[:3])
        kind = "image" if is_seen else kind
        found.append(Candidate(column, column, kind, contents, is_named=True))
    return found


# ---------------------------------------------------------------------------- what they mean


def _of_candidates(
    text: str, arguments: list[str], candidates: Sequence[Candidate]
) -> Suggestion | None:
    """The declarations with which all of a source's fields are read; None without a picture."""
    options: list[FieldOption] = []
    meanings: list[Meaning] = []
    without: list[str] = []
    for each in sorted(candidates, key=lambda each: _ORDER.index(each.kind)):
        may_be_seen = options and each.kind in ("image", "")
        if may_be_seen and all(is_photo(data) for data, _ in each.contents):
            without.append(f"{each.pattern} (another picture)")
            continue
        wrong: list[str] = []
        taken = {option.name for option in options}
        try:
            options.append(next(settled(each, taken, meanings, wrong)))
        except (StopIteration, FieldError) as error:
            reason = wrong[0] if wrong else str(error) or "nothing says what its values are"
            without.append(f"{each.pattern} ({reason})")
    if not options or options[0].kind != "image":
        return None
    layout = arguments[1] if arguments else None
    options = _of_one_size(open_source(text, options, layout), options, without)
    names = _names(options)
    options = [replace(option, name=names[option.name]) for option in options]
    declared = [word for option in options for word in ("--field", str(option))]
    patterns = [option.pattern for option in options]
    broken = [name for each in candidates if each.pattern in patterns for name in each.broken]
    if not broken:
        _try(open_source(text, options, layout))
    elif _is_refused(open_source(text, options, layout)):
        return None
    else:
        read = max(len(each.contents) + len(each.broken) for each in candidates)
        declared += ["--max-rejects", f"{share_to_allow(len(broken), read):g}"]
        without.append(left_out(broken))
    said = [f"{names.get(name, name)}: {meant}" for name, meant in meanings]
    return Suggestion(text, [*arguments, *declared], said, without)


def _names(options: Sequence[FieldOption]) -> dict[str, str]:
    """By the name of each field, what it is called: as recipes have it, where it is the only one of
    its kind."""
    kinds = Counter(option.kind for option in options)
    own = {option.name for option in options if kinds[option.kind] > 1}
    return {
        option.name: option.name
        if option.name in own or NAMES.get(option.kind) in own
        else NAMES.get(option.kind, option.name)
        for option in options
    }


def _of_one_size(
    source: Source, options: list[FieldOption], without: list[str]
) -> list[FieldOption]:
    """The fields that are of the size of the pictures, which are the first."""
    kept = list(options)
    for index in spread_over(len(source)):
        try:
            arrays = source.load(index).arrays
        except FieldError:
            continue  # is tried, or known to be broken
        size = source.fields[0].size_of(arrays[source.fields[0].name])
        for option, field_ in zip(options, source.fields, strict=True):
            value = arrays.get(option.name)
            if value is not None and option in kept and field_.size_of(value) != size:
                sizes = [f"{high} x {wide}" for high, wide in (field_.size_of(value), size)]
                kept.remove(option)
                without.append(f"{option.pattern} ({sizes[0]} pixels, its picture {sizes[1]})")
    return kept
