"""A folder of triples as a source: KEY.overlay.jpg, KEY.mask.png, KEY.depth.png, KEY.json.

Folders may be nested: `a/x.overlay.jpg` has the key `a__x`. `triples.json` on top says what the
depth means. The listing is arrays, no Python object a file. The order is that of the sorted names,
and what is missing or damaged is found when a triple is loaded: it becomes that triple's reject.
"""

from __future__ import annotations

import json
import os
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from wdtrain import triple
from wdtrain.pictures import read_rgb, turned_like
from wdtrain.store.declared import read_declared
from wdtrain.store.errors import StoreError
from wdtrain.store.expecting import expecting
from wdtrain.store.listing import OVERLAY_SUFFIXES, list_folder
from wdtrain.store.png import decode_png
from wdtrain.triple import DepthFormat, Triple, TripleError

TRIPLES: Final = "triples.json"
UNFINISHED: Final = ".triples-started.json"
"""Lies in a folder while make-triples writes it; `triples.json` takes its place at the end."""
_PNG_BITS_AT: Final = 24
_MASK_DTYPE: Final = np.dtype(np.uint8)
_NUM_PROBES: Final = 100
_READ_BYTES: Final = 1 << 16
_CAN_ADVISE: Final = hasattr(os, "posix_fadvise")


def declaration(folder: Path) -> dict[str, Any]:
    """What a folder's `triples.json` says; {} where there is none, StoreError if unreadable."""
    path = folder / TRIPLES
    if not path.exists():
        return {}
    try:
        declared = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(declared, dict):
        raise StoreError(f"{path} holds no JSON object; mend or remove it")
    return declared


class FolderSource:
    """The triples of a folder, flat or nested. A `Source`."""

    def __init__(self, folder: str | Path) -> None:
        """Lists the folder and reads the parts its JSON files name.

        StoreError for what is no folder of triples. An overlay may also be an 8-bit RGB PNG.
        """
        self._folder = Path(folder).absolute()
        self._prefix = os.fsencode(self._folder) + b"/"
        if not self._folder.is_dir():
            raise StoreError(f"{folder} is not a folder; a source is a folder of triples")
        if (self._folder / UNFINISHED).exists():
            raise StoreError(
                f"{folder} holds triples whose making was interrupted, so some are missing and "
                "nothing says what their depth is; run the same make-triples command again first"
            )
        listing = list_folder(self._folder)
        self._names = listing.names
        if not len(self._names):
            raise StoreError(
                f"{folder} holds no triples: no file in it is named KEY.overlay.jpg (with "
                "KEY.mask.png and KEY.depth.png beside it)"
            )
        declared = declaration(self._folder)
        self.declares_depth = "depth" in declared
        guess = None if self.declares_depth else self._guessed_depth()
        self.declared = read_declared(declared, guess)
        self.depth_format = self.declared.depth
        self.description: dict[str, Any] = {"kind": "folder", "listing": listing.digest}
        if said := {name: declared[name] for name in ("depth", "mask") if name in declared}:
            self.description["declared"] = said
        if "source" in declared:
            self.description["made_from"] = declared["source"]
        self._backgrounds, self._cutouts = self._read_parts(listing.has_json)

    def __len__(self) -> int:
        return len(self._names)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] ids of backgrounds and cut-outs: hashes of what the JSON names, or -1."""
        return self._backgrounds[indices], self._cutouts[indices]

    def key(self, index: int) -> str:
        """The sample's path without suffix, folders joined by `__`."""
        return self._stem(index).replace("/", "__")

    def load(self, index: int) -> Triple:
        """The triple of an index; TripleError where a file is missing or cannot be decoded."""
        suffix = OVERLAY_SUFFIXES.get(self._names[index][-1:])
        if suffix is None:
            raise TripleError("missing overlay: there is a mask or depth without it")
        overlay: bytes | np.ndarray = self._read(index, suffix, "overlay")
        if suffix.endswith(".png"):
            overlay = _decode_overlay_png(bytes(overlay))
        mask = self._read(index, ".mask.png", "mask")
        depth = self._read(index, ".depth.png", "depth")
        alpha = decode_png(mask, name="mask", dtype=_MASK_DTYPE)
        codes = decode_png(depth, name="depth", dtype=self.declared.depth_dtype)
        return Triple(
            key=self.key(index),
            overlay=overlay,
            mask=self.declared.alpha(turned_like(mask, alpha, name="mask")),
            depth=self.declared.codes(turned_like(depth, codes, name="depth")),
            meta=self._meta(index),
        )

    def expect(self, index: int) -> None:
        """Begins to read the files of a sample that is loaded soon, without waiting for them."""
        suffix = OVERLAY_SUFFIXES.get(self._names[index][-1:])
        for ending in (suffix, ".mask.png", ".depth.png", ".json"):
            if ending:
                _begin_to_read(self._path(index, ending))

    def _stem(self, index: int) -> str:
        return bytes(self._names[index][:-1]).decode("utf-8", "backslashreplace")

    def _path(self, index: int, suffix: str) -> bytes:
        return b"%b%b%b" % (self._prefix, self._names[index][:-1], suffix.encode())

    def _read(self, index: int, suffix: str, member: str) -> bytes:
        try:
            return _read_file(self._path(index, suffix))
        except FileNotFoundError as error:
            raise TripleError(f"missing {member}: no file ends on {suffix}") from error
        except OSError as error:
            raise TripleError(f"unreadable {member}: {error.strerror}") from error

    def _meta(self, index: int) -> dict[str, Any]:
        try:
            data = _read_file(self._path(index, ".json"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise TripleError(f"unreadable json: {error.strerror}") from error
        return triple.decode_meta(data)

    def _guessed_depth(self) -> DepthFormat:
        """`relative`, with the bits of the first depth PNG."""
        for index in range(min(len(self), _NUM_PROBES)):
            path = Path(os.fsdecode(self._path(index, ".depth.png")))
            if path.exists():
                with path.open("rb") as file:
                    header = file.read(_PNG_BITS_AT + 1)
                is_deep = len(header) > _PNG_BITS_AT and header[_PNG_BITS_AT] == 16
                return DepthFormat(kind="relative", bits=16 if is_deep else 8)
        raise StoreError(
            f"{self._folder} holds no depth: no KEY.depth.png lies beside its overlays; make the "
            "depth first (tools/make-triples compose --depth lift does so for photos)"
        )

    def _read_parts(self, has_json: bool) -> tuple[np.ndarray, np.ndarray]:
        parts = np.full((2, len(self)), -1, np.int64)
        for index in expecting(range(len(self) if has_json else 0), self._expect_meta):
            try:
                meta = self._meta(index)
            except TripleError:  # found again, and rejected with its reason, at load
                continue
            for row, name in enumerate(("background", "cutout")):
                if name in meta:
                    parts[row, index] = _part_id(meta[name])
        return parts[0], parts[1]

    def _expect_meta(self, index: int) -> None:
        _begin_to_read(self._path(index, ".json"))


def _read_file(path: bytes) -> bytes:
    """The whole of a small file in three system calls; `open` takes seven and 3 times as long."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _READ_BYTES)
        if len(data) < _READ_BYTES:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(descriptor, _READ_BYTES))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _begin_to_read(path: bytes) -> None:
    """The system reads a file into its memory meanwhile. One that cannot be opened is found again,
    and rejected with its reason, at load. Cold files on a local disk: 8.6 s -> 1.4 s for 80,000."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _CAN_ADVISE:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _part_id(name: Any) -> int:
    """63 bits of a part's name (text or number)."""
    text = encode_basestring_ascii(name) if isinstance(name, str) else json.dumps(name)
    return int(xxhash.xxh3_64_intdigest(text.encode())) >> 1


def _decode_overlay_png(data: bytes) -> np.ndarray:
    """uint8 [h, w, 3] RGB of an 8-bit RGB PNG; any other PNG is refused by name."""
    if len(data) < 33 or data[:4] != b"\x89PNG":
        raise TripleError("overlay is not a PNG")
    if (data[24], data[25]) != (8, 2):
        raise TripleError(
            f"overlay PNG: {data[24]} bits of colour type {data[25]}; 8-bit RGB (type 2) is "
            "needed; convert it"
        )
    return read_rgb(data, name="overlay")
