"""Blocked ReLU attention for CPUs in plain PyTorch: no compiler, and never a whole T x S matrix.

For each block of query rows: the scores of the keys it can see into one preallocated buffer, relu in place, the
diagonal columns cut by `tril_`, the row sums, the product with the values. The scale folds out, since
relu(c x) = c relu(x): it is applied to the row sums and to z.

Threads take whole heads (or strips of their blocks), and both products are batched ones on one thread, from packed
and equally aligned copies. So the bits of a head's z depend on its own q, k and v alone: not on the heads beside it,
the batch, the number of threads or the layout of the inputs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from threading import get_ident

import torch
from torch import Tensor

from kernels import by_head
from kernels.inputs import CLAMP, checked, output_like, without_gradients

ROWS = {torch.bfloat16: 256}  # query rows of a block, by type
DEFAULT_ROWS = 128
BUFFER_BYTES = 2**19  # scores of as many heads at once as this holds, so that they stay in the cache
THREADED_WORK = 2**24  # multiplications under which starting threads costs more than it saves
ALIGNMENT = 64  # bytes

Task = tuple[int, tuple[int, int], tuple[int, int]]  # batch, (first head, end head), (first row, end row)


def relu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`. No gradients.

    float16 is computed in float32, where relu(q kᵀ) cannot overflow.
    """
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("cpu", q, k, v)
    z = output_like(q, out)
    n_seen, n_threads = int(n_visible), torch.get_num_threads()
    if q.numel() * n_seen < THREADED_WORK:
        n_threads = 1
    tasks = iter(_tasks(q, n_seen, n_threads))

    def work() -> None:
        with torch.inference_mode():
            scratch = _Scratch(torch.float32 if q.dtype == torch.float16 else q.dtype)
            for task in tasks:
                _compute(q, k, v, z, scale, n_seen, task, scratch)

    with _one_thread_each():
        others = [_pool(n_threads - 1, os.getpid(), get_ident()).submit(work) for _ in range(n_threads - 1)]
        try:
            work()
        finally:
            wait(others)
        for other in others:
            other.result()
    return z


mixed_attention = by_head.mixed("cpu", relu_attention)


def _tasks(q: Tensor, n_keys: int, n_threads: int) -> list[Task]:
    """`(batch, (first head, end head), (first row, end row))`, longest first: enough of them for every thread.

    Heads of one task share each of its operations. Blocks of query rows are the same however they are dealt out.
    """
    n_batch, n_head, n_queries, _ = q.shape
    rows = ROWS.get(q.dtype, DEFAULT_ROWS)
    head_bytes = min(rows, n_queries) * n_keys * max(q.element_size(), 2)
    together = max(1, min(BUFFER_BYTES // head_bytes, -(-n_batch * n_head // n_threads)))
    groups = [(b, (h, min(h + together, n_head))) for b in range(n_batch) for h in range(0, n_head, together)]
    n_blocks = -(-n_queries // rows)
    n_strips = min(n_blocks, -(-n_threads // len(groups)))
    cuts = [n_blocks * i // n_strips * rows for i in range(n_strips)] + [n_queries]
    return [(*group, strip) for strip in reversed(list(pairwise(cuts))) for group in groups]


class _Scratch:
    """Buffers [heads, rows, columns] that are reused, each head at the same alignment."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.flat: dict[str, Tensor] = {}
        self.unit = ALIGNMENT // dtype.itemsize

    def take(self, name: str, n_heads: int, n_rows: int, n_columns: int) -> Tensor:
        step = -(-n_rows * n_columns // self.unit) * self.unit
        if name not in self.flat or self.flat[name].numel() < n_heads * step:
            self.flat[name] = torch.empty(n_heads * step, dtype=self.dtype)
        return self.flat[name].as_strided((n_heads, n_rows, n_columns), (step, n_columns, 1))

    def packed(self, name: str, matrices: Tensor) -> Tensor:
        """A copy of matrices [heads, rows, columns]."""
        return self.take(name, *matrices.shape).copy_(matrices)


def _compute(
    q: Tensor, k: Tensor, v: Tensor, z: Tensor, scale: float, n_visible: int, task: Task, scratch: _Scratch
) -> None:
    """Some rows of some heads of one batch entry; query row i sees keys 0 ... n_visible - T + i."""
    batch, (first_head, end_head), (first_row, end_row) = task
    rows, group, n_heads = ROWS.get(q.dtype, DEFAULT_ROWS), q.shape[1] // k.shape[1], end_head - first_head
    first_key, n_keys, d_head = n_visible - q.shape[2], n_visible - q.shape[2] + end_row, q.shape[3]
    heads = slice(first_head, end_head)
    kv_heads = heads if group == 1 else [head // group for head in range(first_head, end_head)]
    queries = scratch.packed("q", q[batch, heads, first_row:end_row])
    keys = scratch.packed("k", k[batch, kv_heads, :n_keys]).mT
    values = scratch.packed("v", v[batch, kv_heads, :n_keys])
    for start in range(first_row, end_row, rows):
        stop = min(start + rows, end_row)
        n_rows, n_keys = stop - start, first_key + stop
        w = scratch.take("w", n_heads, n_rows, n_keys)
        torch.bmm(queries[:, start - first_row : stop - first_row], keys[:, :, :n_keys], out=w)
        w.relu_()
        if n_rows > 1:
            w[:, :, first_key + start :].tril_()
        product = torch.bmm(w, values[:, :n_keys], out=scratch.take("z", n_heads, n_rows, d_head))
        torch.mul(product, _normaliser(w, scale), out=z[batch, heads, start:stop])


def _normaliser(w: Tensor, scale: float) -> Tensor:
    """scale / max(scale · row sum, 1e-8) of w [heads, rows, keys], summed in at least float32."""
    row_sum = w.sum(-1, keepdim=True, dtype=torch.promote_types(w.dtype, torch.float32))
    return scale / (scale * row_sum).clamp_(min=CLAMP)


@lru_cache(maxsize=16)
def _pool(n_threads: int, process_id: int, caller: int) -> ThreadPoolExecutor:
    """Threads that last: new ones would make the matrix library allocate its own buffers again at each call.

    A forked process inherits no threads, and two callers shall not wait for each other: hence a pool for each.
    """
    return ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """PyTorch's own operations on the thread that calls them, alone."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
