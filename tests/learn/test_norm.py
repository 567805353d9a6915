from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.learn.cases import commit
from wdtrain.learn.groups import Context
from wdtrain.learn.norm import GroupedBatchNorm2d


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grouped(channels: int, **options) -> GroupedBatchNorm2d:
    plain = nn.BatchNorm2d(channels, **options).double()
    norm = GroupedBatchNorm2d.of(plain, context=Context(), layer="norm")
    norm.pending = torch.zeros(norm.pending_size, dtype=torch.float64)
    return norm


def test_each_group_is_normalised_as_plain_batchnorm_would():
    norm, plain = grouped(3), nn.BatchNorm2d(3).double()
    x = noise(9, 3, 4, 4)
    norm.context.open([4, 4, 1], [0, 0, 0], [0, 4, 8])
    expected = torch.cat([plain(part) for part in x.split([4, 4, 1])])
    assert torch.equal(norm(x), expected)


def test_parameters_and_names_are_those_of_plain_batchnorm():
    plain = nn.BatchNorm2d(3)
    names, parameters = list(plain.state_dict()), list(plain.parameters())
    norm = GroupedBatchNorm2d.of(plain, context=Context(), layer="")
    assert isinstance(norm, nn.BatchNorm2d)
    assert list(norm.state_dict()) == names
    assert all(a is b for a, b in zip(norm.parameters(), parameters, strict=True))


def test_without_a_step_it_is_plain_batchnorm():
    norm, plain = grouped(3), nn.BatchNorm2d(3).double()
    x = noise(4, 3, 5, 5)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_buffers_move_at_commit_alone_and_by_the_mean_weighted_by_rows():
    norm = grouped(2, momentum=0.25)
    x = noise(5, 2, 4, 4)
    norm.context.open([4, 1], [0, 0], [0, 4])
    norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(2, dtype=torch.float64))
    commit(norm)
    means = [part.mean((0, 2, 3)) for part in x.split([4, 1])]
    variances = [part.transpose(0, 1).flatten(1).var(1) for part in x.split([4, 1])]
    expected_mean = 0.25 * (4 * means[0] + means[1]) / 5
    expected_var = 0.75 + 0.25 * (4 * variances[0] + variances[1]) / 5
    torch.testing.assert_close(norm.running_mean, expected_mean)
    torch.testing.assert_close(norm.running_var, expected_var)
    assert norm.num_batches_tracked == 1


def test_statistics_do_not_depend_on_how_groups_are_put_into_micro_batches():
    x, buffers = noise(12, 2, 3, 3), []
    for split in ([4, 4, 4], [8, 4], [12]):
        norm = grouped(2)
        for part in x.split(split):
            rows = len(part) // 4
            norm.context.open([4] * rows, [0] * rows, range(rows))
            norm(part)
        commit(norm)
        buffers.append(torch.cat((norm.running_mean, norm.running_var)))
    for other in buffers[1:]:
        torch.testing.assert_close(other, buffers[0], rtol=0, atol=1e-14)


def test_momentum_none_averages_over_all_steps():
    norm = grouped(1, momentum=None)
    seen = []
    for seed in (1, 2, 3):
        x = noise(4, 1, 3, 3, seed=seed)
        norm.pending.zero_()
        norm.context.open([4], [0], [0])
        norm(x)
        commit(norm)
        seen.append(x.mean())
    torch.testing.assert_close(norm.running_mean[0], torch.stack(seen).mean())


def test_a_layer_that_saw_nothing_keeps_its_statistics():
    norm = grouped(2)
    before = norm.running_var.clone()
    commit(norm)
    assert torch.equal(norm.running_var, before)


def test_a_group_of_one_value_a_channel_uses_the_running_statistics_and_leaves_no_trace():
    norm = grouped(2)
    norm.running_mean.fill_(3.0)
    norm.context.open([1], [0], [0])
    x = noise(1, 2, 1, 1)
    torch.testing.assert_close(norm(x), (x - 3.0) / (1 + norm.eps) ** 0.5)
    assert not norm.pending.any()


def test_refuses_rows_that_were_not_announced():
    norm = grouped(2)
    norm.context.open([4], [0], [0])
    with pytest.raises(ValueError, match="'norm' was given 6 rows where the step announced 4"):
        norm(noise(6, 2, 2, 2))


def test_keeps_channels_last_and_bfloat16():
    norm = GroupedBatchNorm2d.of(nn.BatchNorm2d(4), context=Context(), layer="")
    norm.pending = torch.zeros(norm.pending_size)
    norm.context.open([2, 2], [0, 0], [0, 2])
    x = noise(4, 4, 6, 6).bfloat16().to(memory_format=torch.channels_last)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
