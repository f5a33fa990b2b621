"""Blocked ReLU attention for CPUs in plain PyTorch: no compiler, no T x S matrix per head.

For each block of query rows: scores of the keys it can see into one buffer, relu in place, the diagonal
columns cut by `tril_`, the row sums, and the product with the values. Every head goes through the same calls
whichever heads are computed beside it, so its result does not depend on them.
"""

import torch
import torch.nn.functional as F

from kernels.inputs import CLAMP, checked, output_like, without_gradients

BLOCK = 128


def relu_attention(q, k, v, *, scale=None, n_visible=None, out=None):
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`. No gradients."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("cpu", q, k, v)
    z = output_like(q, out)
    n_batch, n_head, n_queries, _ = q.shape
    group = n_head // k.shape[1]
    first = int(n_visible) - n_queries
    buffer = torch.empty(min(BLOCK, n_queries) * int(n_visible), dtype=q.dtype)
    with torch.no_grad():
        for b in range(n_batch):
            for h in range(n_head):
                _head(q[b, h], k[b, h // group].T, v[b, h // group], z[b, h], scale, first, buffer)
    return z


def _head(q, keys, values, z, scale, first, buffer):
    """One head: query row i sees keys 0 ... first + i."""
    for start in range(0, q.shape[0], BLOCK):
        stop = min(start + BLOCK, q.shape[0])
        n_keys = first + stop
        w = buffer[: (stop - start) * n_keys].view(stop - start, n_keys)
        torch.mm(q[start:stop], keys[:, :n_keys], out=w)
        w.relu_()
        w[:, first + start:].tril_()
        row_sum = w.sum(-1, keepdim=True, dtype=torch.promote_types(q.dtype, torch.float32)) * scale
        torch.mm(w, values[:n_keys], out=z[start:stop])
        z[start:stop] *= scale / row_sum.clamp(min=CLAMP)
