"""Laws of what is learned of classes: ids are never averaged, ignored pixels count nowhere."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.fields import ClassesField
from wdtrain.learn.augment import Augmentation, GridWarp
from wdtrain.targets import Truth, classes, target_of
from wdtrain.targets.classes import ClassCounts, ClassesSums, ClassesTarget

NAMES = ("wall", "floor", "sky", "box")


def ids_of(seed: int, count: int = 3, size: int = 9) -> tuple[torch.Tensor, ...]:
    """(prediction, truth, valid) in which the last class is rare, and one image has nothing."""
    rng = np.random.default_rng(seed)
    found, truth = rng.integers(0, 4, (2, count, 1, size, size))
    truth[truth == 3] *= rng.integers(0, 2, (truth == 3).sum())
    valid = rng.random((count, 1, size, size)) < 0.8
    valid[0] = False
    return torch.from_numpy(found).int(), torch.from_numpy(truth), torch.from_numpy(valid)


def reference(found: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    found, truth = found[valid], truth[valid]
    ious = {}
    for number, name in enumerate(NAMES):
        union = ((found == number) | (truth == number)).sum()
        if union:
            ious[f"iou/{name}"] = ((found == number) & (truth == number)).sum() / union
    accuracy = float((found == truth).mean()) if len(truth) else math.nan
    miou = float(np.mean(list(ious.values()))) if ious else math.nan
    return {"miou": miou, "pixel_accuracy": accuracy, **ious}


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_the_definitions(seed):
    found, truth, valid = ids_of(seed)
    sums = ClassesSums(NAMES)
    each = sums.update(found, truth, valid)
    expected = reference(found.numpy(), truth.numpy(), valid.numpy())
    assert sums.result() == pytest.approx({**expected, "images": 2.0}, abs=1e-12)
    for name in ("miou", "pixel_accuracy"):
        alone = [
            reference(*(part[i : i + 1].numpy() for part in (found, truth, valid)))[name]
            for i in range(3)
        ]
        assert each[name].tolist() == pytest.approx(alone, abs=1e-12, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_metrics_are_the_same_bits_over_any_partition(seed, ranks):
    parts = ids_of(seed)
    whole, several = ClassesSums(NAMES), [ClassesSums(NAMES) for _ in range(4)]
    whole.update(*parts)
    for row, rank in enumerate(ranks):
        several[rank].update(*(part[row : row + 1] for part in parts))
    total = ClassesSums(NAMES).from_tensor(torch.stack([s.as_tensor() for s in several]).sum(0))
    assert total.result() == whole.result()


def test_truth_without_a_pixel_is_nan_and_no_class():
    result = ClassesSums(NAMES).result()
    assert math.isnan(result.pop("miou"))
    assert math.isnan(result.pop("pixel_accuracy"))
    assert result == {"images": 0.0}


@pytest.mark.parametrize("ignore", [255, 0, 3])
def test_ignored_ids_and_ids_beyond_the_classes_are_not_valid(ignore):
    target = target_of(ClassesField("labels", classes=4, ignore=ignore))
    stored = torch.tensor([[[[0, 1, 2, 3, 4, 200, 255]]]], dtype=torch.uint8)
    truth = target.truth(stored)
    expected = [float(number < 4 and number != ignore) for number in stored.flatten().tolist()]
    assert truth.valid.flatten().tolist() == expected
    assert truth.wanted[truth.known].tolist() == [n for n in range(4) if n != ignore]
    assert int(truth.wanted.max()) < 4  # what is not valid is no index beyond the classes


def test_ids_of_sixteen_bits_are_read_as_they_are():
    target = target_of(ClassesField("labels", classes=1000))
    stored = torch.tensor([[[[0, 999, 1000, 65535]]]], dtype=torch.int32).to(torch.uint16)
    truth = target.truth(stored)
    assert truth.wanted[truth.known].tolist() == [0, 999]


# ---------------------------------------------------------------------------- through a warp


def picture_and_ids(height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture whose red is 255 times the share of a pixel left of slanted lines, and ids 0 to 4
    of the stripes between them, of the side that covers most of the pixel."""
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-0.3, 0.3)
    cuts = (np.arange(1, 5) / 5 + rng.uniform(-0.04, 0.04, 4)) * width
    fine_y, fine_x = (np.mgrid[: 9 * height, : 9 * width] + 0.5) / 9  # an odd number: no ties
    fine = (fine_x + slope * (fine_y - height / 2) > cuts[:, None, None]).sum(0)
    shares = np.stack([cv2.resize((fine == n).astype(np.float32), (width, height),
                                  interpolation=cv2.INTER_AREA) for n in range(5)])  # fmt: skip
    return torch.from_numpy(shares)[None], torch.from_numpy(shares.argmax(0).astype(np.uint8))


@pytest.mark.parametrize("size", [(40, 56), (57, 41)])
def test_classes_stay_aligned_with_the_picture_through_a_warp(size):
    """The border of stripes lies, row by row, where that of their shares does: within half a stored
    pixel and half a seen one, 0.5 px as a rule, on average within 0.02 px; and no id appears that
    is not there."""
    target = target_of(ClassesField("labels", classes=5))
    differences, warps = [], 48
    for seed in range(24):
        shares, ids = picture_and_ids(*size, seed)
        keys = [f"k{seed}-{number}" for number in range(warps)]
        drawn = Augmentation(seed=seed, rotation_deg=8.0).draw(keys, [0] * warps)
        warp = GridWarp(drawn, size, torch.device("cpu"))
        truth = target.warped(ids.expand(warps, 1, *size), warp)
        assert set(truth.wanted.unique().tolist()) <= set(ids.unique().tolist())
        left = warp.bilinear(shares.expand(warps, 5, *size)).cumsum(1)[:, :4]
        hard = (truth.wanted <= torch.arange(4).view(1, 4, 1, 1)).float()
        whole = warp.inside.bool().all(3).expand(warps, 4, -1)
        counts = (hard - left).sum(3)
        most = torch.from_numpy(0.5 * (1 + drawn.zoom) + 0.3)[:, None, None]
        assert (counts.abs() <= most)[whole].all()
        differences.append(counts[whole])
    signed = torch.cat(differences)
    assert abs(float(signed.mean())) <= 0.02
    assert float(signed.abs().mean()) <= 0.5


def test_what_comes_from_outside_the_picture_is_not_valid():
    target = target_of(ClassesField("labels", classes=5))
    drawn = Augmentation(seed=3, zoom=0.0, rotation_deg=40.0).draw(["a"], [0])
    warp = GridWarp(drawn, (24, 24), torch.device("cpu"))
    truth = target.warped(torch.ones((1, 1, 24, 24), dtype=torch.uint8), warp)
    assert torch.equal(truth.valid, warp.inside)
    assert 0 < truth.valid.mean() < 1


# ---------------------------------------------------------------------------- baseline


def counted(truth: Truth, *, parts: int = 1, classes: int = 4) -> ClassCounts:
    counts = ClassCounts(classes, *truth.wanted.shape[2:])
    for rows in torch.arange(len(truth.wanted)).chunk(parts):
        counts.update(torch.zeros(0), truth[rows[0] : rows[-1] + 1])
    return counts


def test_the_baseline_is_the_most_frequent_class_of_each_pixel():
    rng = np.random.default_rng(0)
    wanted = torch.from_numpy(rng.integers(0, 4, (9, 1, 5, 6)))
    valid = torch.from_numpy((rng.random((9, 1, 5, 6)) < 0.7).astype(np.float32))
    valid[:, :, 2, 3] = 0
    truth = Truth(wanted, valid)
    fitted = counted(truth).fit().predict(torch.zeros(2, 3, 5, 6))
    assert fitted.shape == (2, 1, 5, 6)
    overall = np.bincount(wanted[valid > 0].numpy(), minlength=4).argmax()
    for y, x in np.ndindex(5, 6):
        there = wanted[:, 0, y, x][valid[:, 0, y, x] > 0].numpy()
        expected = np.bincount(there, minlength=4).argmax() if len(there) else overall
        assert int(fitted[0, 0, y, x]) == int(fitted[1, 0, y, x]) == expected
    assert torch.equal(counted(truth, parts=4).fit().ids, fitted[0])


def test_a_baseline_that_would_be_too_large_counts_cells(monkeypatch):
    monkeypatch.setattr(classes, "MOST_COUNTS", 4 * 3 * 3)
    wanted = torch.zeros(3, 1, 5, 6, dtype=torch.int64)
    wanted[:, :, 4:, 4:] = 2
    counts = counted(Truth(wanted, torch.ones(wanted.shape)))
    assert counts.as_tensor().numel() <= 4 * 3 * 3
    assert torch.equal(counts.fit().ids, wanted[0].int())


def test_a_baseline_of_nothing_is_refused_by_the_fields_name():
    with pytest.raises(ValueError, match="labels of the first training samples is unknown"):
        target_of(ClassesField("labels", classes=4)).baseline((4, 4)).fit()


# ---------------------------------------------------------------------------- predictions


def test_a_prediction_is_resized_by_its_probabilities_and_then_settled():
    target = target_of(ClassesField("labels", classes=6))
    assert isinstance(target, ClassesTarget)
    soft = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert torch.equal(
        torch.from_numpy(target.resized(soft[0].numpy(), lambda one: one)), target.settle(soft)[0]
    )

    def double(one: np.ndarray) -> np.ndarray:
        return cv2.resize(one, (16, 16), interpolation=cv2.INTER_LINEAR)

    expected = np.stack([double(one) for one in soft[0].numpy()]).argmax(0)
    assert np.array_equal(target.resized(soft[0].numpy(), double)[0], expected)


@pytest.mark.parametrize(("count", "dtype"), [(6, np.uint8), (300, np.uint16)])
def test_the_file_of_a_prediction_holds_ids(count, dtype):
    target = target_of(ClassesField("labels", classes=count))
    ids = np.arange(12, dtype=np.int32).reshape(1, 3, 4) * (count // 12)
    read = cv2.imdecode(np.frombuffer(target.encode(ids), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype
    assert np.array_equal(read, ids[0])
