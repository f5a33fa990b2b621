"""Mixed heads where one launch cannot mix them: the ReLU heads to a kernel, the others to PyTorch's softmax."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import naive
from kernels.inputs import checked, output_like, without_gradients


def mixed(backend: str, relu_attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The `mixed_attention` of a backend: its `relu_attention` in the ReLU heads, PyTorch's softmax in the others."""

    def mixed_attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        is_relu: Sequence[bool] | Tensor,
        *,
        scale: float | None = None,
        n_visible: int | Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """z [B, H, T, d]: ReLU in the heads where `is_relu` (one bool per query head) says so. No gradients."""
        without_gradients(backend, q, k, v)
        scale, n_visible = checked(q, k, v, scale, n_visible)
        z = output_like(q, out)
        n_seen = int(n_visible)
        chosen = torch.as_tensor(is_relu, dtype=torch.bool)
        for heads, is_relu_head in ((chosen.nonzero().flatten(), True), ((~chosen).nonzero().flatten(), False)):
            if len(heads) == 0:
                continue
            heads = heads.to(q.device)
            kv_heads = heads // (q.shape[1] // k.shape[1])
            inputs = q[:, heads], k[:, kv_heads, :n_seen], v[:, kv_heads, :n_seen]
            if is_relu_head:
                z[:, heads] = relu_attention(*inputs, scale=scale)
            elif q.shape[2] == n_seen:
                z[:, heads] = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=scale)
            else:
                mask = naive.visible(q.shape[2], n_seen, n_seen, q.device)
                z[:, heads] = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale)
        return z

    return mixed_attention
