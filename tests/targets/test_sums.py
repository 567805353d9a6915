"""Laws of the sums that all metrics are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wdtrain.fields import DepthFormat
from wdtrain.targets.depth import DepthSums
from wdtrain.targets.mask import MaskSums
from wdtrain.targets.sums import boundary_band, dilate, fixed, is_foreground


def random_mask(seed: int, size: int = 17) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, size, size + 3, generator=generator) > 0.85


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_dilation_takes_all_pixels_within_the_euclidean_radius(radius):
    mask = random_mask(radius)
    expected = torch.zeros_like(mask)
    for n, _, y, x in mask.nonzero().tolist():
        for v in range(mask.shape[2]):
            for u in range(mask.shape[3]):
                expected[n, 0, v, u] |= math.hypot(v - y, u - x) <= radius
    assert torch.equal(dilate(mask, radius), expected)


def test_the_boundary_band_holds_pixels_near_the_other_side_and_no_picture_edge():
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[..., :6] = True
    band = boundary_band(mask, 3)
    assert torch.equal(band[0, 0].any(0), torch.tensor([3 <= x < 9 for x in range(12)]))
    assert not boundary_band(torch.ones_like(mask), 3).any()
    assert not boundary_band(torch.zeros_like(mask), 3).any()


def test_foreground_is_alpha_from_128_and_probability_from_one_half():
    assert is_foreground(torch.tensor([127, 128], dtype=torch.uint8)).tolist() == [False, True]
    assert is_foreground(torch.tensor([0.49, 0.5])).tolist() == [False, True]
    assert is_foreground(torch.tensor([False, True])).tolist() == [False, True]


def test_fixed_values_have_the_same_sum_in_any_order():
    values = fixed(torch.from_numpy(np.random.default_rng(0).lognormal(size=10_000)), 20)
    forward = sum(values.tolist())
    assert forward == sum(reversed(values.tolist())) == float(values.sum())
    assert float((values - values.float()).abs().max()) < 1e-3


def test_sums_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="come from another kind of metric"):
        MaskSums().from_tensor(DepthSums(DepthFormat()).as_tensor())
