"""What the record of a run is given: the protocols of others' objects, so that their rooms need not
be imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Reading(Protocol):
    """The numbers of a step, on the host."""

    @property
    def losses(self) -> dict[str, float]: ...
    @property
    def grad_norms(self) -> dict[str, float]: ...
    @property
    def seconds(self) -> dict[str, float]: ...
    @property
    def skipped(self) -> bool: ...
    @property
    def idle(self) -> Sequence[str]: ...


class StepNumbers(Protocol):
    """What a step did; `read` waits for the device."""

    @property
    def samples(self) -> int: ...
    @property
    def recoveries(self) -> Sequence[object]: ...
    @property
    def learning_rates(self) -> dict[str, float]: ...
    def read(self) -> Reading: ...


class Ranks(Protocol):
    @property
    def rank(self) -> int: ...
    def barrier(self, what: str) -> None: ...
    def gather(self, value: Any, what: str) -> list[Any]: ...


class Waited(Protocol):
    """How long a batch was waited for, and how busy its reader's threads were by stage, 0..1."""

    @property
    def wait_seconds(self) -> float: ...
    @property
    def occupancy(self) -> dict[str, float]: ...
