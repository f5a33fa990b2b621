"""Blocked ReLU attention for CPUs in plain PyTorch: no compiler, and never a whole T x S matrix.

For each block of query rows: the scores of the keys it can see into one preallocated buffer, relu in place, the
diagonal columns cut by `tril_`, the row sums, the product with the values. The scale folds out, since
relu(c x) = c relu(x): it is applied to the row sums and to z.

One task is one head (or a strip of its blocks) on one thread, on packed copies of its inputs. So the bits of a
head's z depend on its own q, k and v alone: not on the heads beside it, the batch, the number of threads or the
layout of the inputs.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from kernels import naive
from kernels.inputs import CLAMP, checked, output_like, without_gradients

ROWS = {torch.bfloat16: 256}  # query rows of a block, by type
DEFAULT_ROWS = 128
THREADED_WORK = 2**24  # multiplications under which starting threads costs more than it saves


def relu_attention(q, k, v, *, scale=None, n_visible=None, out=None):
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`. No gradients.

    float16 is computed in float32, where relu(q kᵀ) cannot overflow.
    """
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("cpu", q, k, v)
    z = output_like(q, out)
    n_visible = int(n_visible)
    if q.shape[2] == 1:
        with _one_thread():
            _decode(q, k, v, z, scale, n_visible)
        return z
    strips = _strips(q.shape[0] * q.shape[1], q.shape[2], n_visible, q.shape[3], q.dtype)
    tasks = [(b, h, strip) for strip in reversed(strips) for b in range(q.shape[0]) for h in range(q.shape[1])]
    group = q.shape[1] // k.shape[1]
    inference = torch.is_inference_mode_enabled()

    def run(task):
        b, h, strip = task
        with torch.inference_mode(inference), torch.no_grad():
            _head(q[b, h], k[b, h // group, :n_visible], v[b, h // group, :n_visible], z[b, h], scale, strip)

    n_threads = torch.get_num_threads()
    if n_threads == 1 or q.shape[0] * q.shape[1] * q.shape[2] * n_visible * q.shape[3] < THREADED_WORK:
        with _one_thread():
            for task in tasks:
                run(task)
        return z
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(run, tasks))
    finally:
        torch.set_num_threads(n_threads)
    return z


def mixed_attention(q, k, v, is_relu, *, scale=None, n_visible=None, out=None):
    """ReLU in the heads where `is_relu` (one bool per query head) says so, PyTorch's softmax in the others."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("cpu", q, k, v)
    z = output_like(q, out)
    n_visible = int(n_visible)
    chosen = torch.as_tensor(is_relu, dtype=torch.bool)
    kv_head = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    keys, values = k[:, :, :n_visible], v[:, :, :n_visible]
    for heads, mode in ((chosen.nonzero().flatten(), "relu"), ((~chosen).nonzero().flatten(), "softmax")):
        if len(heads) == 0:
            continue
        inputs = q[:, heads], keys[:, kv_head[heads]], values[:, kv_head[heads]]
        if mode == "relu":
            z[:, heads] = relu_attention(*inputs, scale=scale)
        elif q.shape[2] == n_visible:
            z[:, heads] = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=scale)
        else:
            mask = naive.visible(q.shape[2], n_visible, n_visible)
            z[:, heads] = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale)
    return z


def _strips(n_heads, n_queries, n_keys, d_head, dtype):
    """Cut the query blocks into as many strips `(first row, end row, rows of a block)` as keep all threads busy."""
    rows = ROWS.get(dtype, DEFAULT_ROWS)
    n_blocks = -(-n_queries // rows)
    n_strips = min(n_blocks, -(-torch.get_num_threads() // n_heads))
    cuts = [n_blocks * i // n_strips * rows for i in range(n_strips)] + [n_queries]
    return [(start, stop, rows) for start, stop in zip(cuts, cuts[1:])]


def _packed(x, dtype):
    """A contiguous copy of x in memory of its own, so that its alignment is always the same."""
    return torch.empty(x.shape, dtype=dtype).copy_(x)


def _head(q, k, v, z, scale, strip):
    """Rows `strip` of one head: q and z [T, d], k and v [S, d]; query row i sees keys 0 ... S - T + i."""
    first_row, end_row, rows = strip
    dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
    q, first_key, d_head = _packed(q[first_row:end_row], dtype), k.shape[0] - q.shape[0], q.shape[1]
    n_keys = first_key + end_row
    keys, values = _packed(k[:n_keys], dtype).T, _packed(v[:n_keys], dtype)
    buffer = torch.empty(min(rows, end_row - first_row) * n_keys, dtype=dtype)
    product = torch.empty(min(rows, end_row - first_row), d_head, dtype=dtype)
    for start in range(first_row, end_row, rows):
        stop = min(start + rows, end_row)
        n_rows, n_keys = stop - start, first_key + stop
        w = buffer[: n_rows * n_keys].view(n_rows, n_keys)
        torch.mm(q[start - first_row : stop - first_row], keys[:, :n_keys], out=w)
        w.relu_()
        w[:, first_key + start :].tril_()
        torch.mm(w, values[:n_keys], out=product[:n_rows])
        torch.mul(product[:n_rows], _normaliser(w, scale), out=z[start:stop])


def _decode(q, k, v, z, scale, n_visible):
    """One query per row of the batch: no mask, and little enough work for one thread."""
    n_batch, n_head, _, d_head = q.shape
    dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
    queries, keys, values = (_packed(x, dtype).flatten(0, 1) for x in (q, k[:, :, :n_visible], v[:, :, :n_visible]))
    group = n_head // k.shape[1]
    w = torch.empty(n_batch * n_head, 1, n_visible, dtype=dtype)
    product = torch.empty(n_batch * n_head, 1, d_head, dtype=dtype)
    keys, values = keys.mT.unbind(), values.unbind()
    with torch.no_grad():
        for i, (query, row) in enumerate(zip(queries.unbind(), w.unbind())):
            torch.mm(query, keys[i // group], out=row)
        w.relu_()
        for i, (row, result) in enumerate(zip(w.unbind(), product.unbind())):
            torch.mm(row, values[i // group], out=result)
        z.copy_((product * _normaliser(w, scale)).view(z.shape))


def _normaliser(w, scale):
    """scale / max(scale · row sum, 1e-8) of w [..., rows, keys], summed in at least float32."""
    row_sum = w.sum(-1, keepdim=True, dtype=torch.promote_types(w.dtype, torch.float32))
    return scale / (scale * row_sum).clamp_(min=CLAMP)


@contextmanager
def _one_thread():
    """PyTorch's own operations on the calling thread alone."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
