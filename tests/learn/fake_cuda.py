"""CUDA calls without CUDA: they answer, and take a device only as the strictest of PyTorch's do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.cuda._utils import _get_device_index

TOTAL_BYTES, FREE_BYTES, HELD_BYTES = 8 * 2**30, 6 * 2**30, 2**30


class FakeCuda:
    """`calls`: (name, index of the device) of each, in order; share: what the process may use."""

    def __init__(self, patch: pytest.MonkeyPatch, current: int = 1) -> None:
        self.calls: list[tuple[str, int]] = []
        self.shares: dict[int, float] = {}
        stats = {
            "reserved_bytes.all.current": HELD_BYTES,
            "reserved_bytes.all.peak": HELD_BYTES,
            "num_alloc_retries": 0,
        }
        properties = SimpleNamespace(name="a GPU", total_memory=TOTAL_BYTES)
        answers: dict[str, Any] = {
            "get_device_properties": properties,
            "get_device_capability": (9, 0),
            "mem_get_info": (FREE_BYTES, TOTAL_BYTES),
            "memory_reserved": HELD_BYTES,
            "max_memory_reserved": HELD_BYTES,
            "memory_stats": stats,
            "reset_peak_memory_stats": None,
            "synchronize": None,
            "set_device": None,
        }
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "current_device", lambda: current)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, self._answering(name, answer))
        # PyTorch's own code as it is; only what it would ask of the driver is answered here.
        patch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
        fractions = {
            "_cuda_getMemoryFraction": lambda index: self.shares.get(index, 1.0),
            "_cuda_setMemoryFraction": lambda share, index: self.shares.update({index: share}),
        }
        for name, call in fractions.items():
            patch.setattr(torch._C, name, call, raising=False)

    def _answering(self, name: str, answer: Any) -> Any:
        def call(device: Any = None) -> Any:
            self.calls.append((name, _get_device_index(device)))  # raises without an index
            return answer

        return call
