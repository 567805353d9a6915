"""Locks that go with their process, however it ends: the kernel holds them (flock).

The file of a lock may stay or be removed; who holds it while another removes its name holds
nothing any more, which `is_under` checks.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

_NO_LOCKS_HERE: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take(path: Path, *, shared: bool = False, is_needed: bool = True) -> int:
    """A descriptor of `path`, made if need be, that holds its lock, alone or with others that share
    it, until it is closed. BlockingIOError where another process holds it; OSError where the file
    system has no locks, unless that will do: then nothing is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if is_needed or error.errno not in _NO_LOCKS_HERE:
            os.close(descriptor)
            raise
    return descriptor


def is_under(path: Path, descriptor: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
