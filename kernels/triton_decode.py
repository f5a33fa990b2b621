"""The decoding step in Triton: a few query rows against a long cache, split over its keys.

ReLU's partial results just add up, so `combine` is one sum and one division; a softmax part also carries its
maximum. Arithmetic is in float32 throughout: the step is bound by reading the cache.
"""

import triton
import triton.language as tl

from kernels.triton_forward import CLAMP, LOG2_E, Tile, load_rows

DECODE_TILES = [Tile(1, 64, 4, 2), Tile(1, 128, 4, 2), Tile(1, 32, 2, 3)]


@triton.jit(do_not_specialize=["n_visible", "span"])
def split_kv(
    q, k, v, z, parts, sums, peaks, is_relu, n_visible, span, scale,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_kt,
    stride_vb, stride_vh, stride_vt, stride_zb, stride_zh, stride_zt,
    N_QUERIES: tl.constexpr, N_HEAD: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr, ALONE: tl.constexpr, MODE: tl.constexpr, VISIBLE_ON_DEVICE: tl.constexpr,
):
    """Sums over `span` keys; grid (splits, batch x heads x query rows).

    `parts` [B, H, T, splits, d] holds relu(q kᵀ) v, `sums` [B, H, T, splits] the row sums; for softmax heads both
    are relative to the `peaks` of their split. A split beyond the visible keys writes zeros. ALONE: the one split
    writes z [B, H, T, d] itself and needs no `combine`.
    """
    split, n_splits = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(1).to(tl.int64)
    query = row % N_QUERIES
    head = row // N_QUERIES % N_HEAD
    batch = row // N_QUERIES // N_HEAD
    n_keys = tl.load(n_visible).to(tl.int32) if VISIBLE_ON_DEVICE else n_visible
    n_keys = n_keys - N_QUERIES + query.to(tl.int32) + 1
    end = tl.minimum(n_keys, (split + 1) * span)
    dims = tl.arange(0, BLOCK_D)
    place = q + batch * stride_qb + head * stride_qh + query * stride_qt + dims
    queries = tl.load(place, mask=dims < D, other=0.0).to(tl.float32)  # [BLOCK_D]
    k += batch * stride_kb + head // GROUP * stride_kh
    v += batch * stride_vb + head // GROUP * stride_vh
    acc = tl.zeros((BLOCK_D,), tl.float32)  # [BLOCK_D]
    l_i = tl.sum(acc, 0)
    m_i = l_i - 1e30
    relu_head = tl.load(is_relu + head) != 0 if MODE == "branch" else MODE == "relu"
    for start in range(split * span, end, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        keys = load_rows(k, cols, end, stride_kt, D, BLOCK_D, True).to(tl.float32)  # [BLOCK_N, BLOCK_D]
        values = load_rows(v, cols, end, stride_vt, D, BLOCK_D, True).to(tl.float32)  # [BLOCK_N, BLOCK_D]
        scores = tl.sum(keys * queries[None, :], 1)  # [BLOCK_N]
        if relu_head:
            w = tl.maximum(scores, 0.0)
        else:
            scores = tl.where(cols < end, scores * (scale * LOG2_E), -float("inf"))
            m_new = tl.maximum(m_i, tl.max(scores, 0))
            alpha = tl.exp2(m_i - m_new)
            w = tl.exp2(scores - m_new)
            acc = acc * alpha
            l_i = l_i * alpha
            m_i = m_new
        l_i += tl.sum(w, 0)
        acc += tl.sum(w[:, None] * values, 0)  # [BLOCK_D]
    if ALONE:
        if relu_head:
            l_i = tl.maximum(l_i * scale, CLAMP) / scale
        place = z + batch * stride_zb + head * stride_zh + query * stride_zt + dims
        tl.store(place, (acc / l_i).to(z.dtype.element_ty), mask=dims < D)
    else:
        tl.store(parts + (row * n_splits + split) * D + dims, acc, mask=dims < D)
        tl.store(sums + row * n_splits + split, l_i)
        if MODE != "relu":
            tl.store(peaks + row * n_splits + split, m_i)


@triton.jit(do_not_specialize=["n_splits"])
def combine(
    parts, sums, peaks, z, is_relu, n_splits, scale,
    stride_zb, stride_zh, stride_zt,
    N_QUERIES: tl.constexpr, N_HEAD: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
    MODE: tl.constexpr,
):
    """z [B, H, T, d] from the splits, added in one fixed order; grid (batch x heads x query rows,)."""
    row = tl.program_id(0).to(tl.int64)
    query = row % N_QUERIES
    head = row // N_QUERIES % N_HEAD
    batch = row // N_QUERIES // N_HEAD
    splits = tl.arange(0, BLOCK_SPLITS)  # [BLOCK_SPLITS]
    dims = tl.arange(0, BLOCK_D)
    inside = (splits[:, None] < n_splits) & (dims[None, :] < D)  # [BLOCK_SPLITS, BLOCK_D], as part
    part = tl.load(parts + (row * n_splits + splits[:, None]) * D + dims[None, :], mask=inside, other=0.0)
    l_i = tl.load(sums + row * n_splits + splits, mask=splits < n_splits, other=0.0)  # [BLOCK_SPLITS]
    relu_head = tl.load(is_relu + head) != 0 if MODE == "branch" else MODE == "relu"
    if relu_head:
        row_sum = tl.sum(l_i, 0) * scale
        factor = scale / tl.maximum(row_sum, CLAMP)
        result = tl.sum(part, 0) * factor  # [BLOCK_D]
    else:
        m_i = tl.load(peaks + row * n_splits + splits, mask=splits < n_splits, other=-1e30)
        alpha = tl.exp2(m_i - tl.max(m_i, 0))
        result = tl.sum(part * alpha[:, None], 0) / tl.sum(l_i * alpha, 0)  # [BLOCK_D]
    place = z + batch * stride_zb + head * stride_zh + query * stride_zt + dims
    tl.store(place, result.to(z.dtype.element_ty), mask=dims < D)
