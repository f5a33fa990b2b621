"""Mixed heads where one launch cannot mix them: the ReLU heads to a kernel, the others to PyTorch's softmax."""

import torch
import torch.nn.functional as F

from kernels import naive
from kernels.inputs import checked, output_like


def mixed_attention(relu_attention, q, k, v, is_relu, *, scale=None, n_visible=None, out=None):
    """z [B, H, T, d]: `relu_attention` in the heads where `is_relu` says so, softmax in the others. No gradients."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    z = output_like(q, out)
    n_visible = int(n_visible)
    chosen = torch.as_tensor(is_relu, dtype=torch.bool)
    for heads, is_relu_head in ((chosen.nonzero().flatten(), True), ((~chosen).nonzero().flatten(), False)):
        if len(heads) == 0:
            continue
        heads = heads.to(q.device)
        kv_heads = heads // (q.shape[1] // k.shape[1])
        inputs = q[:, heads], k[:, kv_heads, :n_visible], v[:, kv_heads, :n_visible]
        if is_relu_head:
            z[:, heads] = relu_attention(*inputs, scale=scale)
        elif q.shape[2] == n_visible:
            z[:, heads] = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=scale)
        else:
            mask = naive.visible(q.shape[2], n_visible, n_visible, q.device)
            z[:, heads] = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale)
    return z
