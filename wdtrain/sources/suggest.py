"""What a person could say so that a source is packed: found by looking at it, and tried.

A refusal that names a command that works is worth more than one that explains the rules. Names tell
which files are of one sample (`families.py`), a few of the files what their values are; what could
mean several things is taken as its likeliest, and said. What is suggested was read as suggested.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import read_regular
from wdtrain.fields import DepthField, FieldError, Sample, labels, levels, npy
from wdtrain.fields.errors import AmbiguousError
from wdtrain.fields.resize import Size
from wdtrain.fields.source import Source
from wdtrain.sources.families import KIND_OF, Family, families_in, with_partner
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.folder import TRIPLES as TRIPLES_JSON
from wdtrain.sources.hf_source import cells_of, is_saved
from wdtrain.sources.layouts import LAYOUTS, open_layout
from wdtrain.sources.named_source import HF, open_source
from wdtrain.sources.pattern_source import PatternSource
from wdtrain.sources.readable import Contents, divided, is_photo, left_out, share_to_allow
from wdtrain.sources.tar_source import TAR_ENDINGS, TarSource, is_tar, member_families

FILES_READ: Final = 48
"""Of a field: spread over all there are."""
_MOST_ROUNDS: Final = 3
_ORDER: Final = ("image", "mask", "classes", "depth", "")
_MOST_ID: Final = 65_535
_MOST_APART: Final = 12
_PLENTY: Final = 64
"""More classes than this are the numbers of objects, or a depth."""


@dataclass(frozen=True)
class Suggestion:
    """What works: the source as it is to be given, and what is to be said beside it. meanings: of
    options that were chosen among several, what they mean. left_out: what lies there and cannot be
    used, with the reason."""

    source: str
    arguments: list[str]
    meanings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A field that may be: its word or name, where it lies, what it is by its words, some contents,
    and whether every picture has one."""

    name: str
    pattern: str
    kind: str
    contents: Contents
    is_complete: bool = True
    is_named: bool = False
    broken: Sequence[str] = ()


def advice(
    text: str, declared: Sequence[FieldOption] = (), layout: str | None = None
) -> Suggestion | None:
    """What could be said of a source that was refused; None where it was refused for something
    else, or where nothing was found that works."""
    try:
        source = open_source(text, declared, layout)
    except (StoreError, FieldError):
        return suggested(text)
    if not _is_refused(source):
        return None
    if declared and isinstance(source, PatternSource | TarSource):
        return _with_answers(text, source, declared, layout) or suggested(text)
    return suggested(text)


def uneven(text: str, declared: Sequence[FieldOption], layout: str | None) -> Size | None:
    """The commonest (height, width) of some samples, where they are not all of one size."""
    source = open_source(text, declared, layout)
    sizes: Counter[Size] = Counter()
    for index in _spread(len(source), FILES_READ):
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
    indices = _spread(len(source))
    for index in indices:
        try:
            _check(source, source.load(index))
        except FieldError:
            wrong += 1
    return 2 * wrong >= len(indices)


def _with_answers(
    text: str,
    source: PatternSource | TarSource,
    declared: Sequence[FieldOption],
    layout: str | None,
) -> Suggestion | None:
    """The same declarations, with the likeliest answers to what they leave open."""
    files = [source.raw(index) for index in _spread(len(source), FILES_READ)]
    answered, meanings = [], list[str]()
    for at, option in enumerate(declared):
        contents = [(each[at], option.pattern) for each in files]
        found: Contents = [(data, name) for data, name in contents if data is not None]
        candidate = _Candidate(option.name, option.pattern, option.kind, found)
        settled = next(_answered(option, candidate, meanings, []), None)
        if settled is None:
            return None
        answered.append(settled)
    if answered == list(declared):
        return None
    arguments = ["--layout", layout] if layout else []
    arguments += [word for option in answered for word in ("--field", str(option))]
    return Suggestion(text, arguments, meanings)


def suggested(text: str) -> Suggestion | None:
    """What could be said of a source so that it is packed; None where nothing was found."""
    with contextlib.suppress(StoreError, FieldError, OSError):
        folder = Path(text)
        if is_tar(text) and not folder.is_dir():
            return _of_candidates(text, [], _in_tars(text))
        if not folder.is_dir() or (folder / TRIPLES_JSON).exists():  # it says what it holds
            return None
        if is_saved(folder):
            return _of_candidates(text, ["--layout", HF], _in_saved(folder))
        if (layout := _layout_of(folder)) is not None:
            return Suggestion(text, ["--layout", layout])
        if (found := _of_candidates(text, [], _in_folder(folder))) is not None:
            return found
        if any(path.name.lower().endswith(TAR_ENDINGS[0]) for path in folder.iterdir()):
            tars = f"{text.rstrip('/')}/*.tar"
            return _of_candidates(tars, [], _in_tars(tars))
    return None


def _layout_of(folder: Path) -> str | None:
    for name, layout in LAYOUTS.items():
        if layout.is_in(folder):
            with contextlib.suppress(StoreError, FieldError, OSError):
                _try(open_layout(name, folder, []))
                return name
    return None


def _try(source: Source) -> None:
    """Some samples are loaded; FieldError for what cannot be packed."""
    for index in _spread(len(source)):
        _check(source, source.load(index))


def _spread(count: int, most: int = 9) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, most).astype(int).tolist())) if count else []


# ---------------------------------------------------------------------------- where fields may be


def _in_folder(folder: Path) -> list[_Candidate]:
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
        found.append(
            _Candidate(word, family.pattern, kind, contents, is_complete, is_named, broken)
        )
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


def _name_of(word: str, kind: str) -> str:
    """What a field is called: the word of its files, where that is of its kind."""
    word = word.removesuffix("s") if word in ("masks", "depths") else word
    is_of_kind = KIND_OF.get(word) == kind and kind != "image"
    return word if is_of_kind else {"classes": "labels"}.get(kind, kind)


def _contents(folder: Path, paths: Sequence[str], most: int = FILES_READ) -> Contents:
    paths = sorted(paths)
    return [(read_regular(folder / paths[at]), paths[at]) for at in _spread(len(paths), most)]


def _in_tars(text: str) -> list[_Candidate]:
    found = []
    for ending, contents in member_families(text, FILES_READ).items():
        word = ending.rpartition(".")[0].rpartition(".")[2] or ending
        kind = KIND_OF.get(word, "")
        is_seen = kind in ("", "image") and all(is_photo(data) for data, _ in contents[:3])
        kind = "image" if is_seen else kind
        found.append(_Candidate(word, ending, kind, list(contents)))
    return found


def _in_saved(folder: Path) -> list[_Candidate]:
    found = []
    for column, contents in cells_of(folder, FILES_READ).items():
        kind = KIND_OF.get(column.lower(), "")
        is_seen = kind in ("", "image") and all(is_photo(data) for data, _ in contents[:3])
        kind = "image" if is_seen else kind
        found.append(_Candidate(column, column, kind, contents, is_named=True))
    return found


# ---------------------------------------------------------------------------- what they mean


def _of_candidates(
    text: str, arguments: list[str], candidates: Sequence[_Candidate]
) -> Suggestion | None:
    """The declarations with which all of a source's fields are read; None without a picture."""
    options: list[FieldOption] = []
    meanings: list[str] = []
    without: list[str] = []
    for each in sorted(candidates, key=lambda each: _ORDER.index(each.kind)):
        may_be_seen = options and each.kind in ("image", "")
        if may_be_seen and all(is_photo(data) for data, _ in each.contents):
            without.append(f"{each.pattern} (another picture)")
            continue
        wrong: list[str] = []
        taken = {option.name for option in options}
        try:
            options.append(next(_settled(each, taken, meanings, wrong)))
        except (StopIteration, FieldError) as error:
            reason = wrong[0] if wrong else str(error) or "nothing says what its values are"
            without.append(f"{each.pattern} ({reason})")
    if not options or options[0].kind != "image":
        return None
    layout = arguments[1] if arguments else None
    options = _of_one_size(open_source(text, options, layout), options, without)
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
    return Suggestion(text, [*arguments, *declared], meanings, without)


def _of_one_size(
    source: Source, options: list[FieldOption], without: list[str]
) -> list[FieldOption]:
    """The fields that are of the size of the pictures, which are the first."""
    kept = list(options)
    for index in _spread(len(source)):
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


def _settled(
    each: _Candidate, taken: set[str], meanings: list[str], wrong: list[str]
) -> Iterator[FieldOption]:
    """Declarations with which all contents are read, the likeliest first. wrong: why others are
    not."""
    for kind in [each.kind] if each.kind else _kinds_by_look(each.contents):
        kind = _settled_kind(kind, each)
        name = each.name if each.is_named else _name_of(each.name, kind)
        while name in taken:
            name += "2"
        options = _FIRST_OPTIONS[kind](each.contents) if kind in _FIRST_OPTIONS else {}
        if not each.is_complete and kind != "image":
            options["optional"] = ""
        yield from _answered(FieldOption(name, kind, each.pattern, options), each, meanings, wrong)


def _kinds_by_look(contents: Contents) -> list[str]:
    """The kinds that contents without a telling name may be."""
    data = contents[0][0]
    if isinstance(data, bytes) and not npy.is_npy(data):
        found = levels.read(data, file="picture")
        if found.full == 65535:
            return ["depth"]
        return ["mask", "classes", "depth"]
    return ["depth", "mask", "classes"] if _array(data).dtype.kind == "f" else ["classes", "mask"]


def _settled_kind(kind: str, each: _Candidate) -> str:
    """`gt`, `seg` and their like are masks where there are two values, else classes."""
    if kind not in ("classes", "mask") or each.kind not in ("classes", ""):
        return kind
    values: set[int] = set()
    for data, _ in each.contents:
        values |= _values(data)
        if len(values) > _PLENTY:
            return kind
    return "mask" if len(values - {255}) <= 2 or values <= {0, 255} else "classes"


def _values(data: bytes | np.ndarray) -> set[int]:
    """The numbers of a picture or array, colours as one."""
    if isinstance(data, bytes) and not npy.is_npy(data):
        found = levels.read(data, file="picture")
        if found.values.ndim == 3:
            wide = found.values.astype(np.int64)
            return set(np.unique(wide[..., 0] << 32 | wide[..., 1] << 16 | wide[..., 2]).tolist())
        return set(np.unique(found.values).tolist())
    return set(np.unique(_array(data)).tolist())


def _array(data: bytes | np.ndarray) -> np.ndarray:
    return npy.read_npy(data, file="array") if isinstance(data, bytes) else data


def _classes_of(contents: Contents) -> dict[str, str]:
    """How many classes there are by the ids in some files; of coloured ones, the id of each."""
    ids: set[int] = set()
    for data, _ in contents:
        ids |= _values(data)
    if max(ids) <= _MOST_ID:
        known = [value for value in ids if 0 <= value < 255]
        return {"classes": str(max(known, default=0) + 1)}
    codes = sorted(value >> 32 << 16 | (value >> 16 & 255) << 8 | value & 255 for value in ids)
    named = "|".join(f"{labels.colour_of(code)}:{at}" for at, code in enumerate(codes))
    return {"colours": named} if len(codes) <= _PLENTY else {"classes": "1"}


_FIRST_OPTIONS: Final = {"classes": _classes_of}
"""By kind: what has to be declared before anything is read."""


def _answered(
    option: FieldOption,
    each: _Candidate,
    meanings: list[str],
    wrong: list[str],
    rounds: int = 0,
) -> Iterator[FieldOption]:
    """The option with answers to what its contents leave open, each in turn."""
    try:
        for data, file in each.contents:
            read = option.field.load if isinstance(data, bytes) else option.field.from_array
            read(data, file=file)  # type: ignore[arg-type]
    except AmbiguousError as error:
        if rounds == _MOST_ROUNDS:
            return
        for choice, meaning in error.choices.items():
            with contextlib.suppress(FieldError):
                better = _within_limits(option.with_options(choice), each.contents)
                for found in _answered(better, each, meanings, wrong, rounds + 1):
                    others = ", ".join(other for other in error.choices if other != choice)
                    told = f"{meaning}; or it is {others}" if others else meaning
                    meanings.append(f"{option.name}: {choice} ({told})")
                    yield found
        return
    except FieldError as error:
        wrong.append(str(error))
        return
    yield option


def _within_limits(option: FieldOption, contents: Contents) -> FieldOption:
    """Depth in metres with limits that hold what was found, where the usual ones do not."""
    declared = option.field
    if not isinstance(declared, DepthField) or not declared.format.is_logarithmic:
        return option
    per_metre = declared.scale or {"m": 1.0, "cm": 100.0, "mm": 1000.0}.get(declared.unit or "", 0)
    values = [_known(data) / per_metre for data, _ in contents] if per_metre else []
    metres = np.concatenate(values) if values else np.empty(0)
    near, far = declared.format.near_m, declared.format.far_m
    if not metres.size or (metres.min() >= near and metres.max() <= far):
        return option
    low, high = _rounded(metres.min(), math.floor), _rounded(metres.max(), math.ceil)
    return option.with_options(f"near={min(near, low):g},far={max(far, high):g}")


def _known(data: bytes | np.ndarray) -> np.ndarray:
    """The depths of contents that are any."""
    if isinstance(data, bytes) and not npy.is_npy(data):
        values = levels.read(data, file="depth").values.astype(np.float64)
    else:
        values = _array(data).astype(np.float64)
    return values[np.isfinite(values) & (values > 0)]


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """To one digit that counts, down or up."""
    unit = 10.0 ** math.floor(math.log10(value))
    return to(value / unit) * unit
