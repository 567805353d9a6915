from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COMMON = """
import ctypes
import resource

import psutil
import torch

from wdtrain.ranks.heap import give_back, keep_freed_memory


def touch():
    torch.zeros(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident():
    return psutil.Process().memory_info().rss
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")


def number(code: str) -> int:
    """What a process of its own prints, since its heap is nobody else's."""
    code = COMMON + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_memory_that_a_tensor_gave_back_is_there_for_the_next_one():
    tensor = 16_384  # pages
    # It may take a few, seldom as many as eight, until there is a place where all that follow fit.
    new_pages = "print(-max(touch() for _ in range(16)) + max(touch() for _ in range(8)))"
    assert number(new_pages) > 7 * tensor
    assert number(f"keep_freed_memory(); {new_pages}") < 4 * tensor


@glibc
def test_what_was_free_at_the_end_of_the_heap_is_there_for_the_next_one():
    """As malloc(3) and free(3) leave it: where a tensor lies, the heap may end elsewhere."""
    again = """
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def touch():
    place = ctypes.c_void_p(libc.malloc(64 * 2**20))
    ctypes.memset(place, 1, 64 * 2**20)
    libc.free(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


print(-touch() + max(touch() for _ in range(8)))
"""
    tensor = 16_384  # pages
    assert number(again) > 7 * tensor
    assert number(f"keep_freed_memory()\n{again}") < tensor


@glibc
def test_what_is_free_can_be_given_back():
    kept = "keep_freed_memory(); before = resident(); touch(); "
    assert number(f"{kept}print(resident() - before)") > 60 * 2**20
    assert number(f"{kept}give_back(); print(resident() - before)") < 10 * 2**20
