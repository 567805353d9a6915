"""How a process ends whose process groups broke while something was pending in them.

The surprise: a group's own end waits. Gloo's destructor waits for what is pending until the group's
time limit, ten minutes by default, and NCCL's for kernels that will never be done, which hold up
every other call to the device too. So broken groups are aborted, and never destroyed: they are held
until the process ends, which it then does without asking them.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import threading
from typing import Any

import torch.distributed as dist

EXIT_CODE = 2
"""Of a process that has to be left with something pending: that of any error."""
_ABORT_SECONDS = 10.0
_LAST_SECONDS = 60.0

_held: list[Any] = []
"""Works, groups and their stores: what has a reference here runs no destructor."""
_aborting: list[threading.Thread] = []


def give_up_groups(work: Any) -> None:
    """All process groups are aborted, `work` (None: nothing) being pending in one of them.

    Returns after ten seconds at most. The process ends in time whatever they do: by itself, and if
    it hangs in an end of theirs that somebody else begins, by force a minute later.
    """
    if _aborting or not dist.is_initialized():
        return
    _held.append(work)
    _held.append(dict(dist.distributed_c10d._world.pg_map))
    thread = threading.Thread(target=_abort, name="abort", daemon=True)
    _aborting.append(thread)
    thread.start()
    thread.join(_ABORT_SECONDS)
    if thread.is_alive():
        faulthandler.dump_traceback_later(_LAST_SECONDS, exit=True)


def _abort() -> None:
    try:
        # Also what accelerate goes by at its end: groups that are not there are not destroyed.
        dist.distributed_c10d._abort_process_group()
    except (RuntimeError, ValueError, AssertionError) as error:
        print(f"the process groups could not be aborted: {error}", file=sys.stderr)


def _leave() -> None:
    """Registered early, so that whatever else is done at exit is done before."""
    pending = [work for work in _held[:1] if work is not None and not work.is_completed()]
    if pending or any(thread.is_alive() for thread in _aborting):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)


atexit.register(_leave)
