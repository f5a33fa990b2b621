"""Forward kernels in Triton: a tile of query rows per program, over the blocks of keys that it can see.

ReLU needs no running maximum and no rescaling, so a tile accumulates relu(q kᵀ) v and its row sums as they come.
Blocks below the diagonal run without a mask; blocks above it are never touched. Row sums come either from
`tl.sum` ("sum") or from a product with sixteen columns of ones, on the matrix units ("ones").

Names are the field's: BLOCK_M query rows and BLOCK_N keys of a block, m_i and l_i a row's maximum and sum so far, acc
its output so far. Shapes stand at the end of lines.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

CLAMP = tl.constexpr(1e-8)
LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Tile:
    """One way to run a kernel: query rows and keys of a block, warps, pipeline stages, how rows are summed."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    row_sum: str = "sum"


FORWARD_TILES = [
    Tile(64, 64, 4, 3),
    Tile(64, 64, 4, 3, "ones"),
    Tile(64, 128, 4, 2, "ones"),
    Tile(128, 64, 4, 3, "ones"),
    Tile(128, 64, 8, 3),
    Tile(128, 64, 8, 3, "ones"),
    Tile(128, 128, 8, 2),
    Tile(128, 128, 8, 2, "ones"),
    Tile(128, 128, 8, 3, "ones"),
    Tile(64, 32, 4, 4),
    Tile(64, 64, 4, 2),
]
EXACT_TILES = [Tile(32, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 16, 4, 2)]  # operands of float32


@triton.jit
def load_rows(base, rows, n_rows, stride, D: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr):
    """[rows, BLOCK_D] of a matrix with unit stride along d; rows past `n_rows` and columns past D are 0."""
    dims = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride + dims[None, :]
    if MASKED:
        return tl.load(pointers, mask=(rows[:, None] < n_rows) & (dims[None, :] < D), other=0.0)
    if D != BLOCK_D:
        return tl.load(pointers, mask=dims[None, :] < D, other=0.0)
    return tl.load(pointers)


@triton.jit
def load_columns(base, rows, n_rows, stride, D: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr):
    """The same, transposed: [BLOCK_D, rows]."""
    dims = tl.arange(0, BLOCK_D)
    pointers = base + rows[None, :] * stride + dims[:, None]
    if MASKED:
        return tl.load(pointers, mask=(rows[None, :] < n_rows) & (dims[:, None] < D), other=0.0)
    if D != BLOCK_D:
        return tl.load(pointers, mask=dims[:, None] < D, other=0.0)
    return tl.load(pointers)


@triton.jit
def rectified(scores, DTYPE: tl.constexpr, FUSED: tl.constexpr):
    """relu(scores) in the type of the second product; FUSED is the one instruction for bfloat16 on NVIDIA."""
    if FUSED:
        return tl.inline_asm_elementwise(
            "cvt.rn.relu.bf16x2.f32 $0, $2, $1;", "=r,r,r", [scores], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    return tl.maximum(scores, 0.0).to(DTYPE)


@triton.jit
def _relu_range(
    acc, l_i, q, k, v, last_key, lo, hi, n_visible, stride_k, stride_v,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    ROW_SUM: tl.constexpr, FUSED: tl.constexpr, MASKED: tl.constexpr,
):
    """acc and l_i with the keys from `lo` to `hi` added."""
    for start in range(lo, hi, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        keys = load_columns(k, cols, n_visible, stride_k, D, BLOCK_D, MASKED).to(q.dtype)  # [BLOCK_D, BLOCK_N]
        scores = tl.dot(q, keys, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        if MASKED:
            scores = tl.where(cols[None, :] <= last_key[:, None], scores, 0.0)
        if ROW_SUM == "ones":
            w = rectified(scores, W, FUSED)
            l_i = tl.dot(w, tl.full((BLOCK_N, 16), 1.0, W), l_i, input_precision=PRECISION)  # [BLOCK_M, 16]
        else:
            l_i += tl.sum(tl.maximum(scores, 0.0), 1)  # [BLOCK_M]
            w = rectified(scores, W, FUSED)
        values = load_rows(v, cols, n_visible, stride_v, D, BLOCK_D, MASKED).to(W)  # [BLOCK_N, BLOCK_D]
        acc = tl.dot(w, values, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return acc, l_i


@triton.jit
def _softmax_range(
    acc, l_i, m_i, q, k, v, last_key, lo, hi, n_visible, stride_k, stride_v, scale_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """acc, l_i and m_i with the keys from `lo` to `hi` added."""
    for start in range(lo, hi, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        keys = load_columns(k, cols, n_visible, stride_k, D, BLOCK_D, MASKED).to(q.dtype)  # [BLOCK_D, BLOCK_N]
        scores = tl.dot(q, keys, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        if MASKED:
            scores = tl.where(cols[None, :] <= last_key[:, None], scores, -float("inf"))
        m_new = tl.maximum(m_i, tl.max(scores, 1) * scale_log2)  # [BLOCK_M]
        w = tl.exp2(scores * scale_log2 - m_new[:, None])  # [BLOCK_M, BLOCK_N]
        alpha = tl.exp2(m_i - m_new)  # [BLOCK_M]
        l_i = l_i * alpha + tl.sum(w, 1)
        values = load_rows(v, cols, n_visible, stride_v, D, BLOCK_D, MASKED).to(W)  # [BLOCK_N, BLOCK_D]
        acc = tl.dot(w.to(W), values, acc * alpha[:, None], input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
        m_i = m_new
    return acc, l_i, m_i


@triton.jit
def _relu_tile(
    q, k, v, last_key, n_unmasked, n_end, n_visible, stride_k, stride_v, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, W: tl.constexpr,
    PRECISION: tl.constexpr, ROW_SUM: tl.constexpr, FUSED: tl.constexpr,
):
    """z [BLOCK_M, BLOCK_D] and the row sums l_i [BLOCK_M] of scale · relu(q kᵀ)."""
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    l_i = tl.zeros((BLOCK_M, 16), tl.float32) if ROW_SUM == "ones" else tl.zeros((BLOCK_M,), tl.float32)
    for DIAGONAL in tl.static_range(2):
        acc, l_i = _relu_range(
            acc, l_i, q, k, v, last_key, n_unmasked if DIAGONAL else 0, n_end if DIAGONAL else n_unmasked, n_visible,
            stride_k, stride_v, D, BLOCK_D, BLOCK_N, W, PRECISION, ROW_SUM, FUSED, DIAGONAL,
        )
    if ROW_SUM == "ones":
        l_i = tl.max(l_i, 1)  # [BLOCK_M]: the sixteen columns are alike
    l_i = l_i * scale
    return acc * (scale / tl.maximum(l_i, CLAMP))[:, None], l_i


@triton.jit
def _softmax_tile(
    q, k, v, last_key, n_unmasked, n_end, n_visible, stride_k, stride_v, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, W: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """z [BLOCK_M, BLOCK_D] of softmax(scale q kᵀ) v."""
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    m_i = tl.full((BLOCK_M,), -1e30, tl.float32)
    for DIAGONAL in tl.static_range(2):
        acc, l_i, m_i = _softmax_range(
            acc, l_i, m_i, q, k, v, last_key, n_unmasked if DIAGONAL else 0, n_end if DIAGONAL else n_unmasked,
            n_visible, stride_k, stride_v, scale * LOG2_E, D, BLOCK_D, BLOCK_N, W, PRECISION, DIAGONAL,
        )
    return acc / l_i[:, None]


@triton.jit(do_not_specialize=["n_queries", "n_visible", "n_listed"])
def forward(
    q, k, v, z, row_sums, heads, is_relu, n_queries, n_visible, n_listed, scale,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_kt,
    stride_vb, stride_vh, stride_vt, stride_zb, stride_zh, stride_zt,
    N_HEAD: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, ROW_SUM: tl.constexpr, MODE: tl.constexpr, LISTED: tl.constexpr,
    VISIBLE_ON_DEVICE: tl.constexpr, SAVE: tl.constexpr, X: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    FUSED: tl.constexpr,
):
    """Grid (tiles of query rows, batch x listed heads). The longest rows start first.

    MODE is "relu", "softmax", or "branch": each program asks `is_relu` which of the two its head is. X is the type
    of q and k in their product, W that of the weights and v in theirs.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    pair = tl.program_id(1)
    batch = (pair // n_listed).to(tl.int64)
    head = (pair % n_listed).to(tl.int64)
    if LISTED:
        head = tl.load(heads + head).to(tl.int64)
    n_keys = tl.load(n_visible).to(tl.int32) if VISIBLE_ON_DEVICE else n_visible
    first_key = n_keys - n_queries
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    last_key = first_key + rows  # [BLOCK_M]
    n_unmasked = (first_key + tile * BLOCK_M + 1) // BLOCK_N * BLOCK_N
    n_end = tl.minimum(n_keys, first_key + (tile + 1) * BLOCK_M)
    q += batch * stride_qb + head * stride_qh
    k += batch * stride_kb + (head // GROUP) * stride_kh
    v += batch * stride_vb + (head // GROUP) * stride_vh
    queries = load_rows(q, rows, n_queries, stride_qt, D, BLOCK_D, True).to(X)  # [BLOCK_M, BLOCK_D]
    relu_head = tl.load(is_relu + head) != 0 if MODE == "branch" else MODE == "relu"
    if relu_head:
        result, l_i = _relu_tile(
            queries, k, v, last_key, n_unmasked, n_end, n_keys, stride_kt, stride_vt, scale,
            D, BLOCK_D, BLOCK_M, BLOCK_N, W, PRECISION, ROW_SUM, FUSED,
        )
        if SAVE:
            tl.store(row_sums + (batch * N_HEAD + head) * n_queries + rows, l_i, mask=rows < n_queries)
    else:
        result = _softmax_tile(
            queries, k, v, last_key, n_unmasked, n_end, n_keys, stride_kt, stride_vt, scale,
            D, BLOCK_D, BLOCK_M, BLOCK_N, W, PRECISION,
        )
    dims = tl.arange(0, BLOCK_D)  # [BLOCK_D]
    place = z + batch * stride_zb + head * stride_zh + rows[:, None] * stride_zt + dims[None, :]  # [BLOCK_M, BLOCK_D]
    tl.store(place, result.to(z.dtype.element_ty), mask=(rows[:, None] < n_queries) & (dims[None, :] < D))
