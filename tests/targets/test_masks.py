"""Laws of the mask metrics, against slow loops written from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.targets.mask import MaskSums, boundary_f


def random_batch(seed: int, count: int = 4, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """(probability, alpha) of blobs; the first pair is empty, the second predicts nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth = np.zeros((count, 1, size, size), np.uint8)
    found = rng.uniform(0, 0.49, truth.shape).astype(np.float32)
    for index in range(1, count):
        top, left = rng.uniform(2, size - 2, 2)
        truth[index, 0][(y - top) ** 2 + (x - left) ** 2 < 16] = rng.integers(128, 256)
        shift = (y - top - 1) ** 2 + (x - left - rng.integers(0, 3)) ** 2 < 14
        found[index, 0][shift & (index != 1)] = 0.5 + 0.5 * rng.random()
    return torch.from_numpy(found), torch.from_numpy(truth)


def contour(mask: np.ndarray) -> list[tuple[int, int]]:
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            if mask[y, x] and not all(mask[v, u] for v, u in inside):
                found.append((y, x))
    return found


def reference_boundary_f(found: np.ndarray, truth: np.ndarray) -> float:
    edge, edge_truth = contour(found), contour(truth)
    if not edge and not edge_truth:
        return 1.0
    if not edge or not edge_truth:
        return 0.0

    def share(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(a, b) <= 2 for b in those) for a in these) / len(these)

    precision, recall = share(edge, edge_truth), share(edge_truth, edge)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def reference(probability: torch.Tensor, alpha: torch.Tensor) -> dict[str, float]:
    per_image, pooled = [], np.zeros(3)
    for p, a in zip(probability[:, 0].double().numpy(), alpha[:, 0].numpy(), strict=True):
        found, truth = p >= 0.5, a >= 128
        inter = sum(f and t for f, t in zip(found.flat, truth.flat, strict=True))
        union = sum(f or t for f, t in zip(found.flat, truth.flat, strict=True))
        either = int(found.sum()) + int(truth.sum())
        pooled += [inter, union, either]
        per_image.append(
            {
                "iou": inter / union if union else 1.0,
                "dice": 2 * inter / either if either else 1.0,
                "boundary_f": reference_boundary_f(found, truth),
                "mae": float(
                    np.mean([abs(u - v) for u, v in zip(p.flat, truth.flat, strict=True)])
                ),
            }
        )
    means = {name: float(np.mean([image[name] for image in per_image])) for name in per_image[0]}
    return {
        **means,
        "iou_pooled": pooled[0] / pooled[1] if pooled[1] else 1.0,
        "dice_pooled": 2 * pooled[0] / pooled[2] if pooled[2] else 1.0,
        "images": float(len(per_image)),
    }


@pytest.mark.parametrize("seed", range(5))
def test_mask_metrics_are_those_of_the_definitions(seed):
    probability, alpha = random_batch(seed)
    sums = MaskSums()
    per_image = sums.update(probability, alpha)
    expected = reference(probability, alpha)
    assert sums.result() == pytest.approx(expected, abs=2e-6)
    for name, values in per_image.items():
        alone = [reference(probability[i : i + 1], alpha[i : i + 1])[name] for i in range(4)]
        assert values.tolist() == pytest.approx(alone, abs=2e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_mask_metrics_are_the_same_bits_over_any_partition(seed, ranks):
    probability, alpha = random_batch(seed, count=6)
    whole = MaskSums()
    whole.update(probability, alpha)
    parts = [MaskSums() for _ in range(6)]
    for row, rank in reversed(list(enumerate(ranks))):
        parts[rank].update(probability[row : row + 1], alpha[row : row + 1])
    reduced = MaskSums().from_tensor(torch.stack([p.as_tensor() for p in parts]).sum(0))
    assert torch.equal(reduced.as_tensor(), whole.as_tensor())
    assert reduced.result() == whole.result()


def test_a_mask_empty_in_truth_and_prediction_counts_one():
    empty = torch.zeros(1, 1, 8, 8)
    sums = MaskSums()
    sums.update(empty, empty.to(torch.uint8))
    result = sums.result()
    assert [result[name] for name in ("iou", "dice", "boundary_f", "iou_pooled")] == [1.0] * 4


def test_pixels_that_are_not_valid_and_images_without_any_do_not_count():
    probability, alpha = random_batch(3)
    valid = torch.ones_like(alpha, dtype=torch.bool)
    cut = int(alpha[2, 0].nonzero()[:, 1].float().mean())  # through the middle of a mask
    valid[2, :, :, cut:] = False
    valid[3] = False
    spoiled = torch.where(valid, probability, torch.nan)
    sums, cropped = MaskSums(), MaskSums()
    values = sums.update(spoiled, alpha, valid)
    cropped.update(probability[:2], alpha[:2])
    cropped.update(probability[2:3, :, :, :cut], alpha[2:3, :, :, :cut])
    names = ("iou", "dice", "boundary_f", "iou_pooled", "mae", "images")
    assert [sums.result()[n] for n in names] == [cropped.result()[n] for n in names]
    assert values["iou"].isnan().tolist() == [False, False, False, True]


def test_where_masks_stop_being_known_is_no_contour():
    truth, found = (torch.zeros(1, 1, 12, 12, dtype=torch.bool) for _ in range(2))
    truth[..., :4, :] = True
    found[:] = True
    known = torch.ones_like(truth)
    known[..., 6:] = False
    cropped = boundary_f(found[..., :6], truth[..., :6])
    assert (
        cropped == boundary_f(found, truth, known) == boundary_f(found & known, truth, known) == 0
    )
    assert boundary_f(truth, truth & known, known) == 1


def test_boundary_f_falls_to_zero_beyond_its_tolerance():
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    mask[..., 10:, :] = True
    values = [float(boundary_f(torch.roll(mask, shift, 2) & mask, mask)) for shift in (0, 2, 3)]
    assert values == [1.0, 1.0, 0.0]


def test_no_image_gives_nan_and_not_a_perfect_score():
    result = MaskSums().result()
    assert math.isnan(result["iou"])
    assert math.isnan(result["iou_pooled"])
    assert result["images"] == 0
