"""A pass without data: what it would allocate, and how autocast would cast it.

On the meta device tensors have shapes and no data. `Meter` follows every storage from its birth to
its end, so what autograd keeps is counted because it is alive; memory that a kernel takes for
itself is not seen. `Casts` stands for autocast, which does nothing there (pytorch/pytorch#130067).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

META_DEVICE = torch.device("meta")
_ALLOCATOR_BYTES = 512


def allocated(size_bytes: int) -> int:
    """What the CUDA caching allocator hands out for so many bytes: multiples of 512."""
    return -(-size_bytes // _ALLOCATOR_BYTES) * _ALLOCATOR_BYTES


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that is made on a device while it is open.

    resident: tensors that were there before; peak_bytes: of what was alive at once; sizes: numbers
    of elements of the tensors that were made.
    """

    def __init__(self, resident: Iterable[Tensor], device: torch.device = META_DEVICE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.peak_bytes = self._live_bytes = 0
        self.sizes: set[int] = set()
        self._resident = {tensor.untyped_storage()._cdata for tensor in resident}
        self._alive: dict[int, object] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device.type:
                self._follow(tensor)
        return made

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size_bytes = storage._cdata, allocated(storage.nbytes())
        if key in self._alive or key in self._resident:
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._end(key, size_bytes))
        self.sizes.add(tensor.numel())
        self._live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def _end(self, key: int, size_bytes: int) -> None:
        del self._alive[key]
        self._live_bytes -= size_bytes


AUTOCAST = {
    "bfloat16": """
        _convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d
        conv_transpose3d convolution prelu addmm addmv addr matmul rmatmul einsum mm mv
        linalg_vecdot vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
        _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
        _scaled_dot_product_flash_attention scaled_dot_product_attention
        multi_head_attention_forward""",
    "float32": """
        acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus
        layer_norm native_layer_norm rms_norm group_norm frobenius_norm nuclear_norm
        cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d
        hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss
        multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
        binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d
        _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
        _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa
        upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa interpolate upsample""",
    "float32 result": """
        prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm norm sum""",
    "widest": """
        addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler grid_sample index_put tensordot
        scatter_add""",
}
"""What CUDA's autocast does to which operations: PyTorch's own lists (ATen/autocast_mode.h), and
the Python functions through which a network calls them."""
_POLICY = {name: policy for policy, names in AUTOCAST.items() for name in names.split()}


class Casts(TorchFunctionMode):
    """CUDA's autocast to bfloat16, for tensors of any device.

    Casts of weights are kept until it is left, as autocast keeps them. It sees what a network
    calls, not what such a function calls in its turn: so attention is cast as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        policy = _POLICY.get(name[2:-2] if name.startswith("__") else name)
        given = (args, dict(kwargs or {}))
        if policy == "bfloat16":
            given = tree_map(self._lower, given)
        elif policy == "float32 result" and _may_be_cast(args[0]):
            given[1].setdefault("dtype", torch.float32)
        elif policy == "float32" or (policy == "widest" and _has_float32(given)):
            given = tree_map(_to(torch.float32), given)
        return func(*given[0], **given[1])

    def _lower(self, value: Any) -> Any:
        if not (_may_be_cast(value) and value.is_leaf and value.requires_grad):
            return _to(torch.bfloat16)(value)
        if id(value) not in self._kept:
            self._kept[id(value)] = value.to(torch.bfloat16)
        return self._kept[id(value)]


def _may_be_cast(value: Any) -> bool:
    """Autocast touches floating-point tensors, float64 excepted."""
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return floating and value.dtype != torch.float64


def _has_float32(given: Any) -> bool:
    return any(_may_be_cast(value) and value.dtype == torch.float32 for value in tree_iter(given))


def _to(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda value: value.to(dtype) if _may_be_cast(value) else value
