"""The tests for a GPU, where there is none, and where pytest-timeout is not installed either."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.gpu.waiting import no_waiting

ROOT = Path(__file__).resolve().parents[2]


def test_they_are_collected_without_pytest_timeout() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:timeout", "-p", "no:cacheprovider"]
    chosen = ["tests/gpu/test_cuda.py", "-k", "waits_for_nothing"]
    if torch.cuda.is_available():
        chosen.append("--collect-only")
    result = subprocess.run(
        [*command, *chosen], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ("skipped" in result.stdout) == (not torch.cuda.is_available())


def test_the_time_limit_holds_where_pytest_timeout_is(pytestconfig: pytest.Config) -> None:
    if pytestconfig.pluginmanager.hasplugin("timeout"):
        assert pytestconfig._env_timeout == 300  # type: ignore[attr-defined]


def test_that_a_debug_mode_is_a_prototype_fails_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        if mode == "error":  # PyTorch's own words
            warnings.warn(
                "Synchronization debug mode is a prototype feature and does not yet detect all "
                "synchronizing operations",
                UserWarning,
                stacklevel=1,
            )

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with no_waiting(), pytest.raises(UserWarning, match="our own"):
        warnings.warn("our own", UserWarning, stacklevel=1)
    assert modes == ["error", "default"]
