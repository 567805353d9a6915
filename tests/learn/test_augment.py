from __future__ import annotations

from dataclasses import replace

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.cases import DEPTH, NORMALISATION, target
from wdtrain.fields import DepthField, DepthFormat
from wdtrain.learn.augment import Augmentation, Drawn, GridWarp, affine
from wdtrain.learn.inputs import Normalisation, TrainingInput, unit_picture
from wdtrain.targets.depth import DepthTarget, zoomed

OFF = {"zoom": 0.0, "rotation_deg": 0.0, "crop": 0.0, "flip": 0.0, "colour": 0.0}
AS_IT_IS = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CPU = torch.device("cpu")


def pictures(n: int, height: int = 24, width: int = 32, seed: int = 0):
    """Overlay, mask and depth of noise, the depth with unknown pixels."""
    rng = np.random.default_rng(seed)
    overlay = rng.integers(0, 256, (n, 3, height, width), np.uint8)
    mask = rng.integers(0, 256, (n, 1, height, width), np.uint8)
    depth = rng.integers(0, 256, (n, 1, height, width), np.uint8)
    return torch.from_numpy(overlay), torch.from_numpy(mask), torch.from_numpy(depth)


def drawn(n: int = 1, **changes) -> Drawn:
    """Nothing moved, but for `changes`."""
    still = Drawn(np.ones(n), np.zeros(n), np.zeros((n, 2)), np.zeros(n, bool), np.ones((n, 3)))
    return replace(still, **{name: np.array(value) for name, value in changes.items()})


def augmented(augmentation, overlay, stored, name, *, keys, epochs, normalisation=AS_IT_IS):
    seen = augmentation.see(overlay, keys=keys, epochs=epochs, normalisation=normalisation)
    return TrainingInput.of(seen.picture, seen.truth(stored, target(name)))


def mask_target(stored):
    return target("mask").truth(stored).wanted


def mask_of(warp, stored):
    """(wanted, valid)"""
    truth = target("mask").warped(stored, warp)
    return truth.wanted, truth.valid


def depth_of(warp, stored, fmt):
    truth = DepthTarget(DepthField("depth", format=fmt)).warped(stored, warp)
    return truth.wanted, truth.valid


keys = st.lists(st.text(st.characters(codec="ascii"), max_size=8), min_size=1, max_size=8)


@settings(deadline=None)
@given(keys=keys, epoch=st.integers(0, 1000), seed=st.integers(0, 2**40))
def test_what_is_drawn_is_a_function_of_seed_epoch_and_key_alone(keys, epoch, seed):
    augmentation = Augmentation(seed=seed)
    together = augmentation.draw(keys, [epoch] * len(keys))
    for index, key in enumerate(keys):
        alone = augmentation.draw([key], [epoch])
        assert together.zoom[index] == alone.zoom[0]
        assert (together.shift[index] == alone.shift[0]).all()
        assert (together.gains[index] == alone.gains[0]).all()
    for other in (
        augmentation.draw(keys, [epoch + 1] * len(keys)),
        Augmentation(seed=seed + 1).draw(keys, [epoch] * len(keys)),
        augmentation.draw([key + "x" for key in keys], [epoch] * len(keys)),
    ):
        assert (other.zoom != together.zoom).all()


def test_what_is_drawn_covers_its_limits_evenly():
    count = 20_000
    drawn = Augmentation(seed=1).draw([str(index) for index in range(count)], [0] * count)
    for values, low, high in (
        (drawn.zoom, 1.0, 1.5),
        (drawn.angle_deg, -5.0, 5.0),
        (drawn.shift, -1.0, 1.0),
        (drawn.gains, 0.8, 1.2),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.01 * (high - low)
    assert abs(drawn.flipped.mean() - 0.5) < 0.02


def test_a_sample_is_augmented_alike_whatever_stands_beside_it():
    overlay, mask, depth = pictures(6)
    augmentation, names = Augmentation(seed=2), list("abcdef")
    for name, stored in (("mask", mask), ("depth", depth)):
        together = augmented(augmentation, overlay, stored, name, keys=names, epochs=[1] * 6)
        for index in range(6):
            rows = slice(index, index + 1)
            alone = augmented(
                augmentation, overlay[rows], stored[rows], name, keys=names[rows], epochs=[1]
            )
            assert torch.equal(alone.picture, together.picture[rows])
            assert torch.equal(alone.target, together.target[rows])
            assert torch.equal(alone.valid, together.valid[rows])


def test_with_everything_off_it_is_the_plain_path():
    overlay, mask, depth = pictures(3)
    for name, stored in (("mask", mask), ("depth", depth)):
        result = augmented(
            Augmentation(seed=0, **OFF), overlay, stored, name, keys="abc", epochs=[0] * 3
        )
        expected = target(name).truth(stored)
        assert torch.equal(result.picture, unit_picture(overlay))
        assert torch.equal(result.target, expected.wanted)
        assert torch.equal(result.valid, expected.valid)


def test_an_affine_that_moves_nothing_returns_the_picture():
    overlay, mask, depth = pictures(1, 23, 37)
    warp = GridWarp(drawn(), (23, 37), CPU)
    torch.testing.assert_close(warp.bilinear(unit_picture(overlay)), unit_picture(overlay))
    truth, valid = mask_of(warp, mask)
    assert torch.equal(truth, mask_target(mask))
    assert valid.all()
    unit, known = depth_of(warp, depth, DEPTH)
    assert torch.equal(known, (depth > 0).float())
    torch.testing.assert_close(unit * known, DEPTH.to_unit(depth.float()) * known)


@settings(deadline=None, max_examples=30)
@given(
    zoom=st.floats(1, 1.5),
    angle=st.floats(-180, 180),
    flipped=st.booleans(),
    size=st.tuples(st.integers(16, 40), st.integers(16, 40)),
)
def test_directions_turn_as_the_picture_does(zoom, angle, flipped, size):
    """`turn` is what the affine does to a short step, without its zoom."""
    values = drawn(zoom=[zoom], angle_deg=[angle], flipped=[flipped])
    back = affine(values, *size)[0, :, :2]  # of normalised coordinates, from seen to stored
    half = torch.tensor([size[1] / 2, size[0] / 2], dtype=torch.float64)
    in_pixels = half[:, None] * back / half
    turn = GridWarp(values, size, CPU).turn[0].double()
    torch.testing.assert_close(turn, torch.linalg.inv(in_pixels) / zoom, atol=1e-6, rtol=0)


def test_a_flip_mirrors_overlay_mask_and_depth_together():
    overlay, mask, depth = pictures(1)
    warp = GridWarp(drawn(flipped=[True]), overlay.shape[2:], CPU)
    torch.testing.assert_close(
        warp.bilinear(unit_picture(overlay)), unit_picture(overlay.flip(3)), atol=1e-5, rtol=0
    )
    assert torch.equal(mask_of(warp, mask)[0], mask_target(mask.flip(3)))
    assert torch.equal(depth_of(warp, depth, DEPTH)[1], (depth.flip(3) > 0).float())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_overlay_and_mask_are_those_of_kornias_container(seed):
    overlay, mask, _ = pictures(4, seed=seed)
    names, height, width = list("abcd"), *overlay.shape[2:]
    augmentation = Augmentation(seed=seed, rotation_deg=30)
    values = augmentation.draw(names, [0] * 4)
    warp = GridWarp(values, (height, width), CPU)
    room = (values.zoom - 1)[:, None] * np.array([width / 2, height / 2])
    mirror = np.where(values.flipped, -1.0, 1.0)
    parameters = {
        "translations": values.shift * room,
        "center": np.tile([(width - 1) / 2, (height - 1) / 2], (4, 1)),
        "scale": np.stack((values.zoom * mirror, values.zoom), 1),
        "angle": values.angle_deg,
        "shear_x": np.zeros(4),
        "shear_y": np.zeros(4),
    }
    affine = K.RandomAffine(0.0, padding_mode="border", align_corners=False, p=1.0)
    container = K.AugmentationSequential(affine, data_keys=["input", "mask"])
    container(unit_picture(overlay), mask_target(mask))
    recorded = container._params
    for name, value in parameters.items():
        recorded[0].data[name] = torch.from_numpy(value).float()
    picture, truth = container(unit_picture(overlay), mask_target(mask), params=recorded)
    torch.testing.assert_close(warp.bilinear(unit_picture(overlay)), picture, atol=1e-4, rtol=0)
    assert (mask_of(warp, mask)[0] != truth).float().mean() < 0.002  # ties of the nearest pixel


def test_corners_from_outside_the_picture_are_not_trained_on():
    overlay, mask, depth = pictures(1, 32, 32)
    warp = GridWarp(drawn(angle_deg=[5.0]), (32, 32), CPU)
    outside = warp.inside[0, 0] == 0
    assert outside[0, 0] or outside[0, -1]
    assert 0.01 < outside.float().mean() < 0.08
    assert torch.equal(mask_of(warp, mask)[1], warp.inside)
    assert not (depth_of(warp, depth, DEPTH)[1].bool() & (warp.inside == 0)).any()
    zeros = unit_picture(torch.zeros_like(overlay))
    reached = F_read_zero_padded(warp, torch.ones_like(zeros[:, :1]))
    assert (reached[warp.inside == 1] >= 0.25 - 1e-5).all()
    assert (reached[warp.inside == 0] < 1).all()


def F_read_zero_padded(warp: GridWarp, ones: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.grid_sample(ones, warp.grid, align_corners=False)


@settings(deadline=None, max_examples=25)
@given(zoom=st.floats(1, 1.5), x=st.floats(-1, 1), y=st.floats(-1, 1))
def test_a_crop_without_rotation_lies_inside_the_magnified_picture(zoom, x, y):
    warp = GridWarp(drawn(zoom=[zoom], shift=[[x, y]]), (20, 28), CPU)
    assert warp.grid.abs().max() <= 1 + 1e-5


def test_a_mask_stays_hard():
    _, mask, _ = pictures(8)
    augmentation = Augmentation(seed=3)
    values = augmentation.draw(list("abcdefgh"), [0] * 8)
    truth, _ = mask_of(GridWarp(values, mask.shape[2:], CPU), mask)
    assert set(truth.unique().tolist()) == {0.0, 1.0}


def test_unknown_depth_is_not_trained_on():
    depth = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    depth[..., ::3] = 0
    values = drawn(zoom=[1.3], shift=[[0.3, 0.7]], angle_deg=[3.0])
    fmt = DepthFormat(kind="relative")
    warp = GridWarp(values, (8, 8), CPU)
    unit, valid = depth_of(warp, depth, fmt)
    assert 0 < valid.mean() < 1
    torch.testing.assert_close(unit[valid == 1], torch.full_like(unit[valid == 1], 99 / 254))
    known = mask_of(warp, (depth > 0).to(torch.uint8) * 255)[0]  # by the nearest pixel
    assert torch.equal(valid, warp.inside * known)


@settings(deadline=None, max_examples=40)
@given(
    near=st.floats(0.6, 19),
    far=st.floats(0.6, 19),
    bits=st.sampled_from([8, 16]),
    kind=st.sampled_from(["metric", "inverse"]),
    sizes=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    seed=st.integers(0, 2**20),
)
def test_depth_is_that_of_one_of_two_surfaces_and_its_outline_is_the_masks(
    near, far, bits, kind, sizes, seed
):
    fmt = DepthFormat(kind=kind, bits=bits)
    y, x = np.mgrid[: sizes[0], : sizes[1]]
    figure = (x - sizes[1] / 2) ** 2 + (y - sizes[0] / 2) ** 2 < 12
    metres = np.where(figure, near, far)
    codes = fmt.encode(metres if kind == "metric" else 0.6 / metres)
    depth = torch.from_numpy(codes)[None, None].repeat(4, 1, 1, 1)
    mask = torch.from_numpy(figure * np.uint8(255))[None, None].repeat(4, 1, 1, 1)
    augmentation, names = Augmentation(seed=seed, rotation_deg=20.0), list("abcd")
    values = augmentation.draw(names, [0] * 4)
    warp = GridWarp(values, sizes, CPU)
    unit, valid = depth_of(warp, depth, fmt)
    is_figure, inside = mask_of(warp, mask)
    assert torch.equal(valid, inside)
    of_figure, of_wall = (
        zoomed(fmt.to_unit(depth.float())[:, :, where][:, :, :1, None], warp.log_zoom, fmt)
        for where in (figure, ~figure)
    )
    expected = torch.where(is_figure > 0, of_figure, of_wall)
    torch.testing.assert_close(unit[valid > 0], expected[valid > 0], rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(zoom=st.floats(1, 1.5), metres=st.floats(1.0, 15.0))
def test_a_zoom_divides_metric_depth_and_multiplies_inverse_depth(zoom, metres):
    log_zoom = torch.tensor([np.log(zoom)])
    unit = torch.full((1, 1, 1, 1), np.log(metres / DEPTH.near_m) / DEPTH.log_range)
    after = DEPTH.near_m * torch.exp(zoomed(unit, log_zoom, DEPTH) * DEPTH.log_range)
    assert abs(after.item() - metres / zoom) < 1e-3
    inverse = zoomed(torch.full((1, 1, 1, 1), 0.5), log_zoom, DepthFormat(kind="inverse"))
    assert abs(inverse.item() - 0.5 * zoom) < 1e-5
    relative = zoomed(torch.full((1, 1, 1, 1), 0.5), log_zoom, DepthFormat(kind="relative"))
    assert relative.item() == 0.5


def test_the_zoom_of_the_picture_is_the_zoom_of_its_depth():
    depth = torch.full((1, 1, 16, 16), 128, dtype=torch.uint8)
    overlay = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    augmentation = Augmentation(seed=4, rotation_deg=0.0)
    zoom = augmentation.draw(["a"], [2]).zoom[0]
    result = augmented(augmentation, overlay, depth, "depth", keys=["a"], epochs=[2])
    expected = 127 / 254 - np.log(zoom) / DEPTH.log_range
    torch.testing.assert_close(result.target, torch.full_like(result.target, expected))


def test_depth_at_the_limits_of_its_format_stays_there():
    unit = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert zoomed(unit, torch.tensor([0.4, 0.4]), DEPTH).flatten().tolist() == [1.0, 0.0]


def test_sixteen_bit_depth_is_read_as_it_is():
    codes = torch.tensor([0, 1, 65535], dtype=torch.int32).to(torch.uint16).view(1, 1, 1, 3)
    fmt = DepthFormat(bits=16)
    result = DepthTarget(DepthField("depth", format=fmt)).truth(codes)
    assert result.wanted.flatten().tolist() == [0, 0, 1]
    assert result.valid.flatten().tolist() == [0, 1, 1]


def test_colour_multiplies_channels_of_the_overlay_alone_and_is_clipped():
    overlay, mask, _ = pictures(2)
    augmentation = Augmentation(seed=9, **(OFF | {"colour": 0.2}))
    gains = torch.from_numpy(augmentation.draw("ab", [0, 0]).gains).float()[:, :, None, None]
    result = augmented(augmentation, overlay, mask, "mask", keys="ab", epochs=[0, 0])
    torch.testing.assert_close(result.picture, (unit_picture(overlay) * gains).clamp(0, 1))
    assert torch.equal(result.target, mask_target(mask))


def test_normalisation_comes_last():
    overlay, mask, _ = pictures(2)
    augmentation, kwargs = Augmentation(seed=9), {"keys": "ab", "epochs": [0, 0]}
    raw = augmented(augmentation, overlay, mask, "mask", **kwargs).picture
    normal = augmented(
        augmentation, overlay, mask, "mask", normalisation=NORMALISATION, **kwargs
    ).picture
    mean, std = (torch.tensor(v)[:, None, None] for v in (NORMALISATION.mean, NORMALISATION.std))
    torch.testing.assert_close(normal, (raw - mean) / std)
    assert normal.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "value"), [("zoom", -0.1), ("flip", 1.5), ("crop", 2)])
def test_refuses_amounts_outside_their_limits(name, value):
    with pytest.raises(ValueError, match=rf"augmentation\.{name} is"):
        Augmentation(seed=0, **{name: value})


def test_refuses_a_normalisation_that_divides_by_zero():
    with pytest.raises(ValueError, match="three positive standard deviations"):
        Normalisation((0.5, 0.5, 0.5), (0.2, 0.0, 0.2))
