"""What a launcher may not decide is refused by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from wdtrain.ranks.launch import StopRequest, check_launcher, memory_share

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
    with pytest.raises(ValueError, match="mixed_precision bf16, the recipe says precision fp32"):
        check_launcher("fp32")


def test_memory_is_a_share_or_bytes() -> None:
    assert memory_share(0.5, 100) == 0.5
    assert memory_share(1.0, 100) == 1.0
    assert memory_share(8 * 2**30, 16 * 2**30) == 0.5
    assert memory_share(1, 2**30) == 2**-30
    assert memory_share(800 * 2**30, 2**30) == 1.0


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def hang_up_ends_nothing() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_ends_nothing")
def test_signals_are_taken_while_a_run_goes_and_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = StopRequest()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with stop:
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked()
        assert (stop.reason, stop.exit_code) == ("SIGHUP", 129)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_hang_up_that_is_ignored_at_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.exit_code == 143
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_threads_of_the_tests_are_limited() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert torch.get_num_threads() == 1
