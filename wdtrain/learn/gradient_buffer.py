"""All that a step sums up before it is agreed on, in one flat tensor: one reduction for all tasks.

A task has a slice: the gradients of its live parameters (`parameter.grad` is a view of
it), the pending statistics of its BatchNorm layers, the sum of its losses and the number of samples
that have one. Zeroing the slice drops everything that a local pass did; nothing else remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wdtrain.learn.norm import GroupedBatchNorm2d

_OF_LOSSES = 2
"""Entries of a slice behind its statistics: the sum of the losses, the number of samples."""


class TaskGradients:
    """One task's slice of the buffer, with views into it."""

    def __init__(
        self, flat: Tensor, parameters: Sequence[nn.Parameter], network: nn.Module
    ) -> None:
        self.flat, self.network = flat, network
        self.parameters = list(parameters)
        self.norms = [m for m in network.modules() if isinstance(m, GroupedBatchNorm2d)]
        self.tracking = [norm for norm in self.norms if norm.pending_size]
        num_gradients = sum(parameter.numel() for parameter in self.parameters)
        self.gradients, rest = flat[:num_gradients], flat[num_gradients:]
        self.statistics, self.losses = rest[:-_OF_LOSSES], rest[-_OF_LOSSES:]
        sizes = [parameter.numel() for parameter in self.parameters]
        self._gradient_views = [
            view.as_strided(parameter.shape, parameter.stride())
            for view, parameter in zip(
                torch.split(self.gradients, sizes), self.parameters, strict=True
            )
        ]
        self._index_statistics()

    @staticmethod
    def size(parameters: Sequence[nn.Parameter], network: nn.Module) -> int:
        norms = (m for m in network.modules() if isinstance(m, GroupedBatchNorm2d))
        pending = sum(norm.pending_size for norm in norms)
        return sum(p.numel() for p in parameters) + pending + _OF_LOSSES

    @property
    def loss_sum(self) -> Tensor:
        return self.losses[0]

    @property
    def samples(self) -> Tensor:
        """How many samples the task can learn from: those with a valid pixel."""
        return self.losses[1]

    def add_losses(self, losses: Tensor, valid: Tensor) -> None:
        """The losses [n] of samples whose pixels are valid where `valid` [n, 1, h, w] is not 0."""
        learnable = valid.flatten(1).amax(1) > 0
        self.losses.add_(torch.stack([losses.sum(), learnable.sum()]))

    def open(self) -> None:
        """Forget what was gathered; gradients and pending statistics go into the slice again."""
        self.flat.zero_()
        for parameter in self.network.parameters():
            parameter.grad = None
        for parameter, view in zip(self.parameters, self._gradient_views, strict=True):
            parameter.grad = view
        pieces = torch.split(self.statistics, [norm.pending_size for norm in self.norms])
        for norm, piece in zip(self.norms, pieces, strict=True):
            norm.pending = piece if norm.pending_size else None

    @torch.no_grad()
    def commit_statistics(self, finite: Tensor) -> None:
        """Running statistics move one step towards what is pending (of all ranks), unless `finite`
        (bool, on the device) says no. A handful of operations however many layers there are."""
        if not self.tracking:
            return
        running = [buffer for norm in self.tracking for buffer in _running(norm)]
        counts = [norm.num_batches_tracked for norm in self.tracking]
        tracked = [count for count in counts if count is not None]
        torch._foreach_add_(tracked, finite.to(torch.int64))
        old, sums = torch.cat(running), self.statistics[self._moments]
        rows = self.statistics[self._rows]
        # A layer that nothing went through keeps its statistics.
        share = ((rows > 0) & finite) * torch.stack([_momentum(norm) for norm in self.tracking])
        means = torch.where(finite, sums / rows.clamp(min=1)[self._owner], old)
        new = old + (means - old) * share[self._owner]
        torch._foreach_copy_(running, torch.split(new, [len(buffer) for buffer in running]))

    def _index_statistics(self) -> None:
        """Where each layer's sums and its number of rows lie among the statistics."""
        widths = torch.tensor([norm.num_features for norm in self.tracking], dtype=torch.int64)
        sizes = 2 * widths + 1
        owner = torch.repeat_interleave(torch.arange(len(widths)), sizes)
        is_row = torch.zeros(int(sizes.sum()), dtype=torch.bool)
        is_row[sizes.cumsum(0) - 1] = True
        device = self.flat.device
        self._rows, self._moments = (
            is_row.nonzero()[:, 0].to(device),
            (~is_row).nonzero()[:, 0].to(device),
        )
        self._owner = owner[~is_row].to(device)


def _running(norm: GroupedBatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _momentum(norm: GroupedBatchNorm2d) -> Tensor:
    """Of plain BatchNorm: a number, or None for the mean over all batches."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    like = norm.running_mean
    if norm.momentum is None:
        return 1.0 / norm.num_batches_tracked.clamp(min=1).to(like.dtype)
    return torch.full((), norm.momentum, dtype=like.dtype, device=like.device)


class GradientBuffer:
    """The gradients of several tasks, one after the other in one flat tensor."""

    def __init__(self, tasks: Mapping[str, tuple[nn.Module, Sequence[nn.Parameter]]]) -> None:
        sizes = [TaskGradients.size(parameters, network) for network, parameters in tasks.values()]
        kinds = {(p.dtype, p.device) for _, ps in tasks.values() for p in ps}
        if len(kinds) != 1:
            raise ValueError(
                f"the tasks' parameters are of several kinds ({sorted(map(str, kinds))}); their "
                "gradients cannot be summed in one reduction; put all networks on one device, in "
                "one precision"
            )
        dtype, device = kinds.pop()
        self.flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
        self.task_gradients = {
            name: TaskGradients(piece, parameters, network)
            for (name, (network, parameters)), piece in zip(
                tasks.items(), torch.split(self.flat, sizes), strict=True
            )
        }
