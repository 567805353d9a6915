"""A folder of triples as a source: KEY.overlay.jpg, KEY.mask.png, KEY.depth.png, KEY.json.

Folders may be nested: `a/x.overlay.jpg` has the key `a__x`. `triples.json` on top says what the
depth means. The listing is arrays, no Python object a file. The order is that of the sorted names,
and what is missing or damaged is found when a triple is loaded: it becomes that triple's reject.
"""

from __future__ import annotations

import json
import os
from functools import cached_property, lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain.disk.failures import StoreError
from wdtrain.disk.sourcefiles import content_of, read_regular
from wdtrain.fields import DepthFormat, FieldError, Sample, triple_of
from wdtrain.fields.announce import prefetched
from wdtrain.fields.errors import AmbiguousError
from wdtrain.fields.image import ImageField
from wdtrain.fields.pictures import turned_like
from wdtrain.fields.png import decode_fast_png
from wdtrain.fields.sample import decode_meta
from wdtrain.sources.declared import read_declared
from wdtrain.sources.division import Division, division_of
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.listing import NO_OVERLAY, OVERLAY_SUFFIXES, list_folder
from wdtrain.sources.pattern_source import completed
from wdtrain.sources.reading import FileSamples, begin_to_read, read_member

TRIPLES: Final = "triples.json"
UNFINISHED: Final = ".triples-started.json"
"""Lies in a folder while make-triples writes it; `triples.json` takes its place at the end."""
_PNG_BITS_AT: Final = 24
_MASK_DTYPE: Final = np.dtype(np.uint8)
_NUM_PROBES: Final = 100
TRIPLE: Final = (
    FieldOption("overlay", "image", "{key}.overlay.jpg"),
    FieldOption("mask", "mask", "{key}.mask.png"),
    FieldOption("depth", "depth", "{key}.depth.png"),
)
"""What is said of a triple where triples.json says nothing."""
_MEMBERS: Final = ("overlay", "mask", "depth", "json")
_OVERLAYS: Final = tuple(OVERLAY_SUFFIXES.values())
_OVERLAY: Final = ImageField("overlay")
_JPEGS: Final = (".overlay.jpg", ".overlay.jpeg", ".overlay.jpe", ".overlay.jfif")


def declaration(folder: Path) -> dict[str, Any]:
    """What a folder's `triples.json` says; {} where there is none, StoreError if unreadable."""
    path = folder / TRIPLES
    try:
        return decode_meta(read_regular(path))
    except FileNotFoundError:
        return {}
    except FieldError as error:
        raise StoreError(f"{path} is not readable JSON: {error}; mend or remove it") from error


class FolderSource(FileSamples):
    """The triples of a folder, flat or nested. A `Source`."""

    def __init__(self, folder: str | Path) -> None:
        """Lists the folder and reads the parts its JSON files name.

        StoreError for what is no folder of triples. An overlay may also be an 8-bit RGB PNG.
        """
        self._folder = Path(folder).absolute()
        self._prefix = os.fsencode(self._folder) + b"/"
        if not self._folder.is_dir():
            what = "is not a folder" if self._folder.exists() else "does not exist"
            raise StoreError(
                f"{folder} {what}; a source is a folder of files, or the tars of a WebDataset"
            )
        if (self._folder / UNFINISHED).exists():
            raise StoreError(
                f"{folder} holds triples whose making was interrupted, so some are missing and "
                "nothing says what their depth is; run the same make-triples command again first"
            )
        listing = list_folder(self._folder)
        self._names, self._unusual = listing.names, listing.unusual
        self.passed_over = listing.passed_over
        if not len(self._names):
            raise StoreError(
                f"{folder} holds no triples: no file in it is named KEY.overlay.jpg (with "
                "KEY.mask.png and KEY.depth.png beside it); say with --field or --layout how its "
                "files lie"
            )
        declared = declaration(self._folder)
        self.declares_depth = "depth" in declared
        guess = None if self.declares_depth else self._guessed_depth()
        self.declared = read_declared(declared, guess)
        self.fields = triple_of(self.declared.depth)
        self._has_declaration = bool(declared)
        # What make-triples made (it names a source) is alpha.
        self.options = [] if {"mask", "source"} & declared.keys() else list(TRIPLE)
        self.description: dict[str, Any] = {"kind": "folder", "listing": listing.digest}
        if stated := {name: declared[name] for name in ("depth", "mask") if name in declared}:
            self.description["declared"] = stated
        if "source" in declared:
            self.description["made_from"] = declared["source"]
        self._backgrounds, self._cutouts = self._read_parts(listing.has_json)
        self.description["parts"] = _digest(self._backgrounds, self._cutouts)

    @cached_property
    def division(self) -> Division | None:
        """The split that the names of its folders are, if they are one."""
        return division_of(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] ids of backgrounds and cut-outs: hashes of what the JSON names, or -1."""
        return self._backgrounds[indices], self._cutouts[indices]

    def key(self, index: int) -> str:
        """The sample's path without suffix, folders joined by `__`."""
        return self._stem(index).replace("/", "__")

    def name(self, index: int) -> str:
        """The sample's path without suffix."""
        return self._stem(index)

    def raw(self, index: int) -> list[bytes | None]:
        """The bytes of the mask, of which alone something may be open; see `asking.ask`."""
        return [None, self._read(index, "mask"), None]

    def asked(self, error: FieldError, option: FieldOption) -> FieldError:
        """A question; where there is a triples.json, with what to add to it: it knows foreground
        and background, and nothing else."""
        if not self._has_declaration or not isinstance(error, AmbiguousError):
            return completed(error, option)
        lines = "; ".join(
            f"--field '{option.with_options(choice)}' ({meaning})"
            for choice, meaning in error.choices.items()
        )
        return FieldError(
            f"{error.found}, and triples.json does not say what they are; name in it those that "
            'are foreground, all others being background ("mask": {"foreground": [255]}), or '
            f"declare every field with --field instead, the mask by one of these: {lines}"
        )

    def load(self, index: int) -> Sample:
        """The triple of an index; FieldError where a file is missing or cannot be decoded."""
        overlay, mask, depth = (self._read(index, member) for member in _MEMBERS[:3])
        meta = self._read_meta(index)
        self._loaded = index, content_of((overlay, mask, depth, meta))
        usual = OVERLAY_SUFFIXES[self._names[index][-1:]]
        alpha = decode_fast_png(mask, name="mask", dtype=_MASK_DTYPE)
        codes = decode_fast_png(depth, name="depth", dtype=self.declared.depth_dtype)
        arrays = {
            "overlay": _overlay(overlay, usual),
            "mask": self.declared.alpha(turned_like(mask, alpha, name="mask")),
            "depth": self.declared.codes(turned_like(depth, codes, name="depth")),
        }
        return Sample(self.key(index), arrays, {} if meta is None else decode_meta(meta))

    def _paths(self, index: int) -> list[bytes]:
        """All files of a sample, those that there may be too, in one order."""
        name = self._names[index]
        if self._unusual.suffixes or name[-1:] == NO_OVERLAY:
            suffixes = [suffix for member in _MEMBERS for suffix in self._suffixes(index, member)]
        else:  # nearly always; every sample comes through here more than once
            suffixes = [OVERLAY_SUFFIXES[name[-1:]], ".mask.png", ".depth.png", ".json"]
        start = self._prefix + name[:-1]
        return [start + _encoded(suffix) for suffix in suffixes]

    def _stem(self, index: int) -> str:
        return bytes(self._names[index][:-1]).decode("utf-8", "backslashreplace")

    def _path(self, index: int, suffix: str) -> bytes:
        return b"%b%b%b" % (self._prefix, self._names[index][:-1], _encoded(suffix))

    def _suffixes(self, index: int, member: str) -> list[str]:
        """The suffixes under which a member of a sample may lie: the usual one, or what is there
        instead of it or beside it."""
        usual = f".{member}.png" if member != "json" else ".json"
        if member == "overlay":
            usual = OVERLAY_SUFFIXES.get(self._names[index][-1:], "")
        if not self._unusual.suffixes:
            return [usual] if usual else []
        others = [
            suffix
            for suffix in map(os.fsdecode, self._unusual.of(self._names[index][:-1]))
            if _is_of(suffix, member, usual)
        ]
        if others and not (usual and self._is_another(index, usual, others[0])):
            return others
        return [*([usual] if usual else []), *others]

    def _is_another(self, index: int, usual: str, other: str) -> bool:
        """Whether there are two files. Where names differ in more than their case, there are."""
        try:
            two = (os.lstat(self._path(index, suffix)) for suffix in (usual, other))
            return not os.path.samestat(*two)
        except FileNotFoundError:
            return False

    def _read(self, index: int, member: str) -> bytes:
        """The bytes of a member; FieldError where it is missing, there twice, or no file."""
        suffixes = self._suffixes(index, member)
        if not suffixes:
            raise FieldError("missing overlay: there is a mask or depth without it")
        if len(suffixes) > 1:
            raise FieldError(f"more than one {member}: {' and '.join(suffixes)}; keep one")
        read = _OVERLAYS if member == "overlay" else (f".{member}.png", ".json")
        if suffixes[0].lower() not in read:
            endings = ", ".join(suffix.rpartition(".")[2] for suffix in read if suffix != ".json")
            raise FieldError(
                f"{member} of another kind: it ends on {suffixes[0]!r}; {endings} is read"
            )
        path = self._path(index, suffixes[0])
        data = read_member(path, what=member, file=_encoded(suffixes[0]))
        if data is None:
            raise FieldError(f"missing {member}: no file ends on {suffixes[0]}")
        return data

    def _read_meta(self, index: int) -> bytes | None:
        """The bytes of a sample's JSON; None where it has none."""
        suffixes = self._suffixes(index, "json")
        if suffixes == [".json"] and not os.path.lexists(self._path(index, ".json")):
            return None
        return self._read(index, "json")

    def _meta(self, index: int) -> dict[str, Any]:
        data = self._read_meta(index)
        return {} if data is None else decode_meta(data)

    def _guessed_depth(self) -> DepthFormat:
        """`relative`, with the bits of the first depth PNG."""
        for index in range(min(len(self), _NUM_PROBES)):
            try:
                header = self._read(index, "depth")[: _PNG_BITS_AT + 1]
            except FieldError:  # found again, and rejected with its reason, at load
                continue
            is_deep = len(header) > _PNG_BITS_AT and header[_PNG_BITS_AT] == 16
            return DepthFormat(kind="relative", bits=16 if is_deep else 8)
        raise StoreError(
            f"{self._folder} holds no depth: no KEY.depth.png lies beside its overlays; declare "
            "what there is with --field, or make the depth of photos (tools/make-triples compose "
            "--depth lift)"
        )

    def _read_parts(self, has_json: bool) -> tuple[np.ndarray, np.ndarray]:
        parts = np.full((2, len(self)), -1, np.int64)
        for index in prefetched(range(len(self) if has_json else 0), self._expect_meta):
            try:
                meta = self._meta(index)
            except FieldError:  # found again, and rejected with its reason, at load
                continue
            for row, name in enumerate(("background", "cutout")):
                if meta.get(name) is not None:
                    parts[row, index] = _part_id(meta[name])
        return parts[0], parts[1]

    def _expect_meta(self, index: int) -> None:
        begin_to_read(self._path(index, ".json"))


@lru_cache(maxsize=64)
def _encoded(suffix: str) -> bytes:
    """As `os.fsencode`, which every sample asks some twenty times of the same few."""
    return os.fsencode(suffix)


def _is_of(suffix: str, member: str, usual: str) -> bool:
    """Whether a suffix is that of a member. Overlays of two kinds that are read are two triples, of
    which one is rejected as a duplicate."""
    lower = suffix.lower()
    if member != "overlay":
        return lower.startswith(f".{member}")
    return lower == usual or (lower.startswith(".overlay.") and lower not in _OVERLAYS)


def _digest(*parts: np.ndarray) -> str:
    """128 bits (hex) of ids: what decides which split a sample belongs to."""
    return xxhash.xxh3_128_hexdigest(b"".join(part.tobytes() for part in parts))


def _part_id(name: Any) -> int:
    """63 bits of a part's name (text or number)."""
    text = encode_basestring_ascii(name) if isinstance(name, str) else json.dumps(name)
    return int(xxhash.xxh3_64_intdigest(text.encode())) >> 1


def _overlay(data: bytes, suffix: str) -> bytes | np.ndarray:
    """An overlay as it is packed: the bytes of a JPEG, or uint8 [h, w, 3] RGB."""
    return data if suffix in _JPEGS else _OVERLAY.read(data, file="overlay")
