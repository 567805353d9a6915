"""All that a step sums up before it is agreed on, in one flat tensor: one reduction for all tasks.

A task's account is a slice: the gradients of its live parameters (`parameter.grad` is a view of
it), the pending statistics of its BatchNorm layers, and the sum of its losses. Zeroing the slice
drops everything that a local pass did; nothing else remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wdtrain.learn.norm import GroupedBatchNorm2d


class Account:
    """One task's slice of the ledger, with views into it."""

    def __init__(
        self, flat: Tensor, parameters: Sequence[nn.Parameter], network: nn.Module
    ) -> None:
        self.flat, self.network = flat, network
        self.parameters = list(parameters)
        self.norms = [m for m in network.modules() if isinstance(m, GroupedBatchNorm2d)]
        num_gradients = sum(parameter.numel() for parameter in self.parameters)
        self.gradients, rest = flat[:num_gradients], flat[num_gradients:]
        self.statistics, self.loss_sum = rest[:-1], rest[-1:]
        sizes = [parameter.numel() for parameter in self.parameters]
        self._gradient_views = [
            view.as_strided(parameter.shape, parameter.stride())
            for view, parameter in zip(
                torch.split(self.gradients, sizes), self.parameters, strict=True
            )
        ]

    @staticmethod
    def size(parameters: Sequence[nn.Parameter], network: nn.Module) -> int:
        norms = (m for m in network.modules() if isinstance(m, GroupedBatchNorm2d))
        return sum(p.numel() for p in parameters) + sum(n.pending_size for n in norms) + 1

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

    def commit_statistics(self) -> None:
        for norm in self.norms:
            norm.commit()


class Ledger:
    """The accounts of several tasks, one after the other in one flat tensor."""

    def __init__(self, tasks: Mapping[str, tuple[nn.Module, Sequence[nn.Parameter]]]) -> None:
        sizes = [Account.size(parameters, network) for network, parameters in tasks.values()]
        kinds = {(p.dtype, p.device) for _, ps in tasks.values() for p in ps}
        if len(kinds) != 1:
            raise ValueError(
                f"the tasks' parameters are of several kinds ({sorted(map(str, kinds))}); their "
                "gradients cannot be summed in one reduction; put all networks on one device, in "
                "one precision"
            )
        dtype, device = kinds.pop()
        self.flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
        self.accounts = {
            name: Account(piece, parameters, network)
            for (name, (network, parameters)), piece in zip(
                tasks.items(), torch.split(self.flat, sizes), strict=True
            )
        }
