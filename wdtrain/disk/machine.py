"""Which machine this is, how many cores it has for us, and whether a process of it still runs.

A process number means something on one machine only, and in a container only within it. So a
machine is its name, its boot and its space of process numbers: a temporary file that bears another
machine's mark is never judged here.
"""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESS_NUMBERS = Path("/proc/self/ns/pid")


@cache
def this_machine() -> str:
    """12 hex digits; the same for all processes that see each other's numbers."""
    boot = _BOOT.read_text() if _BOOT.exists() else ""
    numbers = os.readlink(_PROCESS_NUMBERS) if os.path.lexists(_PROCESS_NUMBERS) else ""
    names = "\n".join((socket.gethostname(), boot, numbers))
    return hashlib.blake2b(names.encode(), digest_size=6).hexdigest()


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """This process's share of them, where a launcher has started several here; at least 1."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def is_running(pid: int) -> bool:
    """Whether this machine has a process of this number, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
