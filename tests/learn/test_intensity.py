"""Laws of changes to colours: drawn by group on the host, the same however a batch is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.learn.cases import (
    NORMALISATION,
    depth_task,
    make_rows,
    make_view,
    mask_task,
    one_step,
    run_ranks,
    share_of_rank,
    target,
)
from wdtrain.config import IntensitySettings
from wdtrain.learn.augment import Augmentation
from wdtrain.learn.intensity import (
    GroupRows,
    Intensity,
    build_intensities,
    change_intensities,
    known_names,
)
from wdtrain.learn.task import TaskSet
from wdtrain.learn.view import View

SEVERAL = [
    {"name": "RandomGaussianBlur", "p": 0.5, "kernel_size": [3, 3], "sigma": [0.3, 1.5]},
    {"name": "ColorJiggle", "p": 0.7, "brightness": 0.3, "hue": 0.1},
    {"name": "RandomGaussianNoise", "p": 0.5, "std": 0.1},
]
STILL = {"zoom": 0.0, "rotation_deg": 0.0, "crop": 0.0, "flip": 0.0, "colour": 0.0}


def built(*settings: dict) -> tuple[Intensity, ...]:
    return build_intensities([IntensitySettings.model_validate(one) for one in settings])


def noise(rows: int) -> torch.Tensor:
    return torch.rand(rows, 3, 24, 32, generator=torch.Generator().manual_seed(2))


def test_every_colour_change_of_kornia_that_can_be_made_gives_the_same_for_the_same_key():
    needs = {"sigma": (0.3, 1.0), "kernel_size": 3, "angle": 30.0, "direction": 0.4}
    made = set()
    for name in known_names():
        for options in (
            {}, {k: needs[k] for k in ("kernel_size", "sigma")},
            {k: needs[k] for k in ("kernel_size", "angle", "direction")},
            {"brightness": 0.2}, {"drop_height": (4, 5)},
        ):  # fmt: skip
            try:
                (change,) = built({"name": name, "p": 0.5, **options})
            except ValueError:
                continue
            made.add(name)
            first, again = (change(noise(4), b"sixteen bytes :)") for _ in range(2))
            assert torch.equal(first, again), name
            break
    left_out = {"RandomDissolving"}  # needs a package that is not here
    assert made >= set(known_names()) - left_out


def test_what_is_drawn_is_a_function_of_seed_epoch_group_and_place_in_the_list():
    (jiggle,) = built({"name": "RandomGaussianNoise", "p": 1.0, "std": 0.2})
    pictures, group = noise(4), GroupRows(4, 2, 128)

    def changed(*changes: Intensity, seed: int = 1, group: GroupRows = group) -> torch.Tensor:
        return change_intensities(changes, pictures, [group], seed=seed)

    whole = changed(jiggle)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert torch.equal(changed(jiggle), whole)
    assert torch.equal(torch.random.get_rng_state(), state)
    others = [
        changed(jiggle, seed=2),
        changed(jiggle, group=GroupRows(4, 3, 128)),
        changed(jiggle, group=GroupRows(4, 2, 160)),
    ]
    assert not any(torch.equal(other, whole) for other in others)
    twice = changed(jiggle, jiggle) - whole
    assert float((twice - (whole - pictures)).abs().max()) > 0.01  # not the same noise again
    assert 0 <= whole.min() < whole.max() <= 1


def test_groups_are_changed_alike_wherever_they_stand():
    changes, pictures = built(*SEVERAL), noise(10)
    groups = [GroupRows(4, 0, 0), GroupRows(4, 0, 4), GroupRows(2, 1, 8)]
    together = change_intensities(changes, pictures, groups, seed=3)
    start = 0
    for group in groups:
        rows = slice(start, start + group.rows)
        alone = change_intensities(changes, pictures[rows], [group], seed=3)
        assert torch.equal(alone, together[rows])
        start += group.rows
    assert not torch.equal(together, pictures)


def view(*settings: dict) -> View:
    augmentation = Augmentation(seed=5, image=built(*settings))
    return replace(make_view(), augmentation=augmentation)


def test_they_come_after_the_warp_and_before_normalisation_and_leave_truth_alone():
    plain, noisy = make_view(), view({"name": "RandomInvert", "p": 1.0})
    rows = make_rows(8)
    arrived = (rows["overlay"], rows["mask"])
    one, other = (each.prepare("overlay", target("mask"), arrived, rows) for each in (plain, noisy))
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (NORMALISATION.mean, NORMALISATION.std)
    )
    unit, inverted = (each.picture * std + mean for each in (one, other))
    torch.testing.assert_close(inverted, 1 - unit, atol=1e-6, rtol=0)
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.valid, other.valid)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [4, 8, 24])
def test_the_gradient_is_the_same_for_any_micro_batch_and_any_ranks(micro_batch, world):
    def tasks_of(micro_batch: int) -> TaskSet:
        return TaskSet([mask_task(micro_batch=micro_batch), depth_task(micro_batch=micro_batch)])

    def gradient(tasks: TaskSet, collective=None) -> torch.Tensor:
        rows, how = make_rows(24), {} if collective is None else {"collective": collective}
        if collective is not None:
            rows = share_of_rank(rows, collective.rank, collective.world)
        one_step(tasks, rows, view=view(*SEVERAL), **how)
        return tasks.gradient_buffer.flat.clone()

    whole = gradient(tasks_of(24))
    # Built before, since initial weights come from the global generator, which threads share.
    ranks = [tasks_of(micro_batch) for _ in range(world)]
    for flat in run_ranks(world, lambda one: gradient(ranks[one.rank], one)):
        torch.testing.assert_close(flat, whole, rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------- of one's own


def darken(pictures, generator, *, most=0.5):
    share = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return pictures * (1 - most * share.to(pictures.device))


def by_chance(pictures, generator):
    return pictures * torch.rand(())


def smaller(pictures, generator):
    return pictures[..., ::2, ::2]


def test_one_of_your_own_is_given_a_generator_of_the_group():
    (change,) = built({"name": f"{__name__}:darken", "most": 0.9})
    pictures, groups = torch.ones(6, 3, 4, 4), [GroupRows(3, 0, 0), GroupRows(3, 0, 3)]
    seen = change_intensities([change], pictures, groups, seed=1)
    assert torch.equal(seen, change_intensities([change], pictures, groups, seed=1))
    assert len(seen[:, 0, 0, 0].unique()) == 6
    assert seen.min() >= 0.1 - 1e-6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "RandomAffine", "degrees": 10}, r"image\[0\]: RandomAffine does more than"),
        ({"name": "RandomHorizontalFlip"}, "does more than change the colours"),
        ({"name": "RandomMixUpV2"}, "does more than change the colours"),
        ({"name": "RandomCutMixV2"}, "does more than change the colours"),
        ({"name": "Normalize", "mean": 0, "std": 1}, "does more than change the colours"),
        ({"name": "RandomGausianBlur"}, "did you mean RandomGaussianBlur"),
        ({"name": "RandomHue", "probability": 1}, "cannot be made with .*it takes hue"),
        ({"name": f"{__name__}:by_chance"}, "draws chance of its own"),
        ({"name": f"{__name__}:smaller"}, "gives .* for pictures"),
        ({"name": f"{__name__}:darken", "least": 1}, "cannot be made with"),
        ({"name": f"{__name__}:nothing"}, "cannot be imported"),
    ],
)
def test_what_moves_mixes_or_draws_otherwise_is_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        built(settings)
