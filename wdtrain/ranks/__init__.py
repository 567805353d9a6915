"""The processes of a job: how they start, find one another, agree, notice a loss, and stop.

Read `launch.py` (what accelerate gives), `join.py` (how ranks meet), `collective.py` (what they
exchange), `liveness.py` (who still runs), `stopping.py` (all stop at one place), `ending.py`.
"""

from wdtrain.ranks.collective import Alone, Collective, open_collective
from wdtrain.ranks.launch import StopRequest, register_tasks, set_up, start_accelerator
from wdtrain.ranks.stopping import RunStopped, StopOnAllRanks, check_stop, no_sudden_collection

__all__ = [
    "Alone",
    "Collective",
    "RunStopped",
    "StopOnAllRanks",
    "StopRequest",
    "check_stop",
    "no_sudden_collection",
    "open_collective",
    "register_tasks",
    "set_up",
    "start_accelerator",
]
