"""Out of memory: what counts as it, and how to try without keeping anything of a failure.

A failure is described by numbers and text, never by the exception itself: its traceback would
hold the frames, and these the activations, so that what is freed next would not come free.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wdtrain.ranks.heap import give_back

_SIGNS = re.compile(
    "|".join(
        (
            r"out of memory",  # CUDA, HIP and MPS, from the allocator and from the driver
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUBLAS_STATUS_NOT_INITIALIZED",  # its handle is made at the first product
            r"CUDNN_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED",
            r"unable to find an engine to execute",  # no algorithm's workspace fits
            r"DefaultCPUAllocator: can't allocate memory",
            r"std::bad_alloc",
            r"could not create a (primitive|memory object)",  # oneDNN's words for it
        )
    ),
    re.IGNORECASE,
)
_NOT = re.compile(r"NCCL|illegal memory access|device-side assert|misaligned address")
"""A collective that runs out, and a broken device: a smaller micro-batch cures neither."""


@dataclass(frozen=True)
class OutOfMemory:
    """Memory that was asked for and not there, in the allocator's words."""

    message: str


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a smaller micro-batch can cure it; also of what a compiler wrapped."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        message = str(error) if isinstance(error, RuntimeError) else ""
        if _SIGNS.search(message) and not _NOT.search(message):
            return True
        error = error.__cause__
    return False


def try_to(work: Callable[[], None]) -> OutOfMemory | None:
    """Do the work; what was lacking if memory ran out, with nothing of the failed work kept.

    Everything else that goes wrong is raised as it is.
    """
    out_of_memory = None
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        out_of_memory = _described(error)
    # Only here has the exception let go of its frames, and they of their tensors.
    return out_of_memory


def release(device: torch.device) -> None:
    """What nothing refers to any more goes back to the device; on a CPU, to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back()


def _described(error: BaseException) -> OutOfMemory:
    message = " ".join(str(error).split("\n", 1)[0].split())[:300]
    return OutOfMemory(message or type(error).__name__)


class DoesNotFit(ValueError):
    """The smallest micro-batch of a task, one norm group, needs more memory than there is.

    task: its name, "" where nothing but the message is known.
    """

    def __init__(self, message: str, task: str = "") -> None:
        super().__init__(message)
        self.task = task


def record_history(device: torch.device) -> None:
    """From now on the CUDA allocator notes who asks for what; a snapshot of it then says so."""
    if device.type == "cuda":
        torch.cuda.memory._record_memory_history(max_entries=100_000)
