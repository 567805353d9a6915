"""What each tool does, one module a tool. Commands may import every room; nothing imports them."""

from __future__ import annotations

import argparse
import errno
import os
import select
import sys
from collections.abc import Callable
from typing import Final, TextIO

from rich.console import Console

from wdtrain.remote.urls import is_url, without_secrets

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
# Before OpenCV is imported: what it warns of is told once more, by name, where the file is used.

UNREAD: Final = 141
"""The exit code of what a shell's own tools end with when nobody reads them: 128 + SIGPIPE."""


class Output(Console):
    """Rich's console; where nobody reads it, that is for `run_command` to say."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def tool_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Of a tool's command line; `examples` end its help, as they are written."""
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_command(main: Callable[[], int | None]) -> int:
    """The exit code of a command: 2 and one `error:` line for bad input, 130 after Ctrl-C, and 141
    without a word where whoever reads the output (head, less) has seen enough.

    A person at the command line never sees a traceback for what they typed or for what lies on
    disk; a traceback means a defect of ours.
    """
    try:
        code = main() or 0
        sys.stdout.flush()  # not at the interpreter's end, where a closed pipe cannot be caught
        return code
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _silence():
            return UNREAD
        print(
            f"error: {without_secrets(describe(error), *filter(is_url, sys.argv))}", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit:  # of --help, whose text may not be read to its end either
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _silence()
        raise


def _silence() -> bool:
    """Whether nobody reads the output any more; what is still written to it then goes nowhere."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe or socket whose reader is gone."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # it is no file of the system
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def describe(error: Exception) -> str:
    """One line; for what the system refused, with the path and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return " ".join(str(error).splitlines())
    path = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{path}no space is left on the device; free some, and run the same command again"
    return f"{path}{error.strerror}; name another path, or mend its permissions"
