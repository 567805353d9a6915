"""The memory of batches: used again, and never while somebody can still see it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wdtrain.store.memory import KEPT
from wdtrain.stream.batches import HostMemory, tensors


def overlay_of(memory: HostMemory) -> torch.Tensor:
    return tensors(memory.take(4), np.ones(4, bool))[0]


def test_the_memory_of_a_dropped_batch_is_used_again() -> None:
    memory = HostMemory(8, 8, np.dtype(np.uint16))
    place = overlay_of(memory).data_ptr()
    gc.collect()
    assert overlay_of(memory).data_ptr() == place


VIEWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "rows": lambda overlay: overlay[1:2],
    "a channel": lambda overlay: overlay.permute(0, 2, 3, 1)[..., 0],
    "numpy": lambda overlay: overlay.numpy()[2:],
    "memory": lambda overlay: memoryview(overlay.numpy()),
    "storage": lambda overlay: overlay.untyped_storage(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_memory_that_any_view_still_shows_is_not_given_again(name: str) -> None:
    memory = HostMemory(8, 8, np.dtype(np.uint8))
    overlay = overlay_of(memory)
    place, view = overlay.data_ptr(), VIEWS[name](overlay)
    del overlay
    gc.collect()
    assert overlay_of(memory).data_ptr() != place
    del view
    gc.collect()
    assert place in [overlay_of(memory).data_ptr(), overlay_of(memory).data_ptr()]


def test_memory_whose_names_are_still_held_is_not_given_again() -> None:
    memory = HostMemory(8, 8, np.dtype(np.uint8))
    target = memory.take(4)
    place, names = target.overlay.ctypes.data, target.names
    del target
    gc.collect()
    assert memory.take(4).overlay.ctypes.data != place
    del names
    gc.collect()
    assert place in [memory.take(4).overlay.ctypes.data, memory.take(4).overlay.ctypes.data]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_a_batch_is_made_of_does_not_overlap(dtype: type) -> None:
    target = HostMemory(3, 5, np.dtype(dtype)).take(7)
    arrays = [target.overlay, target.mask, target.depth, target.names]
    for value, array in enumerate(arrays):
        array[...] = value
    assert all((array == value).all() for value, array in enumerate(arrays))


def test_what_many_held_batches_took_is_not_hoarded() -> None:
    memory = HostMemory(8, 8, np.dtype(np.uint8))
    held = [overlay_of(memory) for _ in range(3 * KEPT)]
    del held
    gc.collect()
    assert 0 < len(memory._memory._free) <= KEPT
