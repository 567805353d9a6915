"""Numbers of the device, read on the host when they have long arrived.

Asking a tensor for its value waits for all that was queued before it. So a step sends its numbers
off and they are read one step later: logging and counting stall nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class AsyncScalars:
    """A few scalars of one device, on their way to the host since this was made."""

    def __init__(self, scalars: Sequence[Tensor]) -> None:
        numbers = torch.stack([scalar.detach().to(torch.float64) for scalar in scalars])
        # From a GPU this is an asynchronous copy into pinned memory.
        self._host = numbers.to("cpu", non_blocking=True)
        self._arrived = None
        if numbers.device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers; waits for them, and for nothing that was queued after them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(number) for number in self._host]
