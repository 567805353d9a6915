from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.learn.cases import CPU, DEPTH, built, make_rows, make_view
from tests.memory.allocator import cpu_peak_bytes
from wdtrain.config import IntensitySettings
from wdtrain.fields import DepthField
from wdtrain.learn.intensity import build_intensities
from wdtrain.learn.step import LocalPass
from wdtrain.learn.task import Task, TaskSet
from wdtrain.learn.view import View
from wdtrain.memory.estimate import (
    INDEX_LIMIT,
    MARGIN,
    Footprint,
    explain_footprint,
    footprint,
    largest_micro_batches,
)
from wdtrain.memory.metering import Casts
from wdtrain.memory.refusal import DoesNotFit
from wdtrain.networks import build
from wdtrain.targets.depth import DepthTarget

SIZE = 32


class Doubled(torch.autograd.Function):
    """An operation of a user's own, which keeps its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (2 + 0 * x)


class UsersOwn(nn.Module):
    """Attention over the pixels, an operation of its own, and shrinking and growing."""

    domain = "unit"

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.query = nn.Linear(16, 16)
        self.end = nn.Conv2d(16, 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        x = Doubled.apply(self.norm(self.begin(picture)).relu())
        tokens = self.query(x.flatten(2).transpose(1, 2))
        attended = (tokens @ tokens.transpose(1, 2) / 4).softmax(-1) @ tokens
        x = attended.transpose(1, 2).reshape(x.shape)
        return nn.functional.interpolate(self.end(x), scale_factor=2.0).float().sigmoid()


class NeedsData(nn.Module):
    domain = "unit"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        return self.conv(picture) * self.conv.weight.detach().abs().max().item()


class OneConvolution(nn.Module):
    """Its largest activation has 8 channels; an unused table of weights is larger."""

    domain = "unit"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)
        self.table = nn.Parameter(torch.zeros(300_000))

    def forward(self, picture: Tensor) -> Tensor:
        return self.conv(picture).mean(1, keepdim=True) + (self.table + 1).mean()


class Pointwise(nn.Module):
    """Next to nothing is kept for its gradient."""

    domain = "unit"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, picture: Tensor) -> Tensor:
        return picture[:, :1] * self.scale


def takes_six_pictures(pictures: Tensor, generator: torch.Generator) -> Tensor:
    return torch.stack([pictures] * 6).mean(0)


def network(name: str) -> nn.Module:
    if name == "seed-unet":
        return build(name, init_features=8)
    return build(name) if name == "seed-mask" else UsersOwn()


def make_task(net: nn.Module, precision: str = "fp32", **options) -> Task:
    settings: dict = {
        "loss": "l1" if net.domain == "unit" else "bce+dice",
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "norm_group": 8,
        "micro_batch": 8,
        "size": (SIZE, SIZE),
    }
    target = "depth" if net.domain == "unit" else "mask"
    return built(target, target, net, precision=precision, **(settings | options))


def estimate(task: Task, precision: str = "fp32", most: int = 32) -> Footprint:
    return footprint(task, view=make_view(precision), height=SIZE, width=SIZE, most=most)


def measured(task: Task, samples: int, precision: str, view: View | None = None) -> int:
    task.micro_batch = samples
    rows, tasks = make_rows(samples, group=task.norm_group, size=SIZE), TaskSet([task])

    def work() -> None:
        tasks.open()
        local = LocalPass(rows=rows, device=CPU, view=view or make_view(precision))
        local.run(task, tasks.gradients_of(task))

    return cpu_peak_bytes(work)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("seed-mask", "fp32"),
        ("seed-mask", "bf16"),
        ("seed-unet", "fp32"),
        ("seed-unet", "bf16"),
        ("users-own", "fp32"),
        ("users-own", "fp64"),
    ],
)
def test_the_estimate_is_within_a_tenth_of_what_the_allocator_held(name: str, precision: str):
    task = make_task(network(name), precision)
    known = estimate(task, precision)
    for samples in (8, 24):
        assert known.pass_bytes(samples) == pytest.approx(
            measured(task, samples, precision), rel=0.1
        )


@pytest.mark.parametrize(
    "change",
    [
        {"name": "RandomGaussianNoise", "p": 1.0},
        {"name": "RandomSolarize", "p": 0.5},
        {"name": "RandomGaussianBlur", "p": 1.0, "kernel_size": [5, 5], "sigma": [0.5, 1.5]},
        {"name": "ColorJiggle", "p": 1.0, "hue": 0.1, "saturation": 0.2},
        {"name": f"{__name__}:takes_six_pictures"},
    ],
    ids=lambda change: change["name"].rpartition(":")[2],
)
def test_changes_of_colours_are_in_the_estimate(change: dict[str, Any]):
    """Beside a network that takes less than they do: they are then the peak of a pass."""
    image = build_intensities([IntensitySettings.model_validate(change)])
    task = make_task(Pointwise())
    plain = make_view("fp32")
    assert plain.augmentation is not None
    view = plain.augmented(replace(plain.augmentation, image=image))
    known = footprint(task, view=view, height=SIZE, width=SIZE, most=32)
    for samples in (8, 32):
        held = measured(task, samples, "fp32", view)
        assert 0.9 * held <= known.pass_bytes(samples) <= 1.25 * held
    left_out = estimate(task)
    assert left_out.pass_bytes(8) < 0.9 * measured(task, 8, "fp32", view)
    assert known.largest_elements_per_sample == left_out.largest_elements_per_sample


def test_under_the_casts_of_a_gpu_too_the_estimate_is_within_a_tenth(monkeypatch):
    # A GPU's autocast keeps the attention in float32, the CPU's in bfloat16.
    task = make_task(network("users-own"), "bf16")
    known = estimate(task, "bf16")
    by_cpu = measured(task, 16, "bf16")
    monkeypatch.setattr("wdtrain.learn.step.autocast", lambda device, precision: Casts())
    assert known.pass_bytes(16) == pytest.approx(measured(task, 16, "bf16"), rel=0.1)
    assert known.pass_bytes(16) > 1.5 * by_cpu


def test_what_is_resident_is_weights_buffers_gradients_and_the_state_of_the_optimizer():
    task = make_task(OneConvolution())
    live = 3 * 8 + 300_000
    # Weights, gradients and both moments of Adam; a count of steps for each of the two weights.
    exact = 4 * 4 * live + 2 * 4
    rounded = estimate(task).fixed_bytes
    assert exact <= rounded <= exact + 512 * 12
    momentum = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    lighter = estimate(make_task(OneConvolution(), optimizer=momentum)).fixed_bytes
    assert rounded - lighter == pytest.approx(4 * live, abs=512 * 4)


def test_memory_grows_in_a_line_once_groups_are_joined():
    (_, _), (few, less), *_, (many, more) = estimate(
        make_task(network("seed-mask")), most=64
    ).passes
    assert more / less == pytest.approx(many / few, rel=0.01)


def test_memory_does_not_depend_on_how_many_groups_a_pass_holds(monkeypatch):
    few = estimate(make_task(network("seed-mask"), norm_group=2), most=32)
    monkeypatch.setattr("wdtrain.memory.estimate._GROUPS", 16)
    many = estimate(make_task(network("seed-mask"), norm_group=2), most=32)
    assert many.pass_bytes(32) == pytest.approx(few.pass_bytes(32), rel=0.01)


def test_half_precision_takes_less_than_single_and_more_than_half_of_it():
    single = estimate(make_task(network("seed-unet")), most=16).pass_bytes(16)
    half = estimate(make_task(network("seed-unet"), "bf16"), "bf16", most=16).pass_bytes(16)
    assert 0.5 * single < half < 0.7 * single


def test_double_precision_takes_twice_as_much_of_activations():
    single = estimate(make_task(UsersOwn()), most=16).bytes_per_sample
    double = estimate(make_task(UsersOwn(), "fp64"), "fp64", most=16).bytes_per_sample
    assert 1.9 * single < double < 2.1 * single


def test_the_largest_tensor_is_told_by_sample_and_weights_are_none():
    known = estimate(make_task(OneConvolution()), most=8)
    assert known.largest_elements_per_sample == 8 * SIZE * SIZE


def test_the_task_stays_as_it_was():
    task = make_task(network("seed-mask"), "bf16")
    tasks = TaskSet([task])
    tasks.open()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    pending = [norm.pending for norm in tasks.gradients_of(task).norms]
    generator = torch.random.get_rng_state()
    estimate(task, "bf16")
    after = task.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(n.pending is p for n, p in zip(tasks.gradients_of(task).norms, pending, strict=True))
    assert not tasks.gradient_buffer.flat.any()
    assert task.context.groups is None
    assert task.micro_batch == 8
    assert "forward" not in vars(task.network)
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_network_is_estimated_as_it_is_written():
    plain = estimate(make_task(network("seed-mask")), most=8)
    assert estimate(make_task(network("seed-mask"), compiled=True), most=8) == plain


def test_depth_of_sixteen_bits_takes_its_second_byte():
    task = make_task(network("users-own"))
    field = DepthField("depth", format=replace(DEPTH, bits=16))
    view = make_view("fp32", augmented=False)
    both = (task, replace(task, target=DepthTarget(field)))
    pair = [footprint(each, view=view, height=SIZE, width=SIZE, most=16) for each in both]
    assert pair[1].bytes_per_sample - pair[0].bytes_per_sample == SIZE * SIZE


def test_a_network_that_needs_data_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"'depth' cannot be estimated.*NeedsData stops with .*item"
    ):
        estimate(make_task(NeedsData()))


def test_a_picture_that_does_not_suit_the_network_is_refused_in_its_own_words():
    task = make_task(network("seed-unet"))
    with pytest.raises(ValueError, match="divisible by 16"):
        footprint(task, view=make_view("fp32"), height=24, width=SIZE, most=8)


SYNTHETIC = st.builds(
    lambda group, doublings, slope, base, kink, fixed, largest: Footprint(
        fixed_bytes=fixed,
        # The highest of two moments: one that grows fast, one that begins high.
        passes=tuple((n := group << k, max(slope * n, base + kink * n)) for k in range(doublings)),
        largest_elements_per_sample=largest,
    ),
    st.integers(1, 64),
    st.integers(2, 12),
    st.integers(1, 1 << 24),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 20),
    st.integers(0, 1 << 30),
    st.integers(1, 1 << 22),
)


@given(SYNTHETIC, st.integers(1, 1 << 16), st.integers(0, 1 << 10))
def test_a_larger_pass_never_takes_less(known, samples, more):
    assert known.pass_bytes(samples + more) >= known.pass_bytes(samples)
    assert all(known.pass_bytes(count) == size_bytes for count, size_bytes in known.passes)


@given(
    st.integers(1, 1 << 20), st.integers(0, 1 << 24), st.integers(0, 1 << 16), st.integers(8, 1024)
)
def test_between_two_passes_the_estimate_is_never_below_the_truth(slope, base, other, samples):
    def truth(n: int) -> int:
        return max(slope * n, base + other * n)

    passes = tuple((8 << k, truth(8 << k)) for k in range(8))
    known = Footprint(fixed_bytes=0, passes=passes, largest_elements_per_sample=1)
    assert known.pass_bytes(samples) >= truth(samples)


def test_a_smaller_group_takes_its_share_of_a_larger_one():
    known = estimate(make_task(network("seed-mask")), most=8)
    smaller = estimate(make_task(network("seed-mask"), norm_group=2), most=2)
    assert known.pass_bytes(2) == pytest.approx(smaller.pass_bytes(2), rel=0.02)
    # Also where two groups take so much more than one that the line through them begins below 0.
    steep = replace(known, passes=((4, 400), (8, 1200)))
    assert [steep.pass_bytes(samples) for samples in (1, 2, 3, 4)] == [100, 200, 300, 400]


def needed(footprints: dict[str, Footprint], name: str, samples: int) -> int:
    fixed = sum(each.fixed_bytes for each in footprints.values())
    return fixed + footprints[name].pass_bytes(samples)


@settings(max_examples=300)
@given(
    st.lists(SYNTHETIC, min_size=1, max_size=3),
    st.integers(1, 1 << 36),
    st.integers(1, 1 << 14),
)
def test_the_largest_micro_batch_fits_beside_all_tasks_and_the_next_one_does_not(
    found, budget_bytes, most
):
    footprints = {str(index): each for index, each in enumerate(found)}
    allowed = int(budget_bytes * (1 - MARGIN))
    try:
        chosen = largest_micro_batches(footprints, budget_bytes, most=most)
    except DoesNotFit:
        assert any(
            needed(footprints, name, each.norm_group) > allowed
            or each.norm_group * each.largest_elements_per_sample >= INDEX_LIMIT
            for name, each in footprints.items()
        )
        return
    for name, samples in chosen.items():
        each = footprints[name]
        above = samples + each.norm_group
        assert samples % each.norm_group == 0
        assert needed(footprints, name, samples) <= allowed
        assert samples * each.largest_elements_per_sample < INDEX_LIMIT
        assert samples < most + each.norm_group
        assert (
            needed(footprints, name, above) > allowed
            or above * each.largest_elements_per_sample >= INDEX_LIMIT
            or above >= most + each.norm_group
        )


def linear(fixed_bytes: int, per_sample: int, largest: int = 1) -> Footprint:
    passes = tuple((count, per_sample * count) for count in (8, 16))
    return Footprint(fixed_bytes=fixed_bytes, passes=passes, largest_elements_per_sample=largest)


def test_what_all_tasks_hold_is_taken_off_the_budget_of_each_and_so_is_the_margin():
    footprints = {"mask": linear(300, 10), "depth": linear(200, 20)}
    chosen = largest_micro_batches(footprints, 2000, most=1000, margin=0.25)
    assert chosen == {"mask": 96, "depth": 48}  # of 1500 less 500


def test_no_tensor_of_a_micro_batch_has_more_elements_than_kernels_count_to():
    known = {"mask": linear(0, 1, largest=2**25)}
    assert largest_micro_batches(known, 2**30, most=1000) == {"mask": 56}


def test_a_micro_batch_is_no_larger_than_the_batch_rounded_up_to_a_group():
    assert largest_micro_batches({"mask": linear(0, 1)}, 2**30, most=20) == {"mask": 24}


@given(SYNTHETIC, st.integers(1, 1 << 36), st.integers(0, 1 << 34), st.floats(0, 0.5))
def test_a_larger_budget_never_gives_a_smaller_micro_batch(known, budget_bytes, more, margin):
    def chosen(allowed_bytes: int) -> int:
        try:
            return largest_micro_batches(
                {"mask": known}, allowed_bytes, most=1 << 14, margin=margin
            )["mask"]
        except DoesNotFit:
            return 0

    assert chosen(budget_bytes + more) >= chosen(budget_bytes)


def test_a_refusal_says_what_was_needed_and_what_may_be_used():
    known = Footprint(
        fixed_bytes=2**30, passes=((8, 2**30), (16, 2**31)), largest_elements_per_sample=1
    )
    with pytest.raises(DoesNotFit, match=r"1.00 GiB for one norm group of 8 .* 1.80 GiB may be"):
        largest_micro_batches({"mask": known}, 2**31, most=64)
    wide = replace(known, largest_elements_per_sample=2**28)
    with pytest.raises(DoesNotFit, match=r"2,147,483,648 elements .* smaller step.norm_group"):
        largest_micro_batches({"mask": wide}, 2**40, most=64)


def test_passes_are_known_up_to_the_batch_so_that_nothing_is_extrapolated():
    known = estimate(make_task(UsersOwn()), most=20)
    assert [count for count, _ in known.passes] == [8, 16, 32]
    assert [count for count, _ in estimate(make_task(UsersOwn()), most=1).passes] == [8, 16]


def test_the_explanation_says_that_it_is_an_estimate_and_of_what():
    known = Footprint(
        fixed_bytes=2**29, passes=((8, 2**29), (16, 2**30)), largest_elements_per_sample=1
    )
    lines = explain_footprint(
        {"mask": known}, {"mask": 16}, where="T4 16GB", budget_bytes=13 * 2**30
    )
    assert lines[0].startswith("estimate for T4 16GB, 13.00 GiB of it allowed, 10% of that left")
    assert lines[0].endswith("nothing was measured there")
    assert lines[1] == (
        "micro-batch 16 for mask (estimated): 1.50 GiB at its peak, 0.50 GiB of it held all the "
        "time, 64.00 MiB a sample"
    )
