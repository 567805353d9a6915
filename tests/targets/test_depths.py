"""Laws of the depth metrics, against slow loops written from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.fields import DepthFormat
from wdtrain.targets.depth import DepthSums

METRIC = DepthFormat(kind="metric", near_m=0.5, far_m=20.0)


def random_batch(seed: int, count: int = 3, size: int = 9) -> tuple[torch.Tensor, ...]:
    """(prediction, target, valid, foreground); the second image has no foreground."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 1, size, size)
    target = torch.rand(shape, generator=generator)
    prediction = (target + 0.2 * torch.randn(shape, generator=generator)).clamp(-0.1, 1.2)
    valid = torch.rand(shape, generator=generator) > 0.2
    foreground = torch.zeros(shape, dtype=torch.bool)
    foreground[..., 2:6, 3:8] = True
    foreground[1:2] = False
    return prediction, target, valid, foreground


def pixels_near_the_boundary(foreground: np.ndarray) -> np.ndarray:
    near = np.zeros_like(foreground)
    height, width = foreground.shape
    for y in range(height):
        for x in range(width):
            near[y, x] = any(
                foreground[v, u] != foreground[y, x] and math.hypot(v - y, u - x) <= 3
                for v in range(height)
                for u in range(width)
            )
    return near


def reference(batch: tuple[torch.Tensor, ...], region: str, *, aligned: bool) -> dict[str, float]:
    """Pixel by pixel, in metres; SILog per image."""
    pixels, silogs = [], []
    for image in range(len(batch[0])):
        p, t, valid, fg = (part[image, 0].numpy() for part in batch)
        found, truth = (0.5 * 40.0 ** np.clip(u.astype(float), 0, 1) for u in (p, t))
        if aligned:
            found = found * np.median(truth[valid]) / np.median(found[valid])
        where = {
            "all": valid,
            "foreground": valid & fg,
            "background": valid & ~fg,
            "boundary": valid & pixels_near_the_boundary(fg),
        }[region]
        pairs = [(found[y, x], truth[y, x]) for y, x in np.argwhere(where)]
        pixels += pairs
        if pairs:
            logs = [math.log(a / b) for a, b in pairs]
            square = sum(d * d for d in logs) / len(logs) - (sum(logs) / len(logs)) ** 2
            silogs.append(100 * math.sqrt(max(square, 0)))

    def mean(error) -> float:
        return sum(error(a, b) for a, b in pixels) / len(pixels)

    return {
        "absrel": mean(lambda a, b: abs(a - b) / b),
        "sqrel": mean(lambda a, b: (a - b) ** 2 / b),
        "rmse": math.sqrt(mean(lambda a, b: (a - b) ** 2)),
        "rmse_log": math.sqrt(mean(lambda a, b: math.log(a / b) ** 2)),
        "log10": mean(lambda a, b: abs(math.log10(a) - math.log10(b))),
        "mae": mean(lambda a, b: abs(a - b)),
        "silog": sum(silogs) / len(silogs),
        **{f"delta{k}": mean(lambda a, b, k=k: max(a / b, b / a) < 1.25**k) for k in (1, 2, 3)},
    }


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("region", ["all", "foreground", "background", "boundary"])
def test_depth_metrics_are_those_of_the_definitions(region, aligned):
    batch = random_batch(7)
    sums = DepthSums(METRIC)
    sums.update(*batch)
    result = sums.result()
    path = "/".join(["aligned"] * aligned + [region] * (region != "all"))
    for name, value in reference(batch, region, aligned=aligned).items():
        found = result["/".join(filter(None, [path, name]))]
        assert found == pytest.approx(value, rel=2e-5), name


def test_values_of_one_image_are_those_of_that_image_alone():
    batch = random_batch(3)
    values = DepthSums(METRIC).update(*batch)
    for image in range(3):
        alone = reference(tuple(part[image : image + 1] for part in batch), "all", aligned=False)
        assert {name: float(v[image]) for name, v in values.items()} == pytest.approx(
            alone, rel=2e-5
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_depth_metrics_are_the_same_bits_over_any_partition(seed, ranks):
    batch = random_batch(seed, count=5)
    whole = DepthSums(METRIC)
    whole.update(*batch)
    parts = [DepthSums(METRIC) for _ in range(5)]
    for row, rank in reversed(list(enumerate(ranks))):
        parts[rank].update(*(part[row : row + 1] for part in batch))
    reduced = DepthSums(METRIC).from_tensor(torch.stack([p.as_tensor() for p in parts]).sum(0))
    assert torch.equal(reduced.as_tensor(), whole.as_tensor())


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    shape=st.tuples(st.integers(1, 4), st.just(1), st.integers(1, 20), st.integers(1, 20)),
    limits=st.sampled_from([(0.5, 20.0), (0.1, 100.0), (1.0, 3.0)]),
    spread=st.sampled_from([1e-5, 1e-3, 0.05, 0.5]),
    known=st.sampled_from([0.1, 0.7, 1.0]),
)
def test_pooled_depth_metrics_are_those_of_plain_float64(seed, shape, limits, spread, known):
    rng = np.random.default_rng(seed)
    near, far = limits
    fmt = DepthFormat(near_m=near, far_m=far)
    target = rng.uniform(0, 1, shape)
    prediction = target + spread * rng.normal(size=shape)
    valid = rng.uniform(size=shape) < known
    sums = DepthSums(fmt)
    sums.update(*(torch.from_numpy(part) for part in (prediction, target, valid)))
    result = sums.result()
    if not valid.any():
        assert result == {"images": 0.0}
        return
    a, b = (near * (far / near) ** np.clip(unit, 0, 1)[valid] for unit in (prediction, target))
    log, ratio = np.log(a) - np.log(b), np.maximum(a / b, b / a)
    images = [image for image in range(shape[0]) if valid[image].any()]
    logs = (np.log(far / near) * (np.clip(prediction, 0, 1) - target))[images]
    expected = {
        "absrel": np.mean(abs(a - b) / b),
        "sqrel": np.mean((a - b) ** 2 / b),
        "rmse": np.sqrt(np.mean((a - b) ** 2)),
        "mae": np.mean(abs(a - b)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(abs(np.log10(a) - np.log10(b))),
        "silog": np.mean([100 * one[k].std() for one, k in zip(logs, valid[images], strict=True)]),
        **{f"delta{power}": np.mean(ratio < 1.25**power) for power in (1, 2, 3)},
        "images": len(images),
    }
    for name, value in expected.items():
        within = 2e-4 if name == "silog" else 1e-6
        assert result[name] == pytest.approx(value, rel=1e-9, abs=within), name


def test_a_prediction_wrong_by_a_factor_is_perfect_once_aligned():
    target = torch.linspace(0.2, 0.6, 64).reshape(1, 1, 8, 8)
    half = target - math.log(2) / METRIC.log_range
    sums = DepthSums(METRIC)
    sums.update(half, target, torch.ones_like(target, dtype=torch.bool))
    result = sums.result()
    assert result["absrel"] == pytest.approx(0.5, abs=1e-5)
    assert result["silog"] == pytest.approx(0.0, abs=2e-4)
    assert result["aligned/absrel"] == pytest.approx(0.0, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    side=st.integers(1, 24),
    factor=st.floats(0.3, 3.0),
    spread=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 0.1]),
    noise=st.sampled_from([1e-6, 1e-4, 0.01]),
)
def test_roots_and_variances_of_the_smallest_errors_are_those_of_float64(
    seed, side, factor, spread, noise
):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.4, 0.6, (1, 1, side, side))
    logs = math.log(factor) + spread * rng.normal(size=truth.shape)
    known = torch.ones(truth.shape, dtype=torch.bool)
    sums = DepthSums(METRIC)
    sums.update(torch.from_numpy(truth + logs / METRIC.log_range), torch.from_numpy(truth), known)
    result = sums.result()
    within = np.clip(truth + logs / METRIC.log_range, 0, 1) - truth
    assert result["silog"] == pytest.approx(100 * (within * METRIC.log_range).std(), abs=2e-4)
    assert result["rmse_log"] == pytest.approx(
        math.sqrt(np.mean((within * METRIC.log_range) ** 2)), abs=2e-6
    )
    near = noise * rng.normal(size=truth.shape)
    sums = DepthSums(DepthFormat(kind="inverse"))
    sums.update(torch.from_numpy(truth + near), torch.from_numpy(truth), known)
    assert sums.result()["rmse"] == pytest.approx(math.sqrt(np.mean(near**2)), abs=2e-6)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("inverse", {"rmse", "mae", "aligned/rmse", "aligned/mae", "images"}),
        ("relative", {"rmse", "mae", "images"}),
    ],
)
def test_kinds_without_metres_have_only_the_metrics_defined_for_them(kind, names):
    prediction, target, valid, _ = random_batch(1)
    sums = DepthSums(DepthFormat(kind=kind))
    sums.update(prediction, target, valid)
    result = sums.result()
    assert set(result) == names
    error = (prediction.clamp(0, 1) - target)[valid].double()
    assert result["rmse"] == pytest.approx(float((error**2).mean().sqrt()), rel=1e-5)
    assert result["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)


def test_unknown_pixels_and_images_without_a_known_one_do_not_count():
    prediction, target, valid, foreground = random_batch(2)
    valid[2] = False
    spoiled = torch.where(valid, target, torch.nan)
    sums, expected = DepthSums(METRIC), DepthSums(METRIC)
    values = sums.update(prediction, spoiled, valid, foreground)
    expected.update(prediction[:2], target[:2], valid[:2], foreground[:2])
    assert torch.equal(sums.as_tensor(), expected.as_tensor())
    assert sums.result()["images"] == 2
    assert values["rmse_log"].isnan().tolist() == [False, False, True]


def test_a_network_that_says_nan_is_not_given_a_score():
    prediction, target, valid, _ = random_batch(4)
    sums = DepthSums(METRIC)
    sums.update(torch.full_like(prediction, torch.nan), target, valid)
    assert math.isnan(sums.result()["rmse_log"])
    assert math.isnan(sums.result()["absrel"])
