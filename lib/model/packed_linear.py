"""Products with weight matrices that stay: packed once for the CPU's own product kernels where PyTorch offers it.

oneDNN lays a weight matrix out for its kernels once, instead of at every product, and adds the bias, the
activation or the residual while the result is still in cache. float32 stays float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PACKABLE = (torch.float32, torch.bfloat16)


def can_pack(weight: Tensor) -> bool:
    """Whether this installation packs a matrix of this kind."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in PACKABLE
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class Linear:
    """y = x Wᵀ + b for W [n_out, n_in]; `n_rows` is the usual number of rows of x, packed for."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, n_rows: int = 1024) -> None:
        self.bias = bias
        self.packed = can_pack(weight)
        weight = weight.contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """The tanh form of GELU applied to the product."""
        if not self.packed:
            return F.gelu(self(x), approximate="tanh")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "tanh")

    def add(self, x: Tensor, resid: Tensor) -> Tensor:
        """resid plus the product."""
        if not self.packed:
            return resid + self(x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, resid, self.weight, self.bias, "add")
