"""Networks under torch.compile, in few graphs.

Each size of a training micro-batch is a graph of its own, since its norm groups are written into
it. The surprise: PyTorch stops compiling after eight, and says so to nobody who would know what it
means. So sizes are few (`groups.plan_few_sizes`), planning runs uncompiled, the limit is higher
than any run should come, and where it is met after all, that is reported in words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

MOST_GRAPHS = 64
"""Of one network: the halvings of a micro-batch, a few tails, and evaluation are some twenty."""


def compile_network(network: nn.Module, *, when: bool) -> None:
    """If `when`, the network is compiled when it is called, for up to `MOST_GRAPHS` sizes."""
    if not when:
        return
    import torch._dynamo.config as config  # takes seconds to import

    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    logger = logging.getLogger("torch._dynamo.convert_frame")
    if _in_words not in logger.filters:
        logger.addFilter(_in_words)
    network.compile()


def uncompiled(is_compiled: bool) -> AbstractContextManager[object]:
    """In it, compiled networks run as they are written, and no graph is made."""
    if not is_compiled:
        return nullcontext()
    set_stance: Callable[[str], AbstractContextManager[object]] = torch.compiler.set_stance
    return set_stance("force_eager")


def _in_words(record: logging.LogRecord) -> bool:
    """PyTorch's warning about its limit, reworded for those who have to act on it."""
    given: Any = record.args
    if str(record.msg).startswith("torch._dynamo hit config.") and len(given) > 3:
        record.msg = (
            "a network has been compiled %s times, the most that is allowed, and runs uncompiled, "
            "slower, for every other size from now on (the last reason: %s): let all micro-batches "
            "be of one size, a step.micro_batch that divides each rank's part of train.batch_size, "
            "or raise torch._dynamo.config.%s"
        )
        record.args = (given[1], str(given[3]).strip(), given[0])
    return True
