"""What a launcher may not decide is refused by name."""

from __future__ import annotations

import os

import pytest
import torch

from wdtrain.learn.launch import check_launcher, memory_share

FOREIGN = [
    ("ACCELERATE_USE_FSDP", "true", "FSDP"),
    ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
    ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM"),
    ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision fp16"),
    ("ACCELERATE_DYNAMO_BACKEND", "inductor", "dynamo_backend inductor"),
]


@pytest.mark.parametrize(("variable", "value", "name"), FOREIGN)
def test_what_conflicts_with_the_recipe_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str
) -> None:
    check_launcher("bf16")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=name):
        check_launcher("bf16")


def test_the_same_precision_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_launcher("bf16")


def test_memory_is_a_share_or_bytes() -> None:
    assert memory_share(0.5, 100) == 0.5
    assert memory_share(1.0, 100) == 1.0
    assert memory_share(8 * 2**30, 16 * 2**30) == 0.5
    assert memory_share(1, 2**30) == 2**-30
    assert memory_share(800 * 2**30, 2**30) == 1.0


def test_the_threads_of_the_tests_are_limited() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert torch.get_num_threads() == 1
