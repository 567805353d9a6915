"""Laws of the playground's figures."""

from __future__ import annotations

import numpy as np

from wdtrain.scenes.difficulty import Difficulty
from wdtrain.scenes.figures import FIGURE_KINDS, build_figure

FIGURES = [build_figure(5, number, 64, Difficulty.of(0.3)) for number in range(30)]


def test_a_figure_reaches_from_its_first_row_to_its_last() -> None:
    for figure in FIGURES:
        alpha = figure.cover[..., 0]
        assert alpha[:2].max() > 0.3
        assert alpha[-2:].max() > 0.3


def test_every_kind_of_figure_is_drawn() -> None:
    assert {figure.kind for figure in FIGURES} == set(FIGURE_KINDS)


def test_light_is_premultiplied() -> None:
    for figure in FIGURES:
        alpha = figure.cover[..., 0]
        assert (figure.light[alpha == 0] == 0).all()
        assert np.isclose(figure.light.sum(), alpha.sum(), rtol=1e-3)


def test_a_figure_stands_out_but_less_than_it_is_tall() -> None:
    for figure in FIGURES:
        assert figure.cover[..., 1].min() >= 0
        assert 0.02 < figure.cover[..., 1].max() < 0.6


def test_a_mirrored_figure_is_the_mirror_image() -> None:
    for plain, mirrored in zip(
        FIGURES[0].sized(30, flip=False), FIGURES[0].sized(30, flip=True), strict=True
    ):
        assert np.array_equal(plain[:, ::-1], mirrored)
        assert plain.shape[0] == 30
