from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdtrain.learn.dropout import KeyedDropout
from wdtrain.learn.groups import Context


def dropout(p: float = 0.25, layer: str = "a", seed: bytes = b"seed", **options) -> KeyedDropout:
    return KeyedDropout(p, context=Context(seed=seed), layer=layer, **options)


def pattern(layer: KeyedDropout, groups=(4, 4), epochs=(0, 0), ids=(0, 4), dtype=torch.float64):
    layer.context.open(groups, epochs, ids)
    return layer(torch.ones(sum(groups), 3, 5, 7, dtype=dtype))


def test_the_mask_is_a_function_of_seed_epoch_group_and_layer():
    first = pattern(dropout())
    assert torch.equal(first, pattern(dropout()))
    for other in (
        pattern(dropout(seed=b"other")),
        pattern(dropout(), epochs=(1, 1)),
        pattern(dropout(), ids=(8, 12)),
        pattern(dropout(layer="b")),
    ):
        assert not torch.equal(first[:4], other[:4])
        assert not torch.equal(first[4:], other[4:])
    assert not torch.equal(first[:4], first[4:])


def test_the_mask_does_not_depend_on_the_micro_batch():
    together = pattern(dropout())
    apart = torch.cat((pattern(dropout(), (4,), (0,), (0,)), pattern(dropout(), (4,), (0,), (4,))))
    assert torch.equal(together, apart)


def test_the_mask_does_not_depend_on_layout_or_precision():
    layer = dropout()
    layer.context.open([4], [0], [0])
    x = torch.ones(4, 3, 6, 6)
    plain = layer(x)
    assert torch.equal(plain, layer(x.to(memory_format=torch.channels_last)))
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(plain > 0, layer(x.to(dtype)) > 0)


def test_draws_nothing_from_the_global_generator():
    state = torch.random.get_rng_state()
    pattern(dropout())
    assert torch.equal(state, torch.random.get_rng_state())


@settings(max_examples=15, deadline=None)
@given(p=st.floats(0.001, 0.95))
def test_drops_with_probability_p_and_keeps_the_mean(p):
    layer = dropout(p)
    layer.context.open([64], [0], [0])
    y = layer(torch.ones(64, 16, 16, 16, dtype=torch.float64))
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs((y == 0).double().mean() - p) < 5 * deviation + 1e-5
    assert abs(y.mean() - 1) < 6 * deviation / (1 - p) + 1e-4
    assert len(y.unique()) == 2


def test_gradient_passes_where_the_value_passed():
    layer = dropout(0.4)
    layer.context.open([8], [0], [0])
    x = torch.full((8, 3, 4, 4), 2.0, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 2)


def test_bfloat16_is_scaled_exactly_but_for_the_rounding_of_the_product():
    layer = dropout(0.05)  # 1 / 0.95 is 1.0526; the nearest bfloat16 is 1.0547
    layer.context.open([8], [0], [0])
    values = torch.linspace(-3, 3, 8 * 3 * 5 * 7).view(8, 3, 5, 7).bfloat16()
    x = values.clone().requires_grad_()
    y = layer(x)
    y.backward(values)
    scale = layer._threshold[1]
    expected = torch.where(y != 0, values.double() * scale, 0.0).bfloat16()
    assert abs(scale - 1 / 0.95) < 1e-5
    assert torch.equal(y, expected)
    assert torch.equal(x.grad, expected)


def test_channelwise_drops_whole_channels():
    layer = dropout(0.5, channelwise=True)
    layer.context.open([16], [0], [0])
    y = layer(torch.ones(16, 8, 4, 4)).flatten(2)
    assert torch.equal(y.amin(2), y.amax(2))
    assert 0 < (y[..., 0] == 0).float().mean() < 1


def test_is_the_identity_in_evaluation():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropout().eval()(x), x)


def test_keeps_channels_last_and_bfloat16():
    layer = dropout()
    layer.context.open([4], [0], [0])
    y = layer(torch.ones(4, 8, 6, 6).bfloat16().to(memory_format=torch.channels_last))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_refuses_a_probability_that_drops_everything():
    with pytest.raises(ValueError, match=r"layer 'a' is 1\.0"):
        dropout(1.0)
