"""A lock is held by one process, or by those that share it, and goes with its descriptor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wdtrain.disk import locks


def test_a_lock_is_held_alone_or_shared(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    alone = locks.take(path)
    for shared in (False, True):
        with pytest.raises(BlockingIOError):
            locks.take(path, shared=shared)
    os.close(alone)
    both = [locks.take(path, shared=True) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        locks.take(path)
    for descriptor in both:
        os.close(descriptor)
    os.close(locks.take(path))


def test_a_lock_whose_name_is_gone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = locks.take(path)
    assert locks.is_under(path, held)
    path.unlink()
    assert not locks.is_under(path, held)
    os.close(locks.take(path))
    assert not locks.is_under(path, held), "another file of this name"
    os.close(held)
