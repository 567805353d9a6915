"""BatchNorm over fixed groups of samples, whatever the micro-batch and the number of ranks.

`GroupedBatchNorm2d` is an `nn.BatchNorm2d`: same parameters, same state-dict names, same
evaluation. In a step it normalises each group by its own statistics and puts them aside in
`pending`; the step sums them over all groups of the whole batch and applies them once, at commit,
so that the buffers are equal on all ranks at all times. The surprise: the running variance is the
mean of the groups' unbiased variances, so it does not hold the spread of the means between groups
(nor does plain BatchNorm).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdtrain.learn.groups import Context


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm of [n, c, h, w] by groups of rows; plain BatchNorm where no step is open.

    pending: a flat [2c + 1] tensor that the step owns: sum of rows * mean, sum of rows * variance,
    rows. A group that has a single value a channel has no variance: it is normalised by the running
    statistics and leaves no trace in them.
    """

    context: Context
    layer: str
    pending: Tensor | None

    @classmethod
    def of(cls, plain: nn.BatchNorm2d, *, context: Context, layer: str) -> GroupedBatchNorm2d:
        """The same layer, grouped: it takes over the parameters and buffers of `plain`."""
        norm = cls(
            plain.num_features,
            eps=plain.eps,
            momentum=plain.momentum,
            affine=plain.affine,
            track_running_stats=plain.track_running_stats,
        )
        norm._parameters, norm._buffers = plain._parameters, plain._buffers
        norm.context, norm.layer, norm.pending = context, layer, None
        return norm.train(plain.training)

    @property
    def pending_size(self) -> int:
        return 2 * self.num_features + 1 if self.track_running_stats else 0

    def forward(self, x: Tensor) -> Tensor:
        groups = self.context.groups if self.training else None
        if groups is None:
            return super().forward(x)
        groups.check(len(x), self.layer)
        if len(groups.rows) == 1:
            return self._normalise(x)
        return torch.cat([self._normalise(part) for part in torch.split(x, list(groups.rows))])

    def _normalise(self, group: Tensor) -> Tensor:
        if group.numel() == self.num_features and self.running_mean is not None:
            return F.batch_norm(
                group, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean = var = None
        if self.running_mean is not None and self.pending is not None:
            mean, var = self.running_mean.new_zeros(2, self.num_features)
        # With momentum 1, batch_norm leaves the group's own mean and unbiased variance behind.
        y = F.batch_norm(
            group, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        if mean is not None and var is not None:
            self._put_aside(mean, var, len(group))
        return y

    @torch.no_grad()
    def _put_aside(self, mean: Tensor, var: Tensor, rows: int) -> None:
        pending, width = self.pending, self.num_features
        assert pending is not None
        pending[:width].add_(mean, alpha=rows)
        pending[width : 2 * width].add_(var, alpha=rows)
        pending[2 * width].add_(rows)

    @torch.no_grad()
    def commit(self) -> None:
        """Move the running statistics by one step towards what is pending (of all ranks)."""
        if self.running_mean is None or self.running_var is None or self.pending is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        width = self.num_features
        rows = self.pending[2 * width]
        momentum: float | Tensor = (
            1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        )
        share = (rows > 0) * momentum  # a layer that nothing went through keeps its statistics
        means, variances = self.pending[: 2 * width].div(rows.clamp(min=1)).view(2, width)
        self.running_mean.add_((means - self.running_mean) * share)
        self.running_var.add_((variances - self.running_var) * share)
