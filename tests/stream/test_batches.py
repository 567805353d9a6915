"""The memory of batches: used again, and never while somebody can still see it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wdtrain.fields import DepthFormat, triple_of
from wdtrain.learn.prefetch import Prefetcher
from wdtrain.learn.rows import rows_of
from wdtrain.store.buffers import KEPT, Lease
from wdtrain.stream import batches
from wdtrain.stream.batches import Batch, HostMemory, tensors
from wdtrain.stream.cursor import Cursor

FIELDS = triple_of(DepthFormat())


def overlay_of(memory: HostMemory) -> torch.Tensor:
    return tensors(memory.take(4), np.ones(4, bool))["overlay"]


def test_the_memory_of_a_dropped_batch_is_used_again() -> None:
    memory = HostMemory(triple_of(DepthFormat(bits=16)), (8, 8))
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
    memory = HostMemory(FIELDS, (8, 8))
    overlay = overlay_of(memory)
    place, view = overlay.data_ptr(), VIEWS[name](overlay)
    del overlay
    gc.collect()
    assert overlay_of(memory).data_ptr() != place
    del view
    gc.collect()
    assert place in [overlay_of(memory).data_ptr(), overlay_of(memory).data_ptr()]


class Queue:
    """A device's stream, and an event on it that has passed when the stream is `done`."""

    device = torch.device("cuda:0")

    def __init__(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The current stream of a GPU that is not here; page-locked memory is ordinary memory."""
    stream = Queue()

    def until_now(lease: Lease, device: torch.device) -> None:
        lease.read_until(stream, stream)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    monkeypatch.setattr(batches, "_pinned", lambda num_bytes: np.empty(num_bytes, np.uint8))
    monkeypatch.setattr(batches, "read_until_now", until_now)
    return stream


def batch_of(memory: HostMemory) -> Batch:
    lent = memory.take(4)
    for array in (*lent.arrays.values(), lent.names):
        array[...] = 7
    fields = tensors(lent, np.ones(4, bool))
    cursor = Cursor("digest", 4, 4)
    return Batch(fields, lent.names, np.arange(4), [4], cursor, lease=lent.lease)


def test_a_pinned_batch_is_read_until_what_was_queued_when_it_was_let_go_is_done(
    stream: Queue,
) -> None:
    memory = HostMemory(FIELDS, (8, 8), pinned=True)
    batch = batch_of(memory)
    place = batch["overlay"].data_ptr()
    del batch
    gc.collect()
    assert overlay_of(memory).data_ptr() != place
    stream.done = True
    assert place in [overlay_of(memory).data_ptr() for _ in range(3)]


class OnDevice:
    """What a tensor on a GPU shows of itself here."""

    device = torch.device("cuda:0")


def test_a_batch_on_a_device_leaves_its_memory_alone_until_it_is_there(
    stream: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = HostMemory(FIELDS, (8, 8))  # nothing is added at release
    batch, asked = batch_of(memory), []

    def to(tensor: torch.Tensor, device: object, *, non_blocking: bool) -> OnDevice:
        asked.append((tensor.shape, device, non_blocking))
        return OnDevice()

    place = batch["overlay"].data_ptr()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        there = batch.to("cuda")
    shapes = [tensor.shape for tensor in batch.fields.values()]
    assert asked == [(shape, "cuda", True) for shape in shapes]
    assert (there.keys, there.chunks) == (batch.keys, batch.chunks)
    del batch, there
    gc.collect()
    held = overlay_of(memory)
    assert held.data_ptr() != place
    stream.done = True
    assert overlay_of(memory).data_ptr() == place


def test_our_own_loop_copies_by_way_of_the_batch(
    stream: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, copied = batch_of(HostMemory(FIELDS, (8, 8))), []

    def copy(self: Batch, part: torch.Tensor, device: torch.device) -> torch.Tensor:
        copied.append((part.data_ptr(), len(part)))
        return part

    monkeypatch.setattr(Batch, "copy", copy)
    rows = rows_of(batch, 2)
    names = ["overlay", "mask"]
    fed = list(Prefetcher(torch.device("cpu")).micro_batches(rows, [(0, 1), (1, 2)], names))
    assert copied == [(part.data_ptr(), 2) for one in fed for part in one.arrived]
    assert len(copied) == 4


def test_the_event_behind_a_copy_is_recorded_on_the_stream_that_is_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: list[object] = []

    class Event(Queue):
        def record(self, stream: object) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"side stream of {device}")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    lease = Lease()
    batches.read_until_now(lease, torch.device("cuda:1"))
    assert recorded == ["side stream of cuda:1"]
    assert not lease.is_over()


def test_a_batch_on_the_cpu_is_itself() -> None:
    batch = batch_of(HostMemory(FIELDS, (8, 8)))
    assert batch.to("cpu")["overlay"].data_ptr() == batch["overlay"].data_ptr()
    assert batch.lease.is_over()


def test_memory_whose_names_are_still_held_is_not_given_again() -> None:
    memory = HostMemory(FIELDS, (8, 8))
    target = memory.take(4)
    place, names = target.arrays["overlay"].ctypes.data, target.names
    del target
    gc.collect()
    assert memory.take(4).arrays["overlay"].ctypes.data != place
    del names
    gc.collect()
    assert place in [
        memory.take(4).arrays["overlay"].ctypes.data,
        memory.take(4).arrays["overlay"].ctypes.data,
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_what_a_batch_is_made_of_does_not_overlap(bits: int) -> None:
    target = HostMemory(triple_of(DepthFormat(bits=bits)), (3, 5)).take(7)
    arrays = [*target.arrays.values(), target.names]
    for value, array in enumerate(arrays):
        array[...] = value
    assert all((array == value).all() for value, array in enumerate(arrays))


def test_what_many_held_batches_took_is_not_hoarded() -> None:
    memory = HostMemory(FIELDS, (8, 8))
    held = [overlay_of(memory) for _ in range(3 * KEPT)]
    del held
    gc.collect()
    assert 0 < len(memory._memory._free) <= KEPT
