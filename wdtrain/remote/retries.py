"""Trying again: what is worth it, how often, and how long to wait between the tries.

Owns the waiting; hands on the answer, or one error that says what was tried. The surprise: the
waits differ from request to request, so that many do not come back at the same moment, but they
follow from the request alone: no random state is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import xxhash

LONGEST_PAUSE_SECONDS: Final = 15.0
"""A longer wait mends nothing: an outage of minutes is reported to the user."""

LONGEST_ASKED_SECONDS: Final = 60.0
"""How far a server's own Retry-After is followed."""

_Answer = TypeVar("_Answer")


class Passing(Exception):
    """Trouble that another try may not meet: what it was, and the seconds the server asks for."""

    def __init__(self, why: str, *, pause_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.pause_seconds = pause_seconds


class Closed(OSError):
    """A read that ended because its file was closed while it waited."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was closed while it was being read")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a request is made, and the seconds before the second try; they double from there.

    With the defaults, a request outlasts an outage of about half a minute.
    """

    tries: int = 8
    pause_seconds: float = 0.25

    def pause(self, what: str, number: int) -> float:
        """Seconds to wait after try `number`, counted from 0: within half and the whole of it."""
        whole: float = min(LONGEST_PAUSE_SECONDS, self.pause_seconds * 2.0**number)
        share = xxhash.xxh64_intdigest(f"{what}, try {number}".encode()) / 2**64
        return whole * (1 + share) / 2

    def until_answered(
        self, what: str, ask: Callable[[], _Answer], *, closed: threading.Event
    ) -> _Answer:
        """What `ask` returns, asked again after each Passing.

        `what` names the request: "https://host/f, bytes 0 to 99". OSError after the last try, or
        Closed as soon as `closed` is set; any other error of `ask` at once.
        """
        last = Passing("it was not tried")
        for number in range(self.tries):
            try:
                return ask()
            except Passing as trouble:
                last = trouble
            if number + 1 < self.tries:
                asked = min(last.pause_seconds, LONGEST_ASKED_SECONDS)
                if closed.wait(max(asked, self.pause(what, number))):
                    raise Closed(what)
        raise OSError(
            f"{what}, cannot be read: {self.tries} tries failed, the last because {last}; "
            "check the network and the server, and start again"
        ) from last
