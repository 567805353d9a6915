from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource

import torch

from wdtrain.learn.heap import keep_freed_memory

if {keeps}:
    keep_freed_memory()


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
print(faults())
"""


def faults_of_the_second(keeps: bool) -> int:
    """Pages that a tensor of 16,384 of them touches for the first time, after one just like it."""
    code = CODE.format(keeps=keeps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_memory_that_a_tensor_gave_back_is_there_for_the_next_one():
    assert faults_of_the_second(keeps=False) > 10_000
    assert faults_of_the_second(keeps=True) < 100
