"""Who of a job's ranks still runs, and who says so when one does not.

Each rank's thread writes a beat into the job's store every half second: how many collectives the
rank has entered, its process and host. A collective that breaks knows only that a connection closed
or that time ran out; the roll call reads the beats twice and finds who fell silent, or who is alive
and behind. The surprise: the first verdict written is everyone's, so that all ranks tell one story,
also a rank that only lost its connection to one that had already given up.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

BEAT_SECONDS = 0.5
_ENDING_SECONDS, _LISTEN_SECONDS = 1.5, 2.5
_VERDICT = "wdtrain/verdict"


class Store(Protocol):
    """What is used of a torch.distributed store; it raises RuntimeError when it is gone."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


class RankLost(ValueError):
    """A rank has ended or does not answer, so no collective can be completed any more.

    lost: those ranks; empty if only a connection broke. speaker: the lowest rank that is left, the
    one that reports it for all; speaks: whether that is this one.
    """

    def __init__(self, verdict: LostRanks, rank: int) -> None:
        super().__init__(verdict.text)
        self.lost, self.speaker = verdict.lost, verdict.speaker
        self.speaks = rank == verdict.speaker


@dataclass(frozen=True)
class LostRanks:
    """Which ranks are lost, which one says so, and in which words."""

    lost: tuple[int, ...]
    speaker: int
    text: str

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str | bytes) -> LostRanks:
        values = json.loads(text)
        return cls(tuple(values["lost"]), values["speaker"], values["text"])


@dataclass(frozen=True)
class Beat:
    """One sign of life: its number, the collectives entered so far, and "process 1 on HOST"."""

    number: int
    calls: int
    where: str


@dataclass(frozen=True)
class FailedWait:
    """What this rank waited for in vain, how long, whether until the limit; the error of gloo."""

    what: str
    seconds: float
    timed_out: bool
    error: str


@dataclass
class _Signs:
    """What a rank and its thread tell one another; neither holds the other alive."""

    where: str
    calls: int = 0
    verdict: LostRanks | None = None


class LivenessWatch:
    """The beats of this rank, and the roll call over all of them.

    Its thread ends with the object, at the latest when the interpreter does.
    """

    def __init__(
        self, store: Store, rank: int, world: int, *, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._signs = _Signs(f"process {os.getpid()} on {socket.gethostname()}")
        self._ended = threading.Event()
        given = (store, rank, self._signs, self._ended, beat_seconds)
        thread = threading.Thread(target=_beat, args=given, name="beat", daemon=True)
        thread.start()
        # Joined before the interpreter ends: a thread that comes back from C++ later aborts it.
        weakref.finalize(self, _end, self._ended, thread)

    def enter(self) -> None:
        """One more collective is entered; those who are behind are found by this count."""
        self._signs.calls += 1

    def check(self) -> None:
        """Raises RankLost if some rank has found that one is lost. No wait, no message sent."""
        if self._signs.verdict is not None:
            raise RankLost(self._signs.verdict, self._rank)

    def roll_call(self, waited: FailedWait) -> RankLost:
        """Who is missing, as the first rank that asked found it. Takes some four seconds."""
        try:
            verdict = self._signs.verdict or self._ask(waited)
        except RuntimeError as error:
            verdict = without_store(self._rank, waited, str(error))
        return RankLost(verdict, self._rank)

    def _ask(self, waited: FailedWait) -> LostRanks:
        time.sleep(_ENDING_SECONDS)  # a rank that closed its connections may still be ending
        before = self._beats()
        time.sleep(_LISTEN_SECONDS)
        found = judge(before, self._beats(), waited)
        agreed = LostRanks.loads(self._store.compare_set(_VERDICT, "", found.dumps()))
        # The store may be this process's own: the others' threads read the verdict first.
        time.sleep(2 * BEAT_SECONDS)
        return agreed

    def _beats(self) -> list[Beat | None]:
        """The newest beat of each rank; None of one that has never beaten."""
        keys = [_key(rank) for rank in range(self._world)]
        return [_read(self._store.get(key)) if self._store.check([key]) else None for key in keys]


def judge(
    before: Sequence[Beat | None], after: Sequence[Beat | None], waited: FailedWait
) -> LostRanks:
    """Who is lost, by two readings of all ranks' beats, some seconds apart.

    A rank is silent if its beat did not move. If the time ran out, so are those that beat, but have
    entered fewer collectives than others: alive, and stuck or slow. If a connection closed instead,
    those may just be computing.
    """
    ranks = range(len(after))
    silent = {rank for rank in ranks if after[rank] is None or after[rank] == before[rank]}
    calls = [beat.calls if beat else 0 for beat in after]
    behind = {rank for rank in ranks if calls[rank] < max(calls)} if waited.timed_out else set()
    lost = tuple(sorted(silent | behind))
    if not lost:
        return LostRanks((), 0, _broken(waited))
    left = [rank for rank in ranks if rank not in lost]
    names = [_name(rank, after[rank]) for rank in lost]
    return LostRanks(lost, left[0] if left else 0, _missing(names, waited))


def without_store(rank: int, waited: FailedWait, error: str) -> LostRanks:
    """The verdict when the job's store is gone: the process that keeps it has ended."""
    text = (
        f"rank 0, or the launcher on its machine, has ended (waited {waited.seconds:.0f} s for "
        f"{waited.what}; the job's store cannot be reached: {_line(error)}): without it the ranks "
        f"cannot find one another; {_AGAIN}"
    )
    return LostRanks((0,) if rank else (), min(rank, 1), text)


_AGAIN = "start the same command again, and the run goes on from its newest checkpoint"


def _missing(names: list[str], waited: FailedWait) -> str:
    who = f"rank{'s' * (len(names) > 1)} {', '.join(names)}"
    have = "have" if len(names) > 1 else "has"
    why = "a collective needs every rank"
    if waited.timed_out:
        return (
            f"{who} {have} not answered for {waited.seconds:.0f} s, while {waited.what} was waited "
            f"for: {why}; if a rank was only slow, raise run.timeout_seconds; {_AGAIN}"
        )
    return (
        f"{who} {have} ended, while {waited.what} was waited for: {why}; look at what was written "
        f"last there (killed for memory?); {_AGAIN}"
    )


def _broken(waited: FailedWait) -> str:
    return (
        f"{waited.what} broke after {waited.seconds:.0f} s although every rank still runs "
        f"({_line(waited.error)}): what the ranks hold may no longer agree; look at the network "
        f"between them; {_AGAIN}"
    )


def _name(rank: int, beat: Beat | None) -> str:
    return f"{rank} ({beat.where})" if beat else f"{rank} (never heard of)"


def _line(error: str) -> str:
    return error.strip().splitlines()[0] if error.strip() else "no reason given"


def _key(rank: int) -> str:
    return f"wdtrain/beat/{rank}"


def _read(value: bytes) -> Beat:
    return Beat(**json.loads(value))


def _beat(
    store: Store, rank: int, signs: _Signs, ended: threading.Event, beat_seconds: float
) -> None:
    """Beats until `ended`, or until the store is gone."""
    number = 0
    while True:
        number += 1
        try:
            beat = Beat(number, signs.calls, signs.where)
            store.set(_key(rank), json.dumps(asdict(beat)))
            if signs.verdict is None and store.check([_VERDICT]):
                signs.verdict = LostRanks.loads(store.get(_VERDICT))
        except RuntimeError:
            # A killed launcher takes its store along, and its ranks still agree to save and end;
            # a roll call, if it comes to one, meets the same error and says so.
            return
        if ended.wait(beat_seconds):
            return


def _end(ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    thread.join(timeout=2.0)
