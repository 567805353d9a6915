"""What was measured: a row's rounds, the ratios that follow, and both as JSON and as tables.

A ratio is the median over the rounds of that round's ratio: both readers ran within minutes of each
other there, so a machine that is slower for a while slows both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from peers.rows import RATIOS, Ratio, Row

Key = tuple[str, int]
MIB = 2**20


@dataclass
class Result:
    """A row with a number of workers: what it delivered, each round, or why there is none."""

    row: Row
    workers: int
    bytes_a_triple: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    @property
    def rates(self) -> list[float]:
        """Triples a second, one number a round."""
        return [round_["samples"] / round_["seconds"] for round_ in self.rounds]

    def median(self, name: str) -> float:
        return float(statistics.median(round_[name] for round_ in self.rounds))

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor time a triple, over the whole process tree."""
        costs = [round_["cpu_seconds"] / round_["samples"] for round_ in self.rounds]
        return float(statistics.median(costs)) * 1e6

    @property
    def pixels(self) -> str:
        """Whether the epoch held every picture once, with the same pixels."""
        found = self.verified
        if not found:
            return "-"
        wrong = [f"{found[n]} {n}" for n in ("missing", "again", "unknown") if found[n]]
        if wrong:
            return "WRONG: " + ", ".join(wrong)
        if found["checksum"] == self.reference:
            return "same"
        mean, most = found["mean_overlay_difference"], found["overlay_difference"]
        mask = f", mask by {found['mask_difference']}" if found["mask_difference"] else ""
        return f"differ by {most} at most, {mean:.2f} on average{mask}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.row.name,
            "says": self.row.says,
            "workers": self.workers,
            "bytes_a_triple": self.bytes_a_triple,
            "versions": self.versions,
            "pixels": self.pixels,
            "verified": self.verified,
            "rates": self.rates,
            "rounds": self.rounds,
            "error": self.error,
        }


@dataclass(frozen=True)
class Verdict:
    """A ratio as it was found; `found` is None where one of the two was not measured."""

    ratio: Ratio
    found: float | None
    bytes_found: float | None

    @property
    def passes(self) -> bool | None:
        if self.found is None:
            return None
        enough = self.found >= self.ratio.target
        limit = self.ratio.bytes_target
        return enough and (limit is None or (self.bytes_found or 0.0) <= limit)

    def as_dict(self) -> dict[str, Any]:
        return {
            "says": self.ratio.says,
            "target": self.ratio.target,
            "found": self.found,
            "bytes_target": self.ratio.bytes_target,
            "bytes_found": self.bytes_found,
            "passes": self.passes,
        }


def verdicts(results: dict[Key, Result]) -> list[Verdict]:
    return [_verdict(ratio, results) for ratio in RATIOS]


def _verdict(ratio: Ratio, results: dict[Key, Result]) -> Verdict:
    over, under = results.get(ratio.over), results.get(ratio.under)
    if over is None or under is None or not over.rounds or not under.rounds:
        return Verdict(ratio, None, None)
    pairs = zip(over.rates, under.rates, strict=False)
    bytes_found = over.bytes_a_triple / under.bytes_a_triple
    return Verdict(ratio, statistics.median(a / b for a, b in pairs), bytes_found)


def table(results: dict[Key, Result]) -> str:
    """Markdown: a line for each row and number of workers."""
    lines = [
        "| reader | workers | triples/s | min - max | bytes a triple | CPU us a triple "
        "| anonymous / mapped MiB | pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        head = f"| {result.row.says} | {result.workers} |"
        if not result.rounds:
            lines.append(f"{head} - | | | | | {result.error or result.pixels} |")
            continue
        rates = result.rates
        memory = (result.median(n) / MIB for n in ("anonymous_bytes", "mapped_bytes"))
        lines.append(
            f"{head} {statistics.median(rates):,.0f} | {min(rates):,.0f} - {max(rates):,.0f} "
            f"| {result.bytes_a_triple:,.0f} | {result.cpu_us:,.0f} "
            f"| {' / '.join(f'{mib:,.0f}' for mib in memory)} | {result.error or result.pixels} |"
        )
    return "\n".join(lines)


def ratio_table(found: list[Verdict]) -> str:
    lines = ["| ratio | target | measured | |", "|---|---|---|---|"]
    words = {True: "pass", False: "FAIL", None: "not measured"}
    for verdict in found:
        ratio = verdict.ratio
        target, measured = f"{ratio.target:g} x", "-"
        if verdict.found is not None:
            measured = f"{verdict.found:.2f} x"
        if ratio.bytes_target is not None and verdict.bytes_found is not None:
            target += f", {ratio.bytes_target:g} of its bytes"
            measured += f", {verdict.bytes_found:.2f} of its bytes"
        lines.append(f"| {ratio.says} | {target} | {measured} | {words[verdict.passes]} |")
    return "\n".join(lines)
