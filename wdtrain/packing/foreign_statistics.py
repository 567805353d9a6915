"""Mean and deviation of the pictures in somebody else's tars.

The surprise: they are of a keyed draw of the pictures of train, since to decode all of them would
cost more than all else that an index takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError, ImageField
from wdtrain.fields.errors import decoding
from wdtrain.fields.source import SPLITS
from wdtrain.packing.foreign_records import ForeignRecords
from wdtrain.packing.foreign_scan import ForeignField, shown_name
from wdtrain.packing.prepare import PixelSums
from wdtrain.remote.access import open_file
from wdtrain.remote.remote_files import Remote
from wdtrain.store import manifest as manifests
from wdtrain.store.foreign import foreign_pixels
from wdtrain.store.permutation import permutation_key

_PICTURES: Final = 2048
"""Of train, whose pixels are summed: all of a small dataset, a keyed draw of a large one."""
_TRAIN: Final = SPLITS.index("train")


def statistics_of(
    records: ForeignRecords,
    fields: Sequence[ForeignField],
    urls: Sequence[str],
    seed: int,
    remote: Remote | None,
) -> dict[str, Any]:
    """Of each image, as a manifest has them, the sums of the pixels of a draw of train. What cannot
    be decoded is left out here: it is found as damage when it is read. StoreError where nothing of
    an image can."""
    rows = records.drawn(_TRAIN, _PICTURES, permutation_key("statistics", seed))
    found = {}
    for column, each in enumerate(fields):
        if not isinstance(each.field, ImageField):
            continue
        sums = PixelSums()
        for data, file in _members(records, rows, column, urls, remote):
            with suppress(FieldError), decoding(file):
                pixels = foreign_pixels(each.field, each.field.load(data, file=file))
                sums.add(np.ascontiguousarray(pixels))
        if not sums.pixels:
            raise StoreError(f"no picture of {each.field.name} can be decoded; mend the tars")
        entry = sums.as_dict()
        mean, std = manifests.mean_and_std(entry)
        found[each.field.name] = {**entry, "mean": list(mean), "std": list(std)}
    return found


def _members(
    records: ForeignRecords,
    rows: np.ndarray,
    column: int,
    urls: Sequence[str],
    remote: Remote | None,
) -> Iterator[tuple[bytes, str]]:
    """The bytes of a field of these rows, and what they are called."""
    file, number = None, -1
    try:
        for row in rows.tolist():
            record = records.table[row]
            if int(record["shard"]) != number:
                if file is not None:
                    file.close()
                number = int(record["shard"])
                file = open_file(urls[number], remote=remote)
            assert file is not None, "it was opened"
            start, size = int(record["starts"][column]), int(record["sizes"][column])
            yield bytes(file.read(start, size)), shown_name(records.name(row))
    finally:
        if file is not None:
            file.close()
