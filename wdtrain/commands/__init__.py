"""What each tool does, one module a tool. Commands may import every room; nothing imports them."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run_command(main: Callable[[], int | None]) -> int:
    """The exit code of a command: 2 and one `error:` line for bad input, 130 after Ctrl-C.

    A person at the command line never sees a traceback for what they typed or for what lies on
    disk; a traceback means a defect of ours.
    """
    try:
        return main() or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
