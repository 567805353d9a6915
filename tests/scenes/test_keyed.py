"""Laws of keyed chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.scenes.keyed import Shuffle, generator, sample_key
from wdtrain.scenes.product import Product


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_a_shuffle_is_one_to_one(size: int, seed: int) -> None:
    image = Shuffle(size, "test", seed)(np.arange(size))
    assert np.array_equal(np.sort(image), np.arange(size))


@given(size=st.integers(1000, 2**62), seed=st.integers(0, 9))
def test_a_shuffle_of_any_size_stays_inside(size: int, seed: int) -> None:
    some = np.linspace(0, size - 1, 50).astype(np.int64).clip(0, size - 1)
    image = Shuffle(size, seed)(some)
    assert image.min() >= 0
    assert image.max() < size
    assert len(np.unique(image)) == len(np.unique(some))


def test_a_shuffle_depends_on_its_key() -> None:
    first, second = (Shuffle(1000, "test", seed)(np.arange(1000)) for seed in (0, 1))
    assert (first == second).mean() < 0.05


def test_keys_are_not_joined_parts() -> None:
    assert sample_key("a", "bc") != sample_key("ab", "c")
    assert sample_key(1) != sample_key("1")


def test_a_generator_is_a_pure_function_of_its_key() -> None:
    assert np.array_equal(generator("x", 1).random(5), generator("x", 1).random(5))
    assert not np.array_equal(generator("x", 1).random(5), generator("x", 2).random(5))


@given(
    backgrounds=st.integers(1, 6),
    cutouts=st.integers(1, 6),
    placements=st.integers(1, 4),
    share=st.floats(0, 1),
    sampled=st.booleans(),
)
def test_every_index_is_another_scene(
    backgrounds: int, cutouts: int, placements: int, share: float, sampled: bool
) -> None:
    whole = backgrounds * cutouts * 2 * placements
    count = max(1, round(share * whole)) if sampled else None
    product = Product(backgrounds=backgrounds, cutouts=cutouts, placements=placements, count=count)
    scenes = [product.scene(index) for index in range(len(product))]
    assert len(set(scenes)) == len(scenes) == (count or whole)
    numbers = product.parts(np.arange(len(product)))
    assert [(scene.background, scene.cutout) for scene in scenes] == list(
        zip(*numbers, strict=True)
    )


def test_a_product_refuses_more_than_it_has() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        Product(backgrounds=2, cutouts=2, placements=1, count=9)
    with pytest.raises(ValueError, match="cutouts is 0"):
        Product(backgrounds=2, cutouts=0, placements=1)


@pytest.mark.parametrize("index", [-1, 8])
def test_a_product_refuses_an_index_outside(index: int) -> None:
    product = Product(backgrounds=2, cutouts=2, placements=1)
    with pytest.raises(IndexError):
        product.scene(index)
    with pytest.raises(IndexError):
        product.parts(np.array([index]))
