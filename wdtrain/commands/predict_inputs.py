"""Which pictures `predict` is given: files, folders of them, samples of a split; one at a time.

Owns the listing (what is a picture, what is not, what is the tool's own) and the names of results.
Pictures are read when they are due and never kept, so memory does not grow with their number.
The surprise: two pictures may share a name (a/x.png and b/x.png, x.png and x.jpg); only then do
results get longer ones.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from wdtrain.commands.inspect_order import KeysOfBlocks
from wdtrain.config import Recipe
from wdtrain.fields.levels import read_rgb
from wdtrain.record.outputs import RECORD_NAME, TEMPORARY_PREFIX, read_record, safe_name
from wdtrain.scenes.kit_pictures import PICTURE_ENDINGS
from wdtrain.stream import Stream, load_dataset, open_stream

Skip = Callable[[str], None]
"""Told, in a sentence, of a picture that cannot be used."""


class Picture(NamedTuple):
    """A file, and its path inside of the folder that was named; its own name if it was named."""

    path: Path
    inside: Path

    def name(self, level: int) -> str:
        """What its results may be called, longer by level: x, x.png, a/x.png, more folders."""
        if level == 0:
            return safe_name(self.inside.with_suffix("").as_posix())
        if level == 1:
            return safe_name(self.inside.as_posix())
        parts = Path(os.path.abspath(self.path)).parts
        return safe_name("/".join(parts[-(len(self.inside.parts) + level - 1) :]))


@dataclass
class InputListing:
    """The pictures that were named or lie in folders that were; how many files were passed over
    because they are none, and how many because a tool of ours made them."""

    pictures: list[Picture] = field(default_factory=list)
    num_others: int = 0
    num_made: int = 0

    def remarks(self) -> list[str]:
        """What was passed over, in sentences."""
        notes = []
        if self.num_others:
            what = ", ".join(PICTURE_ENDINGS)
            notes.append(f"passed over {self.num_others:,} other files: pictures end in {what}")
        if self.num_made:
            notes.append(f"passed over {self.num_made:,} files that wdtrain's own tools made")
        return notes


def list_inputs(paths: Iterable[Path]) -> InputListing:
    """Each file that is named, and the pictures of each folder and of those below it, by name.

    What comes twice is taken once. ValueError for a folder without any picture.
    """
    found = InputListing()
    for path in paths:
        before, walked = len(found.pictures), _Walked()
        if not path.is_dir():
            found.pictures.append(Picture(path, Path(path.name)))
            continue
        for above in Path(os.path.abspath(path)).parents:
            walked.learn(above)
        _walk(path, path, found, walked)
        if len(found.pictures) == before:
            raise ValueError(
                f"folder {path} holds no picture ({', '.join(PICTURE_ENDINGS)}); name another"
            )
    by_place: dict[str, Picture] = {}
    for picture in found.pictures:
        by_place.setdefault(os.path.abspath(picture.path), picture)
    found.pictures = list(by_place.values())
    return found


@dataclass
class _Walked:
    """The folders that were entered, by device and inode, and the files that our tools made."""

    folders: set[tuple[int, int]] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    def learn(self, folder: Path) -> None:
        self.made |= {os.path.abspath(folder / one.name) for one in read_record(folder)}


def _walk(top: Path, folder: Path, found: InputListing, walked: _Walked) -> None:
    """Adds what is below `folder`. Links are followed, and no folder is entered twice."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in walked.folders:
        return
    walked.folders.add((status.st_dev, status.st_ino))
    walked.learn(folder)
    for path in sorted(folder.iterdir()):
        is_hidden = path.name.startswith(".")
        if path.name == RECORD_NAME or path.name.startswith(TEMPORARY_PREFIX):
            continue
        if path.is_dir() and not is_hidden:
            _walk(top, path, found, walked)
        elif os.path.abspath(path) in walked.made:
            found.num_made += 1
        elif path.suffix.lower() in PICTURE_ENDINGS and path.is_file() and not is_hidden:
            found.pictures.append(Picture(path, path.relative_to(top)))
        else:
            found.num_others += 1


def result_names(pictures: Sequence[Picture]) -> list[str]:
    """A name for each picture's results, all different, on file systems without cases as well.

    A picture's name without its ending; of those that would be one, with ending; then with folders.
    """
    levels = [0] * len(pictures)
    while True:
        names = [picture.name(level) for picture, level in zip(pictures, levels, strict=True)]
        count = Counter(map(_alike, names))
        raised = [
            index
            for index, (name, level) in enumerate(zip(names, levels, strict=True))
            if count[_alike(name)] > 1 and pictures[index].name(level + 1) != name
        ]
        if not raised:
            return numbered(names)
        for index in raised:
            levels[index] += 1


def numbered(names: Iterable[str]) -> list[str]:
    """The names, those that came before with a number: x, x-2, x-3."""
    taken: set[str] = set()
    unique = []
    for name in names:
        one, number = name, 1
        while _alike(one) in taken:
            number += 1
            one = f"{name}-{number}"
        taken.add(_alike(one))
        unique.append(one)
    return unique


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


# ---------------------------------------------------------------------------- one at a time

Named = tuple[str, np.ndarray | None]
"""A result's name and its picture, uint8 [h, w, 3] RGB; None for one that had to be skipped."""


def pictures_of_files(
    pictures: Sequence[Picture], names: Sequence[str], skip: Skip
) -> Iterator[Named]:
    """Each picture under its result's name."""
    for picture, name in zip(pictures, names, strict=True):
        try:
            rgb = read_picture(picture.path)
        except (ValueError, OSError, MemoryError) as error:
            skip(_reason(picture.path, error))
            rgb = None
        yield name, rgb


def _reason(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
    return reason if str(path) in reason else f"{path}: {reason}"


def read_picture(path: Path) -> np.ndarray:
    """uint8 [h, w, 3] RGB; ValueError or OSError for what is no whole picture."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}; name picture files")
    return read_rgb(path.read_bytes(), name=str(path))


def split_stream(recipe: Recipe, split: str, url: str | None, *, image: str) -> Stream:
    """An image of a split of the dataset at `url` (None: the run's own), for an epoch; damage is
    left out.

    Samples of a block are a fair draw of their split, so it is not shuffled among more than those.
    """
    manifest, chunk = load_dataset(recipe.data, url=url), recipe.data.chunk
    return open_stream(
        manifest,
        split=split,
        batch_size=chunk,
        chunk=chunk,
        seed=0,
        shuffle_bytes=1,
        on_damage="skip",
        fields=[image],
    )


def pictures_of_split(
    stream: Stream, names: Sequence[str], count: int, skip: Skip
) -> Iterator[Named]:
    """The first pictures of a stream, as many as names, as stored. Damage before the last of
    them is reported and skipped, and all there is in a split of less than `count`; damage in what
    was read ahead of them is not."""
    rows, done, reported = _rows(stream), 0, set[str]()

    def tell(stop: int) -> None:
        for where in [one for at in range(done, stop) for one in _damage_at(stream, at)]:
            if where not in reported:
                reported.add(where)
                skip(f"{where}: {stream.damaged[where]}")

    for name, (position, picture) in zip(names, rows, strict=False):
        tell(position)
        done = position + 1
        yield name, picture.permute(1, 2, 0).contiguous().numpy()
    if len(names) < count:
        for _ in rows:
            pass
        tell(stream.order.samples)


def _rows(stream: Stream) -> Iterator[tuple[int, Tensor]]:
    for batch in stream:
        (pictures,) = batch.fields.values()
        yield from zip(batch.positions.tolist(), pictures, strict=True)


def _damage_at(stream: Stream, position: int) -> list[str]:
    """The damage that left out the sample at a position: in its block, or in the sample itself;
    several where its block does not tell its key any more."""
    shards = stream.manifest.split(stream.order.split).shards
    shard, block, row = stream.order.locate(position)
    place = f"shard {shards[shard].name}, block {block}"
    found = [where for where in stream.damaged if f"{where}, ".startswith(f"{place}, ")]
    if len(found) > 1:
        keys = KeysOfBlocks(stream.manifest, stream.order.split).of(shard, block)
        return found if keys is None else [f"{place}, sample {keys[row]}"]
    return found


def split_names(stream: Stream, count: int) -> list[str]:
    """Names for the results of the first `count` samples: their keys, made safe and different."""
    keys: list[str] = []
    for batch in stream:
        keys += batch.keys[: count - len(keys)]
        if len(keys) == count:
            break
    return numbered(safe_name(key) for key in keys)
