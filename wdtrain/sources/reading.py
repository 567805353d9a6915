"""Files of a source: announced to the system, and read, or the reason why not in words."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

from wdtrain.disk.sourcefiles import bytes_or_none, content_of, read_regular, signal_of
from wdtrain.fields import FieldError
from wdtrain.sources.names import printable

_CAN_ADVISE: Final = hasattr(os, "posix_fadvise")


def begin_to_read(path: bytes) -> None:
    """The system reads a file into its memory meanwhile. One that cannot be opened is found again,
    and rejected with its reason, at load. Cold files on a local disk: 8.6 s -> 1.4 s for 80,000."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if _CAN_ADVISE:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError:  # a pipe, which is no file: found again at load
        return
    finally:
        os.close(descriptor)


def read_member(path: bytes, *, what: str, file: bytes) -> bytes | None:
    """The bytes of a field's file; None where there is none. FieldError names what the field is
    called and the file, below its folder, for one that is there and cannot be read."""
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise FieldError(
                f"missing {what}: {printable(file)} is a link, and what it links to is gone"
            ) from error
        return None
    except OSError as error:
        raise FieldError(f"unreadable {what}: {printable(file)}: {error.strerror}") from error


class FileSamples(ABC):
    """A source whose samples lie in files of their own: announced, and known by what they hold, as
    `packing` asks of such a source (`contents.FromFiles`)."""

    _loaded = (-1, 0)
    """Index and content of the sample that was loaded last."""

    @abstractmethod
    def _paths(self, index: int) -> Iterable[bytes]:
        """All files of a sample, those that there may be too, in one order."""

    def prefetch(self, index: int) -> None:
        """Begins to read the files of a sample that is loaded soon, without waiting for them."""
        for path in self._paths(index):
            begin_to_read(path)

    def signal(self, index: int) -> int:
        """64 bits of the sizes, times and inodes of a sample's files."""
        return signal_of(self._paths(index))

    def content(self, index: int) -> int:
        """64 bits of the bytes of a sample's files."""
        if self._loaded[0] == index:
            return self._loaded[1]
        return content_of(map(bytes_or_none, self._paths(index)))
