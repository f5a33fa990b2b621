"""Backward kernels in Triton, from q, k, v, the output and one float a row.

With l the row sum of w = relu(scale q kᵀ), g the gradient of z and c = scale / max(l, 1e-8):

    g' = c g;   D = g' · z  where l >= 1e-8, else 0
    dv = relu(q kᵀ)ᵀ g';   dS = 1[q kᵀ > 0] (g' vᵀ - D);   dq = dS k;   dk = dSᵀ q

Folding c into g' leaves one comparison and one subtraction per score, and no exponential. dk and dv compute the
transposed products directly, so no accumulator is transposed on its way into another product. Nothing is added
atomically: the same inputs give the same bits.
"""

import triton
import triton.language as tl

from kernels.triton_forward import CLAMP, Tile, load_columns, load_rows, rectified

QUERY_TILES = [Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(64, 128, 8, 2), Tile(128, 64, 8, 2), Tile(32, 64, 4, 3)]
KEY_TILES = [Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(64, 128, 8, 2), Tile(32, 64, 4, 3)]
EXACT_BACKWARD_TILES = [Tile(32, 32, 8, 2), Tile(16, 32, 8, 2), Tile(16, 16, 4, 2)]  # operands of float32


@triton.jit(do_not_specialize=["n_queries"])
def prepare(
    grad, z, row_sums, scaled, correction, n_queries, scale,
    stride_gb, stride_gh, stride_gt, stride_zb, stride_zh, stride_zt,
    N_HEAD: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):
    """g' [B, H, T, d] and D [B, H, T]; grid (tiles of rows, batch x heads)."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    pair = tl.program_id(1).to(tl.int64)
    grad += pair // N_HEAD * stride_gb + pair % N_HEAD * stride_gh
    z += pair // N_HEAD * stride_zb + pair % N_HEAD * stride_zh
    row_sum = tl.load(row_sums + pair * n_queries + rows, mask=rows < n_queries, other=1.0)
    g = load_rows(grad, rows, n_queries, stride_gt, D, BLOCK_D, True).to(tl.float32)  # [BLOCK_M, BLOCK_D]
    g = (g * (scale / tl.maximum(row_sum, CLAMP))[:, None]).to(scaled.dtype.element_ty)
    outputs = load_rows(z, rows, n_queries, stride_zt, D, BLOCK_D, True).to(tl.float32)  # [BLOCK_M, BLOCK_D]
    dot = tl.where(row_sum < CLAMP, 0.0, tl.sum(g.to(tl.float32) * outputs, 1))  # [BLOCK_M]
    dims = tl.arange(0, BLOCK_D)
    tl.store(
        scaled + (pair * n_queries + rows[:, None]) * D + dims[None, :],
        g,
        mask=(rows[:, None] < n_queries) & (dims[None, :] < D),
    )
    tl.store(correction + pair * n_queries + rows, dot, mask=rows < n_queries)


@triton.jit
def _query_range(
    acc, q, g, correction, k, v, last_key, lo, hi, n_keys,
    stride_k, stride_v,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    for start in range(lo, hi, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        keys = load_columns(k, cols, n_keys, stride_k, D, BLOCK_D, MASKED).to(q.dtype)  # [BLOCK_D, BLOCK_N]
        values = load_columns(v, cols, n_keys, stride_v, D, BLOCK_D, MASKED).to(W)  # [BLOCK_D, BLOCK_N]
        scores = tl.dot(q, keys, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        live = scores > 0
        if MASKED:
            live = live & (cols[None, :] <= last_key[:, None])
        slope = tl.where(live, tl.dot(g, values, input_precision=PRECISION) - correction[:, None], 0.0)
        rows_of_k = load_rows(k, cols, n_keys, stride_k, D, BLOCK_D, MASKED).to(W)  # [BLOCK_N, BLOCK_D]
        acc = tl.dot(slope.to(W), rows_of_k, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return acc


@triton.jit(do_not_specialize=["n_queries", "n_keys"])
def query_gradient(
    q, k, v, scaled, correction, dq, n_queries, n_keys,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_kt, stride_vb, stride_vh, stride_vt,
    N_HEAD: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, X: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
):
    """dq [B, H, T, d]; grid (tiles of query rows, batch x heads)."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // N_HEAD, pair % N_HEAD
    first_key = n_keys - n_queries
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    k += batch * stride_kb + head // GROUP * stride_kh
    v += batch * stride_vb + head // GROUP * stride_vh
    q += batch * stride_qb + head * stride_qh
    queries = load_rows(q, rows, n_queries, stride_qt, D, BLOCK_D, True).to(X)  # [BLOCK_M, BLOCK_D]
    g = load_rows(scaled + pair * n_queries * D, rows, n_queries, D, D, BLOCK_D, True).to(W)
    correct = tl.load(correction + pair * n_queries + rows, mask=rows < n_queries, other=0.0)  # [BLOCK_M]
    last_key = first_key + rows
    n_unmasked = (first_key + tile * BLOCK_M + 1) // BLOCK_N * BLOCK_N
    n_end = tl.minimum(n_keys, first_key + (tile + 1) * BLOCK_M)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for DIAGONAL in tl.static_range(2):
        acc = _query_range(
            acc, queries, g, correct, k, v, last_key, n_unmasked if DIAGONAL else 0,
            n_end if DIAGONAL else n_unmasked, n_keys, stride_kt, stride_vt,
            D, BLOCK_D, BLOCK_N, W, PRECISION, DIAGONAL,
        )
    dims = tl.arange(0, BLOCK_D)
    tl.store(
        dq + (pair * n_queries + rows[:, None]) * D + dims[None, :],
        acc.to(dq.dtype.element_ty),
        mask=(rows[:, None] < n_queries) & (dims[None, :] < D),
    )


@triton.jit
def _key_range(
    dk, dv, keys, values, q, scaled, correction, cols, first_key, lo, hi, n_queries,
    stride_q,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    FUSED: tl.constexpr, DIAGONAL: tl.constexpr,
):
    for start in range(lo, hi, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        queries = load_columns(q, rows, n_queries, stride_q, D, BLOCK_D, True).to(keys.dtype)  # [BLOCK_D, BLOCK_M]
        scores = tl.dot(keys, queries, input_precision="ieee")  # [BLOCK_N, BLOCK_M]
        if DIAGONAL:
            scores = tl.where(cols[:, None] <= first_key + rows[None, :], scores, 0.0)
        g = load_rows(scaled, rows, n_queries, D, D, BLOCK_D, True).to(W)  # [BLOCK_M, BLOCK_D]
        dv = tl.dot(rectified(scores, W, FUSED), g, dv, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
        correct = tl.load(correction + rows, mask=rows < n_queries, other=0.0)  # [BLOCK_M]
        g_columns = load_columns(scaled, rows, n_queries, D, D, BLOCK_D, True).to(W)  # [BLOCK_D, BLOCK_M]
        slope = tl.dot(values, g_columns, input_precision=PRECISION) - correct[None, :]  # [BLOCK_N, BLOCK_M]
        slope = tl.where(scores > 0, slope, 0.0).to(W)
        rows_of_q = load_rows(q, rows, n_queries, stride_q, D, BLOCK_D, True).to(W)  # [BLOCK_M, BLOCK_D]
        dk = tl.dot(slope, rows_of_q, dk, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
    return dk, dv


@triton.jit(do_not_specialize=["n_queries", "n_keys"])
def key_gradients(
    q, k, v, scaled, correction, dk, dv, n_queries, n_keys,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_kt,
    stride_vb, stride_vh, stride_vt, stride_db, stride_dh, stride_dt,
    N_HEAD: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, X: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr, FUSED: tl.constexpr,
):
    """dk and dv [B, H_kv, S, d], summed over the query heads of a group; grid (tiles of keys, batch x KV heads)."""
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // (N_HEAD // GROUP), pair % (N_HEAD // GROUP)
    start = tl.program_id(0) * BLOCK_N
    cols = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    first_key = n_keys - n_queries
    k += batch * stride_kb + kv_head * stride_kh
    v += batch * stride_vb + kv_head * stride_vh
    keys = load_rows(k, cols, n_keys, stride_kt, D, BLOCK_D, True).to(X)  # [BLOCK_N, BLOCK_D]
    values = load_rows(v, cols, n_keys, stride_vt, D, BLOCK_D, True).to(W)  # [BLOCK_N, BLOCK_D]
    first_row = tl.maximum(start - first_key, 0) // BLOCK_M * BLOCK_M
    full_row = tl.cdiv(tl.maximum(start + BLOCK_N - 1 - first_key, 0), BLOCK_M) * BLOCK_M
    full_row = tl.maximum(tl.minimum(full_row, tl.cdiv(n_queries, BLOCK_M) * BLOCK_M), first_row)
    dkeys = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dvalues = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        row = (batch * N_HEAD + head) * n_queries
        queries = q + batch * stride_qb + head * stride_qh
        for BELOW in tl.static_range(2):
            dkeys, dvalues = _key_range(
                dkeys, dvalues, keys, values, queries, scaled + row * D, correction + row, cols, first_key,
                full_row if BELOW else first_row, n_queries if BELOW else full_row, n_queries, stride_qt,
                D, BLOCK_D, BLOCK_M, W, PRECISION, FUSED, not BELOW,
            )
    dims = tl.arange(0, BLOCK_D)
    place = batch * stride_db + kv_head * stride_dh + cols[:, None] * stride_dt + dims[None, :]
    inside = (cols[:, None] < n_keys) & (dims[None, :] < D)
    tl.store(dk + place, dkeys.to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + place, dvalues.to(dv.dtype.element_ty), mask=inside)
