"""BatchNorm over fixed groups of samples, whatever the micro-batch and the number of ranks.

`GroupedBatchNorm2d` is an `nn.BatchNorm2d`: same parameters, same state-dict names, same
evaluation. In a step it normalises each group by its own statistics and keeps them in
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
        if torch.compiler.is_compiling():
            return self._normalise_traced(x, groups.rows)
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
            self._keep_statistics(mean, var, len(group))
        return y

    def _normalise_traced(self, x: Tensor, rows: tuple[int, ...]) -> Tensor:
        """The same for a compiler: groups of one size together, in operations that it can fuse with
        what stands around them, however many groups there are."""
        parts, first, start = [], 0, 0
        while first < len(rows):
            last = first + 1
            while last < len(rows) and rows[last] == rows[first]:
                last += 1
            count, size = last - first, rows[first]
            piece = x[start : start + count * size]
            groups = piece.view(count, size, *x.shape[1:])
            parts.append(self._normalise_equal(groups).flatten(0, 1))
            first, start = last, start + count * size
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _normalise_equal(self, groups: Tensor) -> Tensor:
        """[count, rows, c, h, w] -> the same, each of the groups normalised by itself."""
        values = groups[:, :, 0].numel() // len(groups)
        wide = groups.float() if groups.dtype in (torch.bfloat16, torch.float16) else groups
        if values == 1 and self.running_mean is not None:
            mean, var = (
                one.view(1, 1, -1, 1, 1)
                for one in (self.running_mean, self.running_var)
                if one is not None
            )
        else:
            var, mean = torch.var_mean(wide, dim=(1, 3, 4), correction=0, keepdim=True)
            self._keep_statistics_traced(mean, var * (values / max(values - 1, 1)), groups.shape[1])
        y = (wide - mean) * torch.rsqrt(var + self.eps)
        if self.weight is not None:
            y = y * self.weight.view(1, 1, -1, 1, 1) + self.bias.view(1, 1, -1, 1, 1)
        return y.to(groups.dtype)

    @torch.no_grad()
    def _keep_statistics_traced(self, means: Tensor, variances: Tensor, rows: int) -> None:
        if self.running_mean is None or self.pending is None:
            return
        count = torch.full((1,), float(rows * len(means)), device=means.device)
        sums = (
            means.detach().flatten(1).sum(0) * rows,
            variances.detach().flatten(1).sum(0) * rows,
        )
        self.pending.add_(torch.cat((*sums, count.to(means.dtype))).to(self.pending.dtype))

    @torch.no_grad()
    def _keep_statistics(self, mean: Tensor, var: Tensor, rows: int) -> None:
        pending, width = self.pending, self.num_features
        assert pending is not None
        pending[:width].add_(mean, alpha=rows)
        pending[width : 2 * width].add_(var, alpha=rows)
        pending[2 * width].add_(rows)
