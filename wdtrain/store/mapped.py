"""A local file shown as memory: reading it copies nothing.

For uncompressed shards, whose rows go straight from the page cache into a batch. The mapping is
shared and read-only, so it is no anonymous memory. The surprise: a file that is cut off while it
is mapped kills the process (SIGBUS) when the lost part is touched; its size is checked at opening.
"""

from __future__ import annotations

import mmap
import os


class MappedFile:
    """A file on this machine, mapped: `read` gives views of it."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.num_bytes = os.fstat(descriptor).st_size
            # A mapping of nothing is refused by the system; an empty file is empty bytes.
            self._bytes: mmap.mmap | bytes = (
                mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if self.num_bytes else b""
            )
        finally:
            os.close(descriptor)

    def read(self, offset: int, count: int) -> memoryview:
        """The bytes [offset, offset + count), fewer at the end of the file, as they lie there."""
        return memoryview(self._bytes)[offset : offset + count]

    def forget(self, offset: int, count: int) -> None:
        """Nothing is kept of a local file."""

    def close(self) -> None:
        """The mapping goes when the last view of it does."""
        self._bytes = b""
