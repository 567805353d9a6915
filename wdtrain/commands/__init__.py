"""What each tool does, one module a tool. Commands may import every room; nothing imports them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from wdtrain.store.urls import without_secrets


def run_command(main: Callable[[], int | None]) -> int:
    """The exit code of a command: 2 and one `error:` line for bad input, 130 after Ctrl-C.

    A person at the command line never sees a traceback for what they typed or for what lies on
    disk; a traceback means a defect of ours.
    """
    try:
        return main() or 0
    except (ValueError, OSError) as error:
        print(f"error: {without_secrets(describe(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def describe(error: Exception) -> str:
    """One line; for what the system refused, with the path and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return " ".join(str(error).splitlines())
    path = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{path}no space is left on the device; free some, and run the same command again"
    return f"{path}{error.strerror}; name another path, or mend its permissions"
