"""Text to a terminal, pipe or file that may be closed, full or read by nobody: a run goes on.

What can block (a pipe, a terminal, a socket) is written by a thread of its own, from a bounded
queue; what can not (a file, memory) is written at once. Whatever a write fails by (EPIPE, EIO of a
closed terminal, a full disk) makes the outlet silent, and nothing else.
The surprise: while nobody reads, what comes is dropped once the queue is full. A console is looked
at now or never; what has to last is in the run's folder.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import stat
import sys
import threading
from collections import deque
from typing import TextIO

QUEUE_BYTES = 1 << 20
_PATIENCE_SECONDS = 1.0
"""How long `drain` waits while nothing is read."""


class Outlet(io.TextIOBase):
    """Looks like `stream` to those that write; never blocks and never raises.

    stream: None (a process started without one) is silent from the start.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._blocking = _descriptor_that_blocks(stream)
        self._is_silent = stream is None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """All of `text` is taken, or dropped; returns its length as if it were written."""
        if not self._is_silent and text:
            if self._blocking is None:
                self._write_now(text)
            else:
                self._put(text.encode(self.encoding, "replace"))
        return len(text)

    def flush(self) -> None:
        """What was written at once is handed on; the queue is only waited for by `drain`."""
        if self._blocking is None and not self._is_silent and self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._is_silent = True

    def drain(self) -> None:
        """What was written is out, or nobody has read any of it for a second."""
        self.flush()
        with self._news:
            left = -1
            while self._queued_bytes and self._queued_bytes != left and not self._is_silent:
                left = self._queued_bytes
                self._news.wait(_PATIENCE_SECONDS)

    def _write_now(self, text: str) -> None:
        assert self._stream is not None
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._write_now(text.encode(self.encoding, "replace").decode(self.encoding))
        except (OSError, ValueError):
            self._is_silent = True

    def _put(self, data: bytes) -> None:
        with self._news:
            if self._queued_bytes + len(data) > QUEUE_BYTES:
                return
            self._queue.append(data)
            self._queued_bytes += len(data)
            self._news.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._relay, name="outlet", daemon=True)
                self._thread.start()

    def _relay(self) -> None:
        """The queue goes out, for as long as the process lives; it may wait here for ever."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()  # what was printed before the outlet was there
        while not self._is_silent:
            with self._news:
                while not self._queue:
                    self._news.wait()
                data = self._queue[0]
            is_out = _write_all(self._blocking, data)
            with self._news:
                self._is_silent = not is_out
                self._queue.popleft()
                self._queued_bytes -= len(data)
                self._news.notify_all()


def outlet(stream: TextIO | Outlet | None) -> Outlet:
    """`stream` as an outlet; one that is an outlet already, as it is."""
    return stream if isinstance(stream, Outlet) else Outlet(stream)


def speak_without_waiting() -> None:
    """From here on nothing that this process prints, its errors and warnings included, can end or
    stall it. At its end what was printed is waited for, while it is read."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Outlet):
            made = Outlet(getattr(sys, name))
            setattr(sys, name, made)
            atexit.register(made.drain)


def _descriptor_that_blocks(stream: TextIO | None) -> int | None:
    """The descriptor of a stream that may make a writer wait; None of a file, or of memory."""
    if stream is None or isinstance(stream, Outlet):
        return None
    try:
        descriptor = stream.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return None
    return None if is_file else descriptor


def _write_all(descriptor: int | None, data: bytes) -> bool:
    """Whether all of `data` could be written; waits for as long as that takes."""
    assert descriptor is not None
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # whoever shares a terminal or pipe may have set O_NONBLOCK
            select.select([], [descriptor], [], 1.0)
        except OSError:
            return False
    return True
