"""A look into compressed tars: the first samples of the first one, as a plain tar that is gone
afterwards. The tars themselves are for a person to unpack (`remote/unpacking.py`)."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from wdtrain.disk.failures import StoreError
from wdtrain.remote.access import open_file, pieces_of
from wdtrain.remote.tar_stream import CompressedTar, TarStream, split_name
from wdtrain.remote.unpacking import unpacked
from wdtrain.remote.urls import redacted
from wdtrain.sources.tar_source import named_tars

_MOST_SAMPLES: Final = 48
_MOST_BYTES: Final = 1 << 26
_BEGINNING: Final = 512
"""Bytes that tell a compressed tar."""


def compression_of(text: str) -> str | None:
    """How the first tar that a text names is compressed; None of a plain one."""
    url = named_tars(text)[0]
    file = open_file(url)
    try:
        next(iter(TarStream([file.read(0, _BEGINNING)], redacted(url))), None)
    except CompressedTar as error:
        return error.how
    except StoreError:  # is told by whoever reads it whole
        pass
    finally:
        file.close()
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
            for members in islice(_whole_samples(stream), _MOST_SAMPLES):
                for name, data in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        yield str(path)


def _whole_samples(stream: TarStream) -> Iterator[list[tuple[str, bytes]]]:
    """The names and bytes of one sample's members after the other's, until the look is over: half a
    sample would be one that lacks its picture. No more is read than that and one sample."""
    key, members = None, list[tuple[str, bytes]]()
    seen = kept = 0
    for member in stream:
        split = split_name(member.name)
        is_next = split is None or split[0] != key
        if is_next and seen > _MOST_BYTES:
            break
        seen += member.size
        if split is None:
            continue
        if is_next and members:
            yield members
        if is_next:
            key, members = split[0], []
        if member.size > _MOST_BYTES:  # a film, say, beside the pictures that are looked at
            continue
        kept += member.size
        if kept > _MOST_BYTES:
            return
        members.append((member.name, b"".join(stream.payload())))
    if members:
        yield members
