"""Which micro-batch a task gets under a memory budget, worked out from a few probes of its step.

Owns the reasoning alone: the device comes in as a callable that tries one size. Hands on a
`Choice`, whose size was itself measured within the budget. The surprise: sizes are neither searched
freely nor doubled until something breaks. There is a fixed ladder of at most 32, bisected in a
fixed way, so that which size is tried next follows from which sizes fitted, not from how large the
budget is. That makes the search monotone in the budget for any noise; six probes cannot tell more
than 32 sizes apart anyway, and sizes between two rungs would take as many passes as the lower one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Limit = Literal["budget", "batch", "index", "speed"]

MAX_PROBES = 6
_MAX_RUNGS = 2 ** (MAX_PROBES - 1)  # the lowest rung takes one probe, the others are bisected
_MAX_ELEMENTS = 2**31 - 1
_SAFETY = 0.05  # of the budget is kept free: fragments, and batches unlike those of the probe
_NOISE = 0.03  # how far a peak may lie from a straight line: workspaces, rounding to 2 and 20 MiB
_WORTHWHILE = 0.02  # faster by less is within the noise of a probe
_REASONS: Mapping[Limit, str] = {
    "budget": "the next larger size does not fit into the budget",
    "batch": "a rank's whole part of a batch goes through at once",
    "index": "a larger tensor would pass 2^31 elements, where kernels fail or turn slow",
    "speed": "larger sizes are hardly faster",
}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one size took.

    micro_batch: samples; seconds: of one pass (copy to backward); peak_bytes: the most that the
    device held while a pass, the optimizer and an evaluation pass ran.
    """

    micro_batch: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DidNotFit:
    """A size at which the device ran out of memory: there is nothing to measure."""

    micro_batch: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The micro-batch of a task, and how it was found.

    share: samples of a rank's part of a batch; samples_per_second: over all passes of the share,
    the last of which may be smaller; predicted_bytes: what the other probes say of this size, once
    there are two of them; fixed_bytes, bytes_per_sample: the straight line through all probes (one
    probe alone cannot tell them apart: all counts as samples); probes: in the order they were made;
    compiled: the step is, its probes were not.
    """

    micro_batch: int
    share: int
    budget_bytes: int
    predicted_bytes: int
    measured_bytes: int
    samples_per_second: float
    fixed_bytes: int
    bytes_per_sample: float
    limited_by: Limit
    probes: tuple[Probe | DidNotFit, ...]
    compiled: bool = False

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it; `from_dict` gives an equal choice back."""
        return asdict(self) | {"probes": [asdict(probe) for probe in self.probes]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        """The choice that `as_dict` wrote. Raises ValueError where it was another version's."""
        try:
            kept = cls(**values)
            probes = tuple(
                Probe(**probe) if "seconds" in probe else DidNotFit(**probe)
                for probe in values["probes"]
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the kept choice of a micro-batch does not read: {error}; it was written by "
                "another version of the planner; delete it, and the device is probed again"
            ) from error
        return replace(kept, probes=probes)


class CannotFit(ValueError):
    """Not even one norm group fits: `needed` is its probe, None where memory ran out in it."""

    def __init__(self, norm_group: int, budget_bytes: int, needed: Probe | None) -> None:
        self.norm_group, self.budget_bytes, self.needed = norm_group, budget_bytes, needed
        took = f"needed {_size(needed.peak_bytes)}" if needed else "ran out of device memory"
        super().__init__(
            f"a micro-batch of one norm group ({norm_group} samples) {took} where "
            f"{_size(budget_bytes)} are allowed; a group is normalised together, so it cannot be "
            "cut; allow more (memory), or make the picture, step.norm_group or the network smaller"
        )


def choose_micro_batch(
    probe: Callable[[int], Probe | None],
    *,
    norm_group: int,
    share: int,
    budget_bytes: int,
    largest_elements_per_sample: int = 0,
    compiled: bool = False,
) -> Choice:
    """The fastest size for the share among those measured within the budget; at most 6 probes.

    probe(micro_batch) tries a size, None where it ran out of memory. share: samples of a rank's
    part of a batch, of the fullest rank. largest_elements_per_sample: of the largest tensor of a
    pass, 0 if not known; the size is a multiple of norm_group that keeps it below 2^31, or
    norm_group itself, which cannot be cut. compiled: the step will be, its probes are not: their
    memory is what a compiled pass hardly exceeds, their seconds say nothing of it. So the largest
    size that fits is taken, of those that divide the share, where these are not far between.
    Raises CannotFit exactly when norm_group does not fit, ValueError for a norm_group or share
    below 1.

    Monotone in the budget, where a probe is a function of the size: the largest verified size never
    shrinks as the budget grows, so the share is never slower where larger is never slower; where
    it is slower by up to a share e, the plan is by no more than e.
    """
    if norm_group < 1 or share < 1:
        raise ValueError(f"norm_group is {norm_group}, share is {share}; both must be at least 1")
    elements = largest_elements_per_sample
    rungs = ladder(share=share, norm_group=norm_group, elements=elements, dividing=compiled)
    made: list[Probe | DidNotFit] = []

    def measure(size: int, allowed_bytes: float) -> Probe | None:
        seen = probe(size)
        assert not seen or (seen.micro_batch == size and seen.peak_bytes > 0 and seen.seconds > 0)
        made.append(seen or DidNotFit(micro_batch=size))
        return seen if seen and seen.peak_bytes <= allowed_bytes else None

    first = measure(rungs[0], budget_bytes)
    if first is None:
        needed = made[0] if isinstance(made[0], Probe) else None
        raise CannotFit(norm_group, budget_bytes, needed)
    allowed_bytes = budget_bytes * (1 - _SAFETY)
    fitting, unknown = _bisected(measure, rungs, first, allowed_bytes, timed=not compiled)

    padded = -(-share // norm_group) * norm_group
    best = fitting[-1]
    if not compiled:
        best = min(fitting, key=lambda seen: (_seconds(seen, first, padded), seen.micro_batch))
    limited_by: Limit = "budget"
    if unknown or best is not fitting[-1]:
        limited_by = "speed"
    elif best.micro_batch == rungs[-1]:
        limited_by = "batch" if rungs[-1] == padded else "index"
    seconds = _seconds(best, first, padded)
    choice = _choice(best, made, share, budget_bytes, seconds, limited_by)
    return replace(choice, compiled=compiled)


def _bisected(
    measure: Callable[[int, float], Probe | None],
    rungs: Sequence[int],
    first: Probe,
    allowed_bytes: float,
    *,
    timed: bool,
) -> tuple[list[Probe], bool]:
    """The sizes that fitted, ascending, and whether larger ones were left untried as no faster."""
    fitting = [first]
    low, high = 0, len(rungs)
    while high - low > 1 and not (timed and _saturated(fitting, rungs[-1])):
        middle = (low + high) // 2
        # Nothing but `fitting` may guide the search: it is the same for every budget that comes
        # here. What failed is not: a smaller budget runs out of memory where a larger one measures.
        hopeless = _least_bytes(fitting, rungs[middle]) > allowed_bytes
        seen = None if hopeless else measure(rungs[middle], allowed_bytes)
        if seen:
            low, fitting = middle, [*fitting, seen]
        else:
            high = middle
    return fitting, high - low > 1


def _choice(
    best: Probe,
    made: Sequence[Probe | DidNotFit],
    share: int,
    budget_bytes: int,
    seconds: float,
    limited_by: Limit,
) -> Choice:
    measured = [seen for seen in made if isinstance(seen, Probe)]
    others = [seen for seen in measured if seen is not best]
    fixed, slope = _line(measured)
    predicted, per_sample = _line(others if len(others) > 1 else measured)
    return Choice(
        micro_batch=best.micro_batch,
        share=share,
        budget_bytes=budget_bytes,
        predicted_bytes=round(predicted + per_sample * best.micro_batch),
        measured_bytes=best.peak_bytes,
        samples_per_second=share / seconds,
        fixed_bytes=round(fixed),
        bytes_per_sample=slope,
        limited_by=limited_by,
        probes=tuple(made),
    )


def ladder(*, share: int, norm_group: int, elements: int = 0, dividing: bool = False) -> list[int]:
    """At most 32 sizes in ascending order, all multiples of norm_group, the first norm_group.

    Each is the smallest that needs no more passes over the share than itself: a larger one up to
    the next rung would only make the last pass smaller. Where there are more than 32 of them, they
    are thinned so that neighbours lie as near as they can, as ratios. dividing: a size that does
    not divide the share is left out where one that does is at least half as large.
    """
    groups = -(-share // norm_group)
    most = _MAX_ELEMENTS // (elements * norm_group) if elements else groups
    even = sorted({-(-groups // passes) for passes in range(1, groups + 1)})
    even = [size for size in even if size <= max(most, 1)]
    if dividing:
        whole = {size for size in even if groups % size == 0}
        even = [
            size
            for size in even
            if size in whole or not any(one < size <= 2 * one for one in whole)
        ]
    ratios = (1 + step / 100 for step in itertools.count())
    thinned = (_thinned(even, ratio) for ratio in ratios)
    return [size * norm_group for size in next(one for one in thinned if len(one) <= _MAX_RUNGS)]


def _thinned(sizes: Sequence[int], ratio: float) -> list[int]:
    """Fewer of the ascending sizes, with both ends: leaving one out opens no gap above ratio."""
    kept = [sizes[-1]]
    for index in range(len(sizes) - 2, -1, -1):
        if index == 0 or sizes[index - 1] * ratio < kept[-1]:
            kept.append(sizes[index])
    return kept[::-1]


def _saturated(fitting: Sequence[Probe], largest: int) -> bool:
    """Whether one pass of the largest size would hardly be faster, going by the last doubling."""
    last = fitting[-1]
    smaller = [seen for seen in fitting if 2 * seen.micro_batch <= last.micro_batch]
    if not smaller:
        return False
    before = smaller[-1]
    slope = (last.seconds - before.seconds) / (last.micro_batch - before.micro_batch)
    latency = last.seconds - slope * last.micro_batch
    return latency * (1 - last.micro_batch / largest) < _WORTHWHILE * last.seconds


def _least_bytes(fitting: Sequence[Probe], size: int) -> float:
    """What `size` takes at least, if memory is a straight line give or take _NOISE."""
    first, last = fitting[0], fitting[-1]
    if first is last:
        return 0.0
    least = last.peak_bytes / (1 + _NOISE)
    slope = (least - first.peak_bytes / (1 - _NOISE)) / (last.micro_batch - first.micro_batch)
    return (1 - _NOISE) * (least + max(slope, 0.0) * (size - last.micro_batch))


def _seconds(seen: Probe, first: Probe, share: int) -> float:
    """Seconds of all passes over a share (a multiple of the smallest size, which `first` tried).

    The last pass is between the two on a straight line: other probes would bring the budget in.
    """
    full, rest = divmod(share, seen.micro_batch)
    if not rest:
        return full * seen.seconds
    part = (rest - first.micro_batch) / (seen.micro_batch - first.micro_batch)
    return full * seen.seconds + first.seconds + part * (seen.seconds - first.seconds)


def _line(probes: Sequence[Probe]) -> tuple[float, float]:
    """Bytes at size 0 and bytes a sample, not negative: least squares of the relative errors."""
    xs = [1 / seen.peak_bytes for seen in probes]
    ys = [seen.micro_batch / seen.peak_bytes for seen in probes]
    x, y, xx, yy = sum(xs), sum(ys), sum(x * x for x in xs), sum(y * y for y in ys)
    xy = sum(x * y for x, y in zip(xs, ys, strict=True))
    determinant = xx * yy - xy * xy
    fixed, slope = x * yy - y * xy, y * xx - x * xy
    if len(probes) == 1 or fixed < 0:
        return 0.0, y / yy
    return (x / xx, 0.0) if slope < 0 else (fixed / determinant, slope / determinant)


def explain_choices(choices: Mapping[str, Choice]) -> list[str]:
    """Lines for a person, a few for each task: its probes, what they say, what limited the size."""
    return [line for name, choice in choices.items() for line in _choice_lines(name, choice)]


def _choice_lines(name: str, choice: Choice) -> list[str]:
    passes = -(-choice.share // choice.micro_batch)
    lines = [
        f"{name}: {passes} pass{'es' * (passes != 1)} over {choice.share:,} samples, "
        f"{choice.samples_per_second:,.0f} samples/s; {_REASONS[choice.limited_by]}",
        f"    {'size':>9}  {'peak':>10}  {'ms a pass':>9}  {'samples/s':>9}",
    ]
    for seen in choice.probes:
        if isinstance(seen, DidNotFit):
            lines.append(f"    {seen.micro_batch:>9,}  out of memory")
            continue
        mark = "  too large" if seen.peak_bytes > choice.budget_bytes * (1 - _SAFETY) else ""
        mark = "  chosen" if seen.micro_batch == choice.micro_batch else mark
        speed = f"{1000 * seen.seconds:>9,.1f}  {seen.micro_batch / seen.seconds:>9,.0f}"
        lines.append(f"    {seen.micro_batch:>9,}  {_size(seen.peak_bytes):>10}  {speed}{mark}")
    if choice.compiled:
        lines.append(
            "    tried uncompiled, since each size is compiled anew: the largest that fits is taken"
        )
    return [
        *lines,
        f"    memory = {_size(choice.fixed_bytes)} + {_size(choice.bytes_per_sample)} a sample; "
        f"at {choice.micro_batch:,}: {_size(choice.predicted_bytes)} predicted, "
        f"{_size(choice.measured_bytes)} measured, {_size(choice.budget_bytes)} allowed "
        f"({_SAFETY:.0%} of it is kept free)",
    ]


def _size(count: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= 0.999 * scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count / 2**10:.1f} KiB"
