"""Laws of the memory reading."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from wdtrain.record.process_memory import measure_memory


def test_on_a_cpu_it_is_the_resident_memory_of_the_process():
    before = measure_memory("cpu", budget_bytes=7)
    # Of no heap, which may hold as much that others freed.
    block = np.frombuffer(mmap.mmap(-1, 64 << 20), np.uint8)
    block[:] = 1
    after = measure_memory(torch.device("cpu"))
    assert after.used_bytes - before.used_bytes > 0.9 * block.nbytes
    assert (before.budget_bytes, after.budget_bytes, after.what) == (7, None, "RSS")


@pytest.mark.gpu
def test_on_cuda_it_is_what_the_allocator_holds_against_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    block = torch.ones(64 << 20, dtype=torch.uint8, device="cuda")
    memory = measure_memory("cuda:0")
    assert memory.what == "CUDA"
    assert block.numel() <= memory.used_bytes <= memory.budget_bytes
