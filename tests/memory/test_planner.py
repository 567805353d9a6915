from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wdtrain.memory.planner import (
    CannotFit,
    Choice,
    DidNotFit,
    Probe,
    choose_micro_batch,
    explain_choices,
    ladder,
)

MIB = 2**20


@dataclass
class Device:
    """A fake device: all that it does is a function of the size. Keeps the sizes it was asked for.

    wild: peaks are any numbers at all, in no order.
    """

    norm_group: int
    groups: int
    fixed: float
    slope: float
    latency: float
    rate: float
    seed: int = 0
    noise: float = 0.0
    slow_noise: float = 0.0
    jump_at: int | None = None
    rounding: int = 1
    wild: bool = False
    asked: list[int] = field(default_factory=list)

    @property
    def share(self) -> int:
        return self.norm_group * self.groups

    def chance(self, size: int, purpose: str) -> float:
        key = f"{self.seed}/{size}/{purpose}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64

    def peak(self, size: int) -> int:
        if self.wild:
            return 1 + int(1000 * self.chance(size, "wild"))
        jump = 1.3 if self.jump_at and size >= self.jump_at else 1.0
        noise = 1 + self.noise * (2 * self.chance(size, "peak") - 1)
        exact = (self.fixed + self.slope * size) * jump * noise
        return math.ceil(exact / self.rounding) * self.rounding

    def was_stopped(self, size: int, budget: int) -> bool:
        """The allocator stops some of what is too large; other passes get through and are seen."""
        return self.peak(size) > budget and self.chance(size, "stopped") < 0.5

    def seconds(self, size: int) -> float:
        noise = 1 + self.slow_noise * (2 * self.chance(size, "seconds") - 1)
        return (self.latency + size / self.rate) * noise

    def seconds_of_share(self, size: int) -> float:
        full, rest = divmod(self.share, size)
        return full * self.seconds(size) + (self.seconds(rest) if rest else 0.0)

    def sizes(self) -> range:
        return range(self.norm_group, self.share + 1, self.norm_group)

    def choose(self, budget: int, **options) -> Choice:
        self.asked = []

        def probe(size: int) -> Probe | None:
            self.asked.append(size)
            if self.was_stopped(size, budget):
                return None
            peak, seconds = self.peak(size), self.seconds(size)
            return Probe(micro_batch=size, peak_bytes=peak, seconds=seconds)

        options = {"norm_group": self.norm_group, "share": self.share} | options
        return choose_micro_batch(probe, budget_bytes=budget, **options)


@st.composite
def devices(draw, groups=256, noise=0.03, slow_noise=0.03, **options) -> Device:
    norm_group = draw(st.sampled_from([1, 4, 32]))
    slope = 2.0 ** draw(st.integers(10, 24))
    latency = draw(st.floats(0.0005, 0.1))
    return Device(
        norm_group=norm_group,
        groups=draw(st.integers(1, groups)),
        fixed=slope * norm_group * 2.0 ** draw(st.integers(-4, 8)),
        slope=slope,
        latency=latency,
        rate=norm_group / latency * 2.0 ** draw(st.integers(-3, 10)),
        seed=draw(st.integers(0, 2**32)),
        noise=noise,
        slow_noise=slow_noise,
        **options,
    )


@st.composite
def budgets(draw, device: Device) -> int:
    """A budget in which the smallest size fits, up to one in which everything does."""
    least, most = device.peak(device.norm_group), 1.4 * device.peak(device.share)
    return math.ceil(least * max(most / least, 1.0) ** draw(st.floats(0.0, 1.0)))


def check_within(device: Device, choice: Choice, budget: int) -> None:
    assert choice.measured_bytes == device.peak(choice.micro_batch) <= budget
    assert choice.micro_batch in device.asked
    assert choice.micro_batch % device.norm_group == 0
    assert choice.micro_batch <= device.share


@given(data=st.data(), device=devices(groups=2000))
@settings(max_examples=300)
def test_the_chosen_size_was_itself_measured_within_the_budget(data, device):
    budget = data.draw(budgets(device))
    check_within(device, device.choose(budget), budget)


@given(data=st.data(), device=devices())
@settings(max_examples=300)
def test_a_cost_that_jumps_at_an_unknown_size_is_never_above_the_budget(data, device):
    device.jump_at = data.draw(st.integers(1, device.share + 1))
    device.rounding = data.draw(st.sampled_from([1, 2 * MIB, 20 * MIB]))
    budget = data.draw(budgets(device))
    check_within(device, device.choose(budget), budget)


@given(data=st.data(), device=devices(groups=100_000))
@settings(max_examples=30)
def test_no_size_is_tried_twice_and_at_most_six_are(data, device):
    budget = data.draw(budgets(device))
    device.choose(budget)
    assert len(device.asked) == len(set(device.asked)) <= 6


@pytest.mark.parametrize("groups", [256, 2048, 65_536])
def test_a_device_that_gains_by_every_size_takes_six_probes_and_the_whole_share(groups):
    device = Device(4, groups, fixed=100.0, slope=1.0, latency=0.1, rate=1e9)
    assert device.choose(2**40).micro_batch == device.share
    assert len(device.asked) == 6


@pytest.mark.parametrize("share", [1, 31, 32])
def test_a_share_of_one_group_takes_one_probe(share):
    device = Device(32, 1, fixed=100.0, slope=1.0, latency=0.1, rate=100.0)
    choice = device.choose(10_000, share=share)
    assert (choice.micro_batch, device.asked, choice.limited_by) == (32, [32], "batch")
    assert choice.samples_per_second == pytest.approx(share / device.seconds(32))


def largest_that_fitted(device: Device, choice: Choice, budget: int) -> int:
    allowed = [
        seen.micro_batch
        for seen in choice.probes
        if isinstance(seen, Probe) and seen.peak_bytes <= 0.95 * budget
    ]
    return max(allowed, default=device.norm_group)


def ascending_choices(device: Device) -> list[tuple[int, Choice]]:
    """What is chosen under each budget at which a rung begins to fit, and between them."""
    least = device.peak(device.norm_group)
    rungs = ladder(share=device.share, norm_group=device.norm_group)
    edges = sorted(math.ceil(device.peak(size) / 0.95) for size in rungs)
    between = [(low + high) // 2 for low, high in itertools.pairwise(edges)]
    budgets = sorted({least, *edges, *between})
    return [(budget, device.choose(budget)) for budget in budgets if budget >= least]


@given(wild=st.booleans(), device=devices(noise=0.3, slow_noise=0.3))
@settings(max_examples=200)
def test_more_budget_never_finds_a_smaller_largest_size_whatever_the_noise(wild, device):
    device.wild = wild
    chosen = ascending_choices(device)
    largest = [largest_that_fitted(device, choice, budget) for budget, choice in chosen]
    assert largest == sorted(largest)


@given(device=devices(noise=0.3, slow_noise=0.0))
@settings(max_examples=200)
def test_more_budget_is_never_slower_where_larger_is_never_slower(device):
    speeds = [choice.samples_per_second for _, choice in ascending_choices(device)]
    assert all(more >= less * (1 - 1e-9) for less, more in itertools.pairwise(speeds))


@given(device=devices())
@settings(max_examples=200)
def test_more_budget_is_slower_by_no_more_than_the_noise(device):
    speeds = [choice.samples_per_second for _, choice in ascending_choices(device)]
    fastest_yet = itertools.accumulate(speeds, max)
    assert all(
        speed * 1.03 >= 0.97 * fastest * (1 - 1e-9)
        for speed, fastest in zip(speeds, fastest_yet, strict=True)
    )


def best_seconds(device: Device, allowed: float) -> float:
    return min(
        (device.seconds_of_share(s) for s in device.sizes() if device.peak(s) <= allowed),
        default=math.inf,
    )


@given(data=st.data(), device=devices(noise=0.0, slow_noise=0.0))
@settings(max_examples=300)
def test_without_noise_the_plan_is_within_3_percent_of_the_best_of_all_sizes(data, device):
    budget = data.draw(budgets(device))
    choice = device.choose(budget)
    assert device.seconds_of_share(choice.micro_batch) <= 1.03 * best_seconds(device, 0.95 * budget)


@given(data=st.data(), device=devices())
@settings(max_examples=300)
def test_under_noise_the_plan_is_within_20_percent_of_the_best_of_all_sizes(data, device):
    # 3 % on each of two peaks and the 5 % kept free: what takes 0.89 of the budget is found for
    # sure. 6 % are the two noises of speed, the rest is stopping where that noise hides a gain.
    budget = data.draw(budgets(device))
    choice = device.choose(budget)
    assert device.seconds_of_share(choice.micro_batch) <= 1.2 * best_seconds(device, 0.89 * budget)


@given(device=devices(noise=0.03), change=st.sampled_from([-1, 0, 1]))
def test_refuses_exactly_where_one_norm_group_does_not_fit(device, change):
    budget = device.peak(device.norm_group) + change
    if change >= 0:
        check_within(device, device.choose(budget), budget)
        return
    with pytest.raises(
        CannotFit, match=rf"one norm group \({device.norm_group} samples\)"
    ) as error:
        device.choose(budget)
    refusal = error.value
    assert (refusal.norm_group, refusal.budget_bytes) == (device.norm_group, budget)
    if device.was_stopped(device.norm_group, budget):
        assert refusal.needed is None
        assert "ran out of device memory where" in str(refusal)
    else:
        assert refusal.needed.peak_bytes == budget + 1
    assert "are allowed; a group is normalised together" in str(refusal)
    assert device.asked == [device.norm_group]


@pytest.mark.parametrize("options", [{"norm_group": 0}, {"share": 0}])
def test_refuses_sizes_below_one(options):
    device = Device(4, 2, fixed=1.0, slope=1.0, latency=0.1, rate=100.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        device.choose(100, **options)


@given(norm_group=st.integers(1, 40), share=st.integers(1, 20_000))
def test_each_size_of_the_ladder_is_the_smallest_for_its_number_of_passes(norm_group, share):
    rungs = ladder(share=share, norm_group=norm_group)
    assert rungs == sorted(set(rungs))
    assert len(rungs) <= 32
    assert (rungs[0], rungs[-1]) == (norm_group, math.ceil(share / norm_group) * norm_group)
    for size in rungs:
        passes = math.ceil(share / size)
        assert size % norm_group == 0
        assert size == norm_group or math.ceil(share / (size - norm_group)) > passes


@pytest.mark.parametrize("groups", [256, 2048, 65_536])
def test_a_ladder_that_is_thinned_has_no_gap_that_could_be_closed(groups):
    rungs = ladder(share=groups, norm_group=1)
    every = {-(-groups // passes) for passes in range(1, groups + 1)}
    gaps = [
        above / below
        for below, above in itertools.pairwise(rungs)
        if any(below < size < above for size in every)
    ]
    assert max(gaps, default=1.0) <= {256: 1.0, 2048: 1.26, 65_536: 1.44}[groups]


def test_a_size_that_divides_evenly_is_chosen_over_a_larger_one_of_as_many_passes():
    device = Device(32, 256, fixed=100 * MIB, slope=MIB, latency=0.01, rate=40_000.0)
    choice = device.choose(int((100 + 3000) * MIB / 0.95))
    assert (choice.micro_batch, choice.limited_by) == (2752, "budget")
    assert choice.samples_per_second == pytest.approx(8192 / device.seconds_of_share(2752))


@given(device=devices(), elements=st.integers(1, 2**31))
def test_no_tensor_passes_32_bit_indexing(device, elements):
    choice = device.choose(2**62, largest_elements_per_sample=elements)
    # One norm group cannot be cut, so it is tried in any case.
    assert all(size * elements < 2**31 or size == device.norm_group for size in device.asked)
    assert choice.limited_by in ("index", "batch", "speed")


def test_says_what_limited_the_size():
    device = Device(32, 256, fixed=100 * MIB, slope=MIB, latency=0.1, rate=40_000.0)
    all_of_it = int(device.peak(8192) / 0.95) + 1

    def limit(budget: int, **options) -> tuple[int, str]:
        choice = device.choose(budget, **options)
        return choice.micro_batch, choice.limited_by

    assert limit(all_of_it) == (8192, "batch")
    assert limit(device.peak(8192)) == (4096, "budget")
    assert limit(device.peak(32)) == (32, "budget")
    assert limit(all_of_it, largest_elements_per_sample=2**31 // 4096) == (2752, "index")
    assert limit(all_of_it, largest_elements_per_sample=2**31 // 4097) == (4096, "index")
    assert limit(all_of_it, largest_elements_per_sample=2**31) == (32, "index")
    device.latency = 0.0
    assert limit(all_of_it)[1] == "speed"


def test_stops_where_larger_sizes_are_hardly_faster():
    device = Device(32, 256, fixed=100 * MIB, slope=MIB, latency=0.0001, rate=40_000.0)
    choice = device.choose(2**40)
    assert device.asked == [32, 512]
    assert (choice.micro_batch, choice.limited_by) == (512, "speed")


def test_a_smaller_size_is_taken_where_larger_ones_are_slower():
    device = Device(32, 256, fixed=0.0, slope=MIB, latency=0.1, rate=40_000.0)
    quick = device.seconds
    device.seconds = lambda size: quick(size) * (3.0 if size > 2000 else 1.0)  # type: ignore[method-assign]
    choice = device.choose(4096 * MIB)
    assert max(device.asked) > 2000
    assert (choice.micro_batch, choice.limited_by) == (1024, "speed")


def test_probes_are_kept_in_the_order_made_and_failures_too():
    device = Device(4, 64, fixed=0.0, slope=10.0, latency=1.0, rate=100.0)
    choice = device.choose(100)
    assert [seen.micro_batch for seen in choice.probes] == device.asked
    kinds = {type(seen) for seen in choice.probes}
    assert kinds == {Probe, DidNotFit}


@given(data=st.data(), device=devices(noise=0.0))
def test_the_line_is_the_device_s_own_where_there_is_no_noise(data, device):
    budget = data.draw(budgets(device))
    choice = device.choose(budget)
    measured = [seen for seen in choice.probes if isinstance(seen, Probe)]
    assume(len(measured) > 1)
    scale = device.peak(device.norm_group)
    assert choice.fixed_bytes == pytest.approx(device.fixed, abs=0.01 * scale)
    assert choice.bytes_per_sample * device.norm_group == pytest.approx(
        device.slope * device.norm_group, abs=0.01 * scale
    )
    assert choice.predicted_bytes == pytest.approx(choice.measured_bytes, rel=0.01)


def test_the_prediction_comes_from_the_other_probes():
    device = Device(32, 256, fixed=100 * MIB, slope=MIB, latency=0.01, rate=40_000.0)
    exact = device.peak
    device.peak = lambda size: exact(size) + 50 * MIB * (size == 2752)  # type: ignore[method-assign]
    choice = device.choose(3200 * MIB)
    assert choice.micro_batch == 2752
    assert (choice.predicted_bytes, choice.measured_bytes) == (2852 * MIB, 2902 * MIB)


@given(data=st.data(), device=devices())
def test_a_choice_survives_json(data, device):
    budget = data.draw(budgets(device))
    choice = device.choose(budget)
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice


@pytest.mark.parametrize("change", [{"probes": [{"size": 3}]}, {"probes": 3}, {"more": 1}])
def test_a_choice_of_another_version_is_refused(change):
    device = Device(4, 64, fixed=0.0, slope=10.0, latency=1.0, rate=100.0)
    kept = device.choose(400).as_dict()
    with pytest.raises(ValueError, match="another version of the planner; delete it"):
        Choice.from_dict(kept | change)


def test_explains_every_probe_what_they_say_and_what_limited_the_size():
    device = Device(32, 256, fixed=100 * MIB, slope=MIB, latency=0.01, rate=40_000.0)
    mask, depth = device.choose(900 * MIB), device.choose(50_000 * MIB)
    lines = explain_choices({"mask": mask, "depth": depth})
    assert lines[:7] == [
        "mask: 12 passes over 8,192 samples, 25,222 samples/s; "
        "the next larger size does not fit into the budget",
        "         size        peak  ms a pass  samples/s",
        "           32  132.00 MiB       10.8      2,963",
        "          512  612.00 MiB       22.8     22,456",
        "          704  804.00 MiB       27.6     25,507  chosen",
        "          768  868.00 MiB       29.2     26,301  too large",
        "    memory = 100.00 MiB + 1.00 MiB a sample; at 704: 804.00 MiB predicted, "
        "804.00 MiB measured, 900.00 MiB allowed (5% of it is kept free)",
    ]
    assert lines[7].startswith("depth: 1 pass over 8,192 samples, 38,138 samples/s; a rank's whole")
    assert len(lines) == 7 + len(depth.probes) + 3
    assert "          704  out of memory" in explain_choices({"mask": device.choose(800 * MIB)})


@given(groups=st.integers(1, 600))
def test_for_a_compiler_sizes_divide_the_share_where_one_that_does_is_near(groups):
    all_sizes = set(ladder(share=groups, norm_group=1))
    rungs = ladder(share=groups, norm_group=1, dividing=True)
    whole = [size for size in range(1, groups + 1) if groups % size == 0]
    assert rungs[0] == 1
    assert rungs[-1] == groups
    for size in rungs:
        assert groups % size == 0 or not any(size <= 2 * one for one in whole if one < size)
    for lower, upper in itertools.pairwise(rungs):
        near = [size for size in all_sizes if 2 * lower < size < upper]
        assert not near or groups > 32  # no large gap but where the ladder was thinned


def test_what_will_be_compiled_takes_the_largest_that_fits_whatever_its_seconds_say():
    def probe(size: int) -> Probe:
        return Probe(micro_batch=size, peak_bytes=size, seconds=float(size) ** 2)

    sizes = {"norm_group": 1, "share": 96, "budget_bytes": 60}
    choice = choose_micro_batch(probe, **sizes, compiled=True)
    assert choice.micro_batch == 48
    assert choice.compiled
    assert choice.limited_by == "budget"
    assert choose_micro_batch(probe, **sizes).micro_batch == 1
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice
    assert "tried uncompiled" in "\n".join(explain_choices({"mask": choice}))
