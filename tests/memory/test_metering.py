from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.learn.cases import make_rows
from wdtrain.memory.metering import AUTOCAST, Casts, Meter
from wdtrain.networks import build


@pytest.mark.parametrize("name", ["seed-mask", "seed-unet"])
def test_casts_give_what_autocast_gives_bit_for_bit(name: str):
    net, picture = build(name).train(), make_rows(4)["overlay"].float()
    outputs = []
    for casts in (Casts(), torch.autocast("cpu", torch.bfloat16)):
        torch.manual_seed(0)
        net.zero_grad()
        with casts:
            output = net(picture)
        output.float().sum().backward()
        outputs.append([output.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outputs, strict=True))


def test_casts_know_every_operation_that_autocast_knows_on_a_gpu():
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    lists = {
        "AT_FORALL_LOWER_PRECISION_FP": "bfloat16",
        "AT_FORALL_FP32": "float32",
        "AT_FORALL_FP32_SET_OPT_DTYPE": "float32 result",
        "AT_FORALL_PROMOTE": "widest",
    }
    text = header.read_text()
    for macro, policy in lists.items():
        body = re.search(rf"#define {macro}\(_\)((?:.*\\\n)*.*)", text)
        names = set(re.findall(r"\b_\((\w+)", body[1]))
        assert len(names) > 5
        assert names <= set(AUTOCAST[policy].split())


@pytest.mark.parametrize(
    ("work", "dtype"),
    [
        (nn.functional.conv2d, torch.bfloat16),
        (lambda x, w: x @ x, torch.bfloat16),
        (lambda x, w: nn.functional.group_norm(x.bfloat16(), 2), torch.float32),
        (lambda x, w: nn.functional.interpolate(x.bfloat16(), scale_factor=2), torch.float32),
        (lambda x, w: x.bfloat16().softmax(1), torch.float32),
        (lambda x, w: x.bfloat16().sum(), torch.float32),
        (lambda x, w: x.bfloat16() ** 2, torch.float32),
        (lambda x, w: x.bfloat16().relu(), torch.bfloat16),
        (lambda x, w: x.double() @ x.double(), torch.float64),
        (lambda x, w: torch.atan2(x.bfloat16(), x), torch.float32),
    ],
)
def test_casts_follow_the_lists(work, dtype):
    with Casts():
        assert (
            work(torch.ones(2, 4, 4, 4, device="meta"), torch.ones(4, 4, 1, 1, device="meta")).dtype
            == dtype
        )


def test_a_storage_counts_until_the_last_tensor_on_it_has_gone():
    with Meter([]) as meter:
        first = torch.empty(1024, device="meta")
        second = first.detach()
        del first
        torch.empty(1024, device="meta")
        assert meter.peak_bytes == 2 * 4096
        del second
        torch.empty(2048, device="meta")
    assert meter.peak_bytes == 2 * 4096


def test_a_weight_is_cast_once_however_often_it_is_used():
    picture, weight = torch.ones(1, 3, 4, 4), torch.ones(3, 3, 1, 1, requires_grad=True)
    with Casts():
        twice = [nn.functional.conv2d(picture, weight) for _ in range(2)]
    first, second = (output.grad_fn._saved_weight for output in twice)
    assert first.data_ptr() == second.data_ptr()
