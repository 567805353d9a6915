"""Laws of the baselines: no linear threshold found by search beats the one that is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wdtrain.targets import Truth
from wdtrain.targets.colour_threshold import ColourHistogram
from wdtrain.targets.depth import MeanDepth
from wdtrain.targets.mask import MaskSums


def coloured(seed: int, weights: tuple[float, float, float], noise: float = 30.0):
    """(overlay, mask): foreground where a noisy linear function of the colour is large."""
    generator = torch.Generator().manual_seed(seed)
    overlay = torch.randint(0, 256, (8, 3, 24, 24), generator=generator, dtype=torch.uint8)
    value = (overlay.double() * torch.tensor(weights).view(1, 3, 1, 1)).sum(1, keepdim=True)
    value += noise * torch.randn(value.shape, generator=generator)
    return overlay, (value > value.quantile(0.8)).to(torch.uint8) * 255


def known(mask: torch.Tensor) -> Truth:
    return Truth((mask >= 128).float(), torch.ones(mask.shape))


def pooled_iou(found: torch.Tensor, mask: torch.Tensor) -> float:
    sums = MaskSums()
    sums.update(found, mask)
    return sums.result()["iou_pooled"]


@pytest.mark.parametrize("weights", [(1.0, 0, 0), (0, -1.0, 0.5), (-0.4, -0.4, 0.7)])
def test_no_threshold_of_random_directions_beats_the_fitted_one(weights):
    overlay, mask = coloured(1, weights)
    histogram = ColourHistogram()
    histogram.update(overlay, known(mask))
    fitted = histogram.fit()
    rng = np.random.default_rng(0)
    for direction in [np.array(weights), *rng.normal(size=(20, 3))]:
        value = (overlay.double() * torch.from_numpy(direction).view(1, 3, 1, 1)).sum(1, True)
        for quantile in np.linspace(0, 0.98, 20):
            found = (value >= value.quantile(quantile)).float()
            assert pooled_iou(found, mask) <= fitted.iou + 0.005


def test_its_iou_is_what_its_prediction_scores_on_the_training_pixels():
    overlay, mask = coloured(2, (0.3, 0.3, -0.5))
    histogram = ColourHistogram()
    histogram.update(overlay, known(mask))
    fitted = histogram.fit()
    assert pooled_iou(fitted.predict(overlay), mask) == pytest.approx(fitted.iou, abs=1e-12)
    assert fitted.predict(overlay).shape == (8, 1, 24, 24)


def test_calling_everything_foreground_is_among_the_thresholds():
    overlay = torch.randint(
        0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    mask = torch.full((2, 1, 16, 16), 255, dtype=torch.uint8)
    histogram = ColourHistogram()
    histogram.update(overlay, known(mask))
    fitted = histogram.fit()
    assert fitted.iou == 1.0
    assert fitted.predict(overlay).all()


def test_the_threshold_does_not_depend_on_batches_or_ranks():
    overlay, mask = coloured(3, (0.5, -0.2, 0.1))
    whole, first, second = ColourHistogram(), ColourHistogram(), ColourHistogram()
    whole.update(overlay, known(mask))
    for row in (3, 1, 0):
        first.update(overlay[row : row + 1], known(mask[row : row + 1]))
    second.update(overlay[4:], known(mask[4:]))
    second.update(overlay[2:3], known(mask[2:3]))
    assert first.merge(second).fit() == whole.fit()


def test_a_threshold_without_a_training_pixel_is_refused():
    with pytest.raises(ValueError, match="no training pixel"):
        ColourHistogram().fit()


def test_pixels_that_are_not_known_fit_no_threshold():
    overlay, mask = coloured(2, (0.3, 0.3, -0.5))
    valid = torch.ones(mask.shape)
    valid[:, :, :, 12:] = 0
    half, cropped = ColourHistogram(), ColourHistogram()
    half.update(overlay, Truth((mask >= 128).float(), valid))
    cropped.update(overlay[..., :12], known(mask[..., :12]))
    assert half.fit() == cropped.fit()


def test_the_mean_picture_is_the_mean_of_the_known_pixels():
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(6, 1, 4, 5, generator=generator)
    valid = torch.rand(6, 1, 4, 5, generator=generator) > 0.3
    valid[:, :, 0, 0] = False
    whole, first, second = MeanDepth(4, 5), MeanDepth(4, 5), MeanDepth(4, 5)
    truth = Truth(unit, valid.float())
    whole.update(unit, truth)
    first.update(unit, truth[4:])
    second.update(unit, truth[:4])
    picture = whole.picture()
    for y, x in np.ndindex(4, 5):
        there = unit[:, 0, y, x][valid[:, 0, y, x]]
        expected = there.mean() if len(there) else unit[valid].mean()
        assert float(picture[0, y, x]) == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(first.merge(second).picture(), picture)
