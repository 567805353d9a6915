"""A look into compressed tars: the first samples of the first one, as a plain tar that is gone
afterwards. The tars themselves are for a person to unpack (`remote/unpacking.py`)."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wdtrain.remote.access import pieces_of
from wdtrain.remote.extents import MAX_MEMBER
from wdtrain.remote.tar_stream import CompressedTar, TarStream, split_name
from wdtrain.remote.unpacking import unpacked
from wdtrain.remote.urls import redacted
from wdtrain.sources.tar_source import named_tars

_MOST_SAMPLES: Final = 48
_MOST_BYTES: Final = 1 << 26


def compression_of(text: str) -> str | None:
    """How the first tar that a text names is compressed; None of a plain one."""
    url = named_tars(text)[0]
    try:
        next(iter(TarStream(pieces_of(url), redacted(url))), None)
    except CompressedTar as error:
        return error.how
    return None


@contextmanager
def first_samples(text: str, how: str) -> Iterator[str]:
    """The path of a plain tar with the first samples of the first tar that a text names. StoreError
    where it cannot be unpacked."""
    url = named_tars(text)[0]
    stream = TarStream(unpacked(pieces_of(url), how, redacted(url)), redacted(url))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.tar"
        with tarfile.open(path, "w") as tar:
            keys, left = set(), _MOST_BYTES
            for member in stream:
                split = split_name(member.name)
                if split is None or member.size > min(left, MAX_MEMBER):
                    continue
                keys.add(split[0])
                if len(keys) > _MOST_SAMPLES:
                    break
                info = tarfile.TarInfo(member.name)
                info.size = member.size
                tar.addfile(info, io.BytesIO(b"".join(stream.payload())))
                left -= member.size
        yield str(path)
