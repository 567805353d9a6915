"""Somebody else's tars become a dataset as they lie: an index beside a manifest.

Owns what is decided once all tars were read: whose key came before, which split a sample is in, how
many make a block; and the two files that say so. The records wait on disk meanwhile and are gone
through a stretch at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wdtrain.disk.durable import rename_synced, write_whole, writing
from wdtrain.disk.failures import StoreError
from wdtrain.disk.locks import is_under, take
from wdtrain.fields import ImageField
from wdtrain.fields.source import SPLITS
from wdtrain.packing.foreign_records import OUT, ForeignRecords
from wdtrain.packing.foreign_scan import (
    ForeignField,
    Rejected,
    Scan,
    ScannedTar,
    counted_kinds,
)
from wdtrain.packing.foreign_statistics import statistics_of
from wdtrain.packing.options import PackingProgress
from wdtrain.packing.splits import CHUNK, Holdout
from wdtrain.remote.access import file_bytes
from wdtrain.remote.extents import GAP, MAX_BLOCK
from wdtrain.remote.remote_files import Remote
from wdtrain.remote.urls import has_secrets, is_url, redacted
from wdtrain.store import manifest as manifests
from wdtrain.store.foreign_index import INDEX_MAGIC, SUFFIX, record_layout, sample_checksum
from wdtrain.store.manifest import Manifest

_TEMPORARY: Final = ".indexing"
_BLOCK_BYTES: Final = 1 << 20
_LEAST_SAMPLES: Final = 8  # of a block of a small dataset
_WANTED_BLOCKS: Final = 64
_MOST_SAMPLES: Final = 1 << 12  # of a block


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What an index is made by. holdout: share 0..1 of the samples, in whole groups where they
    have any, that training never sees: the split `val`. group: how groups were found, in words.
    max_rejects: share of samples that may be left out."""

    holdout: float = Holdout().samples
    group: str | None = None
    seed: int = 0
    max_rejects: float = 0.001

    def __post_init__(self) -> None:
        Holdout(samples=self.holdout)
        if not 0 <= self.max_rejects <= 1:
            raise StoreError(f"max_rejects is {self.max_rejects}; it is a share from 0 to 1")


@dataclass(frozen=True)
class Naming:
    """What is made of a sample's name: its key, and its group (None: it is in none)."""

    key_of: Callable[[bytes], str]
    group_of: Callable[[str], str | None] = lambda name: None


def write_index(
    urls: Sequence[str],
    folder: Path,
    fields: Sequence[ForeignField],
    options: IndexOptions,
    naming: Naming,
    *,
    remote: Remote | None = None,
    progress: PackingProgress = lambda done, total: None,
) -> Manifest:
    """The dataset that these tars are: `folder` then holds its manifest and index, and nothing else
    of it. StoreError or FieldError where they cannot be used, and the folder is as before."""
    names = [_name(url, folder) for url in urls]
    _check(urls, folder, fields)
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with writing(folder), _alone(folder) as temporary:
            work = _Indexing(temporary, urls, names, fields, options, naming, remote)
            work.scan(progress)
            work.divide()
            work.finish(folder)
    finally:
        if not was_there and not any(folder.iterdir()):
            folder.rmdir()
    return Manifest.load(str(folder))


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """An empty folder in the folder that no other process writes into; it is gone afterwards."""
    temporary, lock = folder / _TEMPORARY, folder / f"{_TEMPORARY}.lock"
    busy = f"{folder} is being indexed by another process; wait for it, or give another --out"
    try:
        descriptor = take(lock, is_needed=False)
    except BlockingIOError as error:
        raise StoreError(busy) from error
    if not is_under(lock, descriptor):
        os.close(descriptor)
        raise StoreError(busy)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _check(urls: Sequence[str], folder: Path, fields: Sequence[ForeignField]) -> None:
    if (folder / manifests.MANIFEST_NAME).exists():
        raise StoreError(
            f"{folder} holds a {manifests.MANIFEST_NAME} already, which would be written over; "
            "give --out another folder, or move it away"
        )
    if len(set(urls)) < len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise StoreError(f"{redacted(twice)} is given twice; give each tar once")
    endings = [ending for each in fields for ending in each.endings]
    names = [each.field.name for each in fields]
    for what, values in (("field", names), ("ending", endings)):
        again = [value for value in values if values.count(value) > 1]
        if again:
            raise StoreError(f"the {what} {again[0]} is declared twice; declare it once")
    if not any(isinstance(each.field, ImageField) for each in fields):
        raise StoreError(
            "no field of kind image is declared, so nothing could be seen; add for example "
            "--field image=image:jpg"
        )


def _name(url: str, folder: Path) -> str:
    """A tar as the manifest names it: relative to the folder that holds it, else its whole path.
    StoreError for one that holds secrets, which would stand there for all to read."""
    if is_url(url):
        if has_secrets(url):
            raise StoreError(
                f"{redacted(url)} holds a user, a password or a query, which would stand in the "
                "manifest; give a URL without (credentials of the environment are used), or index "
                "the tars where they lie in --out itself, and put that folder beside them"
            )
        return url
    path, home = Path(os.path.abspath(url)), Path(os.path.abspath(folder))
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


class _Indexing:
    """One indexing: the records in a file, and what was found out of them so far."""

    def __init__(
        self,
        temporary: Path,
        urls: Sequence[str],
        names: Sequence[str],
        fields: Sequence[ForeignField],
        options: IndexOptions,
        naming: Naming,
        remote: Remote | None,
    ) -> None:
        self._temporary, self._urls, self._names = temporary, urls, names
        self._fields, self._options, self._remote = fields, options, remote
        self._naming = naming
        self._index_path = temporary / "index"
        self._tars: list[ScannedTar] = []
        self._rejected = Rejected()

    # ------------------------------------------------------------------ the tars, read once

    def scan(self, progress: PackingProgress) -> None:
        """All records and names are on disk; StoreError, which names it, for a tar that cannot be
        read."""
        sizes = [self._size(url) for url in self._urls]
        records, names = self._temporary / "records", self._temporary / "names"
        scan = Scan(self._fields, records, names, self._naming.group_of)
        try:
            for number, (url, name) in enumerate(zip(self._urls, self._names, strict=True)):
                self._tars.append(scan.tar(number, url, redacted(name), self._remote))
                progress(sum(sizes[: number + 1]), sum(sizes))
            scan.judge()
        finally:
            scan.close()
        self._rejected = scan.rejected
        if not scan.found:
            raise StoreError(f"no sample can be used: {', '.join(counted_kinds(scan.rejected))}")
        self.records = ForeignRecords(records, names, scan.layout)

    def _size(self, url: str) -> int:
        try:
            return file_bytes(url, remote=self._remote)
        except FileNotFoundError as error:
            raise StoreError(
                f"{redacted(url)} is not there; give the tars that there are"
            ) from error

    # ------------------------------------------------------------------ names and splits

    def divide(self) -> None:
        """Each sample's split is in its record; StoreError where too many are left out, or none is
        left to train on."""
        self.records.tell_apart(self._names)
        for row, name, first in self.records.leave_out_duplicates():
            shards = (self._names[int(self.records.table["shard"][at])] for at in (first, row))
            self._rejected.add(name, "duplicate name: {} has it, then {}".format(*shards))
        self._check_rejects()
        self.records.divide(self._options.holdout, self._options.seed, self._options.group)

    def _check_rejects(self) -> None:
        left = sum(int((part["split"] != OUT).sum()) for _, part in self.records.stretches())
        total = left + self._rejected.count
        if self._rejected.count > self._options.max_rejects * total:
            first = self._rejected.first[0]
            raise StoreError(
                f"{self._rejected.count:,} of {total:,} samples cannot be used "
                f"({', '.join(counted_kinds(self._rejected))}; the first is {first['key']}: "
                f"{first['reason']}), more than --max-rejects {self._options.max_rejects:g} "
                "allows; mend them, declare what they are, or allow more"
            )

    # ------------------------------------------------------------------ index and manifest

    def finish(self, folder: Path) -> None:
        """The index is written to the folder, then the manifest; or neither is."""
        document = self._document()
        index = folder / document["index"]["name"]
        try:
            rename_synced(self._index_path, index)
            write_whole(folder / manifests.MANIFEST_NAME, manifests.canonical(document))
        except BaseException:
            index.unlink(missing_ok=True)
            raise

    def _document(self) -> dict[str, Any]:
        """The manifest, with its digest; the index is written in the temporary folder."""
        facts = self._facts()
        layout = record_layout(facts["key_bytes"], len(self._fields))
        samples = sum(facts["samples"].values())
        read = self.records.bytes_read((tar.first, tar.stop) for tar in self._tars)
        wanted = min(
            _BLOCK_BYTES * samples / read,
            max(_LEAST_SAMPLES, samples / _WANTED_BLOCKS),
            _MOST_SAMPLES,
            MAX_BLOCK // (facts["most_bytes"] + GAP * len(self._fields)),
        )
        block = 1 << max(0, int(wanted).bit_length() - 1)
        splits, entry = self._write_records(layout, block, facts)
        height, width = facts["largest"]
        document = {
            "format": manifests.FORMAT,
            "version": manifests.VERSION,
            "encoding": "image",
            "compression": "none",
            "height": height,
            "width": width,
            "samples_per_block": block,
            "fields": [{"name": each.field.name, **each.field.as_dict()} for each in self._fields],
            "splits": splits,
            "statistics": statistics_of(
                self.records, self._fields, self._urls, self._options.seed, self._remote
            ),
            "rejects": self._rejected.as_dict(),
            "settings": {**vars(self._options)},
            "source": {
                "kind": "webdataset",
                "endings": {each.field.name: list(each.endings) for each in self._fields},
            },
            "index": {
                **entry,
                "key_bytes": facts["key_bytes"],
                "sizes": {"smallest": facts["smallest"], "largest": facts["largest"]},
            },
        }
        return {**document, "digest": manifests.digest_of(document)}

    def _facts(self) -> dict[str, Any]:
        """What is true of all samples that are in: sizes, the longest key, counts by split."""
        smallest, largest, key_bytes, most = [1 << 30] * 2, [0, 0], 1, 1
        samples: dict[str, int] = {}
        num_bytes: dict[str, int] = {}
        for _, part in self.records.stretches():
            part = part[part["split"] != OUT]
            if not len(part):
                continue
            for side, name in enumerate(("height", "width")):
                smallest[side] = min(smallest[side], int(part[name].min()))
                largest[side] = max(largest[side], int(part[name].max()))
            key_bytes = max(key_bytes, *map(len, self._keys(part)))
            most = max(most, int(part["sizes"].sum(1, dtype=np.int64).max()))
            for code in np.unique(part["split"]).tolist():
                those = part["split"] == code
                name = SPLITS[code]
                samples[name] = samples.get(name, 0) + int(those.sum())
                num_bytes[name] = num_bytes.get(name, 0) + int(
                    part["sizes"][those].sum(dtype=np.int64)
                )
        return {
            "smallest": smallest,
            "largest": largest,
            "key_bytes": key_bytes,
            "most_bytes": most,
            "samples": {name: samples[name] for name in SPLITS if name in samples},
            "bytes": num_bytes,
        }

    def _keys(self, records: np.ndarray) -> list[bytes]:
        return [self._naming.key_of(name).encode() for name in self.records.names(records)]

    def _write_records(
        self, layout: np.dtype, block: int, facts: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Writes the index, split by split and tar by tar; returns the manifest entries of both."""
        digest, row, largest = hashlib.sha256(INDEX_MAGIC), 0, 1
        splits: dict[str, Any] = {}
        places: dict[str, Any] = {}
        with self._index_path.open("wb") as file:
            file.write(INDEX_MAGIC)
            for name, samples in facts["samples"].items():
                places[name] = {"first_row": row, "bytes": facts["bytes"][name]}
                shards = []
                for tar, shard in zip(self._tars, self._names, strict=True):
                    count = 0
                    for records in self._records_of(tar, SPLITS.index(name), layout, block):
                        data = records.tobytes()
                        file.write(data)
                        digest.update(data)
                        count += len(records)
                        sums = records["sizes"].sum(1, dtype=np.int64)
                        per_block = np.add.reduceat(sums, np.arange(0, len(sums), block))
                        largest = max(largest, int(per_block.max()))
                    if count:
                        of_tar = {"bytes": tar.num_bytes, "sha256": tar.sha256}
                        shards.append({"name": shard, "samples": count, **of_tar})
                    row += count
                splits[name] = {"samples": samples, "shards": shards}
            file.flush()
            os.fsync(file.fileno())
        sha256 = digest.hexdigest()
        return splits, {
            "name": f"{sha256}{SUFFIX}",
            "bytes": len(INDEX_MAGIC) + row * layout.itemsize,
            "sha256": sha256,
            "block_bytes": largest,
            "splits": places,
        }

    def _records_of(
        self, tar: ScannedTar, code: int, layout: np.dtype, block: int
    ) -> Iterator[np.ndarray]:
        """The records of a tar's samples in one split, as the index has them: whole blocks, and the
        rest."""
        held = np.empty(0, layout)
        step = max(block, CHUNK // block * block)
        for start in range(tar.first, tar.stop, CHUNK):
            part = self.records.table[start : min(start + CHUNK, tar.stop)]
            part = part[part["split"] == code]
            records = np.empty(len(part), layout)
            for name in ("starts", "sizes"):
                records[name] = part[name]
            keys = self._keys(part)
            records["key"] = keys
            records["xxh64"] = [
                sample_checksum(members, key, starts, sizes)
                for members, key, starts, sizes in zip(
                    part["members"].tolist(), keys, part["starts"], part["sizes"], strict=True
                )
            ]
            held = np.concatenate([held, records])
            while len(held) >= step:
                yield held[:step]
                held = held[step:]
        if len(held):
            yield held
