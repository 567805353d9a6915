"""How the ranks of a job find one another, also when a launcher has started them again.

Owns the start of the process group, which accelerate then finds initialised.
The surprise: a launcher may hand restarted ranks the store of those that ended, whose addresses and
verdicts still stand in it (`--max_restarts` with the static rendezvous, accelerate's default; after
a resize not even the count of restarts is the same on all machines). So the ranks first agree on a
part of the store that nobody has used before.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from wdtrain.ranks.liveness import Store

_POLL_SECONDS = 0.05
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several() -> bool:
    """Whether a launcher has started this process beside others, as torchrun and accelerate do."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and all(map(os.environ.get, _NEEDED))


def is_on_cpu() -> bool:
    """Whether there is no GPU, or it is not to be used."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return asked or not torch.cuda.is_available()


def join_ranks(patience_seconds: float) -> None:
    """The default process group is there, if a launcher asked for several processes.

    Over NCCL, or over gloo on CPU and where processes share a GPU, which NCCL refuses. ValueError,
    naming them, if ranks have not come after `patience_seconds`.
    """
    if dist.is_initialized() or not is_one_of_several():
        return
    num_devices = 0 if is_on_cpu() else torch.cuda.device_count()
    patience = timedelta(seconds=patience_seconds)
    try:
        store, rank, world = next(rendezvous("env://", timeout=patience))
        unused = meet(store, rank, world, patience_seconds)
        dist.init_process_group(
            backend_for(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), num_devices),
            store=dist.distributed_c10d.PrefixStore(unused, store),
            rank=rank,
            world_size=world,
            timeout=patience,
        )
    except RuntimeError as error:
        raise ValueError(
            f"the ranks did not find one another ({str(error).splitlines()[0]}): a job begins when "
            "all of its processes are there; look at what the others wrote, and at the address and "
            "port that the launcher was given"
        ) from error


def meet(
    store: Store,
    rank: int,
    world: int,
    patience_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """A name for this job's part of the store: the same on all ranks, and never given before.

    Each rank puts a number that nobody had before into its slot, and signs what it sees in all
    slots. Whoever signs what holds my number has come after me; once all have signed the same, all
    are of one start. ValueError names the ranks that have not, after `patience_seconds`.
    """
    slots = [f"wdtrain/slot/{r}" for r in range(world)]
    signatures = [f"wdtrain/signed/{r}" for r in range(world)]
    store.set(slots[rank], uuid.uuid4().hex)
    deadline = clock() + patience_seconds
    while True:
        seen = hashlib.sha256(b"".join(_value(store, slot) for slot in slots)).hexdigest()
        store.set(signatures[rank], seen)
        missing = [r for r in range(world) if _value(store, signatures[r]) != seen.encode()]
        if not missing:
            return f"wdtrain/{seen}"
        if clock() >= deadline:
            raise ValueError(
                f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} of {world} did not "
                f"come within {patience_seconds:g} s: a job begins when all of its processes are "
                "there; look at what was written there, or raise run.timeout_seconds"
            )
        sleep(_POLL_SECONDS)


def backend_for(ranks_here: int, num_devices: int) -> str:
    """What gradients are summed over, with so many ranks and GPUs on this machine."""
    return "nccl" if ranks_here <= num_devices else "gloo"


def _value(store: Store, key: str) -> bytes:
    return store.get(key) if store.check([key]) else b""
