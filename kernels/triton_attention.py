"""ReLU attention on CUDA devices: checks, the choice of a tile, launches and gradients.

With `TRITON_INTERPRET=1` in the environment the same kernels run on CPU tensors, one program after the other.
"""

import os
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from kernels import triton_backward, triton_decode, triton_forward
from kernels.inputs import checked, output_like
from kernels.triton_backward import EXACT_BACKWARD_TILES, KEY_TILES, QUERY_TILES
from kernels.triton_decode import DECODE_TILES
from kernels.triton_forward import EXACT_TILES, FORWARD_TILES
from lib.errors import InputError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DECODE_QUERIES = 4  # up to so many query rows, the cache is split over its keys
MAX_SPLITS = 64
STRATEGIES = ("branch", "lists", "sdpa")
D_HEAD = range(1, 129)
_chosen: dict[tuple, Any] = {}


def relu_attention(q, k, v, *, scale=None, n_visible=None, out=None, tile=None):
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`.

    float32, bfloat16 or float16, d up to 128, on one CUDA device; differentiable in q, k and v. `tile` fixes the
    `Tile` that is otherwise timed and remembered per shape and type.
    """
    scale, n_visible, q, k, v = _ready(q, k, v, scale, n_visible)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        if isinstance(n_visible, torch.Tensor) or out is not None:
            raise InputError("gradients with out= or a tensor n_visible: give an int and no out, or torch.no_grad()")
        return ReluAttention.apply(q, k[:, :, :n_visible], v[:, :, :n_visible], scale, tile)
    z = _unit_stride_output(q, out)
    if q.shape[2] <= DECODE_QUERIES:
        decode(q, k, v, z, scale, n_visible, "relu", None, tile)
    else:
        _forward(q, k, v, z, scale, n_visible, "relu", tile=tile)
    return z


def mixed_attention(q, k, v, is_relu, *, scale=None, n_visible=None, out=None, tile=None, strategy=None):
    """ReLU in the heads where `is_relu` (one bool per query head) says so, softmax in the others.

    `strategy` "branch" decides inside one launch, "lists" makes one launch per mode, "sdpa" leaves the softmax
    heads to PyTorch; None times the three once per shape. Decoding always branches. Only "sdpa" differentiates.
    """
    scale, n_visible, q, k, v = _ready(q, k, v, scale, n_visible)
    is_relu = tuple(bool(x) for x in is_relu)
    if len(is_relu) != q.shape[1]:
        raise InputError(f"is_relu has {len(is_relu)} entries for {q.shape[1]} heads: give one per query head")
    if strategy not in (None, *STRATEGIES):
        raise InputError(f"strategy '{strategy}' is unknown: choose one of {', '.join(STRATEGIES)}")
    if all(is_relu) and strategy is None:
        return relu_attention(q, k, v, scale=scale, n_visible=n_visible, out=out, tile=tile)
    square = not isinstance(n_visible, torch.Tensor) and q.shape[2] == n_visible
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        if strategy not in (None, "sdpa") or not square or out is not None:
            raise InputError("mixed heads have gradients for T = n_visible with strategy 'sdpa' and no out")
        return _through_sdpa(q, k, v, torch.empty_like(q), scale, n_visible, is_relu, tile)
    z = _unit_stride_output(q, out)
    if q.shape[2] <= DECODE_QUERIES:
        mode = "branch" if any(is_relu) else "softmax"
        flags = _on_device(is_relu, torch.int32, q.device) if mode == "branch" else None
        decode(q, k, v, z, scale, n_visible, mode, flags, tile)
        return z
    runs = {
        "branch": lambda _: _forward(q, k, v, z, scale, n_visible, "branch", is_relu=is_relu, tile=tile),
        "lists": lambda _: _by_lists(q, k, v, z, scale, n_visible, is_relu, tile),
    }
    if square:
        runs["sdpa"] = lambda _: _through_sdpa(q, k, v, z, scale, n_visible, is_relu, tile)
    if strategy is None:
        key = ("strategy", q.device, q.dtype, q.shape[0], q.shape[1], k.shape[1], q.shape[3], _bucket(q), is_relu)
        strategy = _quickest(key, list(runs), lambda name: runs[name](None))
    if strategy not in runs:
        raise InputError("strategy 'sdpa' needs as many queries as visible keys: choose branch or lists")
    runs[strategy](None)
    return z


class ReluAttention(torch.autograd.Function):
    """`relu_attention` with its backward kernels; keeps z and one float a row. Differentiates once."""

    @staticmethod
    def forward(ctx, q, k, v, scale, tile=None):
        row_sums = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        z = torch.empty_like(q)
        _forward(q, k, v, z, scale, k.shape[2], "relu", row_sums=row_sums, tile=tile)
        ctx.save_for_backward(q, k, v, z, row_sums)
        ctx.scale = scale
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, z, row_sums = ctx.saved_tensors
        return (*gradients(q, k, v, z, row_sums, grad, ctx.scale), None, None)


def gradients(q, k, v, z, row_sums, grad, scale, tile=None):
    """dq, dk, dv of `ReluAttention`, from what it saved and the gradient of z."""
    n_batch, n_head, n_queries, d_head = q.shape
    n_keys, group = k.shape[2], n_head // k.shape[1]
    grad = _unit_stride(grad)
    shared = {"D": d_head, "BLOCK_D": _block_d(d_head)}
    scaled = torch.empty(q.shape, dtype=q.dtype if q.dtype == torch.bfloat16 else torch.float32, device=q.device)
    correction = torch.empty_like(row_sums)
    triton_backward.prepare[(triton.cdiv(n_queries, 64), n_batch * n_head)](
        grad, z, row_sums, scaled, correction, n_queries, scale,
        *grad.stride()[:3], *z.stride()[:3], N_HEAD=n_head, BLOCK_M=64, **shared,
    )
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    settings = {"N_HEAD": n_head, "GROUP": group, **shared, **_arithmetic(q)}
    fused = settings.pop("FUSED")
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])

    def queries(t):
        triton_backward.query_gradient[(triton.cdiv(n_queries, t.block_m), n_batch * n_head)](
            q, k, v, scaled, correction, dq, n_queries, n_keys,
            *strides,
            BLOCK_M=t.block_m, BLOCK_N=t.block_n, num_warps=t.warps, num_stages=t.stages, **settings,
        )

    def keys(t):
        triton_backward.key_gradients[(triton.cdiv(n_keys, t.block_n), n_batch * k.shape[1])](
            q, k, v, scaled, correction, dk, dv, n_queries, n_keys,
            *strides, *dk.stride()[:3],
            BLOCK_M=t.block_m, BLOCK_N=t.block_n, FUSED=fused, num_warps=t.warps, num_stages=t.stages, **settings,
        )

    key = (q.device, q.dtype, d_head, group, _bucket(q))
    for name, launch, tiles in (("dq", queries, QUERY_TILES), ("dk dv", keys, KEY_TILES)):
        tiles = tiles if q.dtype == torch.bfloat16 else EXACT_BACKWARD_TILES
        launch(tile or _quickest((name, *key), tiles, launch))
    return dq, dk, dv


def _ready(q, k, v, scale, n_visible):
    """The inputs checked for these kernels, with unit stride along d."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    if q.device.type != "cuda" and not INTERPRETED:
        raise InputError(f"backend 'triton' got tensors on '{q.device}': move them to a cuda device, or choose naive")
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16) or q.shape[3] not in D_HEAD:
        raise InputError(
            f"backend 'triton' got {q.dtype} with d_head {q.shape[3]}: it takes float32, bfloat16 and "
            "float16 up to 128; choose naive"
        )
    if isinstance(n_visible, torch.Tensor) and (n_visible.device != q.device or n_visible.is_floating_point()):
        raise InputError(f"n_visible is {n_visible.dtype} on {n_visible.device}: give an integer tensor on {q.device}")
    return scale, n_visible, _unit_stride(q), _unit_stride(k), _unit_stride(v)


def _unit_stride(x):
    return x if x.stride(3) == 1 else x.contiguous()


def _unit_stride_output(q, out):
    if out is not None and out.stride(-1) != 1:
        raise InputError(f"out has stride {out.stride(-1)} along d: give one with stride 1")
    return output_like(q, out)


def _block_d(d_head):
    return max(16, triton.next_power_of_2(d_head))


def _bucket(q):
    return triton.next_power_of_2(q.shape[2])


def _arithmetic(q):
    """Settings of the products: types X of q and k, W of the weights and v, and the precision of the second.

    float16 weights would overflow above 65504, so float16 takes its second product in TF32: as many bits, more
    range. The interpreter multiplies no bfloat16. FUSED joins relu to the conversion.
    """
    if q.dtype == torch.bfloat16 and not INTERPRETED:
        return {"X": tl.bfloat16, "W": tl.bfloat16, "PRECISION": "ieee", "FUSED": torch.version.hip is None}
    x = tl.float16 if q.dtype == torch.float16 else tl.float32
    return {"X": x, "W": tl.float32, "PRECISION": "tf32" if x == tl.float16 else "ieee", "FUSED": False}


@cache
def _on_device(values, dtype, device):
    """`values` as a tensor that stays: a captured graph may read it as long as the process lives."""
    return torch.tensor(values, dtype=dtype, device=device)


def _quickest(key, candidates, launch):
    """The candidate that runs fastest here, timed once per key; the first one where timing is impossible."""
    if key in _chosen:
        return _chosen[key]
    if INTERPRETED or torch.cuda.is_current_stream_capturing():
        return candidates[0]
    times = {}
    for candidate in candidates:
        try:
            times[candidate] = triton.testing.do_bench(lambda c=candidate: launch(c), warmup=5, rep=20)
        except triton.runtime.errors.OutOfResources:
            continue
    if not times:
        raise InputError(f"no tile of {candidates} fits this device: choose backend 'naive'")
    _chosen[key] = min(times, key=times.__getitem__)
    return _chosen[key]


def _forward(q, k, v, z, scale, n_visible, mode, is_relu=None, heads=None, row_sums=None, tile=None):
    n_batch, n_head, n_queries, d_head = q.shape
    flags = _on_device(is_relu, torch.int32, q.device) if mode == "branch" else None
    listed = _on_device(heads, torch.int32, q.device) if heads is not None else None
    n_listed = n_head if heads is None else len(heads)

    def launch(t):
        triton_forward.forward[(triton.cdiv(n_queries, t.block_m), n_batch * n_listed)](
            q, k, v, z, row_sums, listed, flags, n_queries, n_visible, n_listed, scale,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *z.stride()[:3],
            N_HEAD=n_head, GROUP=n_head // k.shape[1], D=d_head, BLOCK_D=_block_d(d_head),
            BLOCK_M=t.block_m, BLOCK_N=t.block_n, ROW_SUM=t.row_sum,
            MODE=mode, LISTED=heads is not None, VISIBLE_ON_DEVICE=isinstance(n_visible, torch.Tensor),
            SAVE=row_sums is not None, num_warps=t.warps, num_stages=t.stages, **_arithmetic(q),
        )

    n_programs = min(triton.next_power_of_2(n_batch * n_listed), 256)
    key = (mode, q.device, q.dtype, d_head, n_head // k.shape[1], _bucket(q), n_programs)
    tiles = FORWARD_TILES if q.dtype == torch.bfloat16 else EXACT_TILES
    launch(tile or _quickest(key, tiles, launch))


def _by_lists(q, k, v, z, scale, n_visible, is_relu, tile):
    for mode, wanted in (("softmax", False), ("relu", True)):
        heads = tuple(h for h, flag in enumerate(is_relu) if flag is wanted)
        if heads:
            _forward(q, k, v, z, scale, n_visible, mode, heads=heads, tile=tile)


def _through_sdpa(q, k, v, z, scale, n_visible, is_relu, tile):
    """Softmax heads, gathered, through PyTorch; the others through the ReLU kernel."""
    k, v = k[:, :, :n_visible], v[:, :, :n_visible]
    group = q.shape[1] // k.shape[1]
    relu_heads = _on_device(tuple(h for h, flag in enumerate(is_relu) if flag), torch.int64, q.device)
    others = _on_device(tuple(h for h, flag in enumerate(is_relu) if not flag), torch.int64, q.device)
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if len(others):
        kept = q.index_select(1, others), *(x.index_select(1, others // group) for x in (k, v))
        softmax = F.scaled_dot_product_attention(kept[0], kept[1], kept[2], is_causal=True, scale=scale)
        z = z.index_copy(1, others, softmax) if graph else z.index_copy_(1, others, softmax)
    if len(relu_heads) and graph:
        relu = ReluAttention.apply(
            q.index_select(1, relu_heads), *(x.index_select(1, relu_heads // group) for x in (k, v)), scale, tile
        )
        z = z.index_copy(1, relu_heads, relu)
    elif len(relu_heads):
        _forward(
            q, k, v, z, scale, n_visible, "relu", tile=tile, heads=tuple(h for h, flag in enumerate(is_relu) if flag)
        )
    return z


def decode(q, k, v, z, scale, n_visible, mode, is_relu=None, tile=None, n_splits=None):
    """z of a few query rows: `split_kv` over splits of the keys, then `combine` unless one split holds them all.

    `is_relu` is an int32 tensor [H] on the device, for mode "branch". A captured graph reads it at every replay.
    """
    n_batch, n_head, n_queries, d_head = q.shape
    n_rows, n_keys = n_batch * n_head * n_queries, k.shape[2]
    tile = tile or DECODE_TILES[0]
    if n_splits is None:
        n_splits = _splits(n_rows, n_keys, tile.block_n, q.device)
    span = triton.cdiv(triton.cdiv(n_keys, n_splits), tile.block_n) * tile.block_n
    n_splits = triton.cdiv(n_keys, span)
    parts = sums = peaks = None
    if n_splits > 1:
        parts = torch.empty(n_rows, n_splits, d_head, dtype=torch.float32, device=q.device)
        sums = torch.empty(n_rows, n_splits, dtype=torch.float32, device=q.device)
        peaks = torch.empty_like(sums) if mode != "relu" else None
    shared = {
        "N_QUERIES": n_queries,
        "N_HEAD": n_head,
        "D": d_head,
        "BLOCK_D": _block_d(d_head),
        "MODE": mode,
    }
    triton_decode.split_kv[(n_splits, n_rows)](
        q, k, v, z, parts, sums, peaks, is_relu, n_visible, span, scale,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *z.stride()[:3],
        GROUP=n_head // k.shape[1], BLOCK_N=tile.block_n, ALONE=n_splits == 1,
        VISIBLE_ON_DEVICE=isinstance(n_visible, torch.Tensor), num_warps=tile.warps, num_stages=tile.stages, **shared,
    )
    if n_splits > 1:
        triton_decode.combine[(n_rows,)](
            parts, sums, peaks, z, is_relu, n_splits, scale,
            *z.stride()[:3], BLOCK_SPLITS=triton.next_power_of_2(n_splits), num_warps=2, **shared,
        )


def _splits(n_rows, n_keys, keys_of_block, device):
    """Parts into which the keys are cut: enough programs for two per multiprocessor, never under a block each."""
    n_processors = 8 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
    wanted = triton.cdiv(2 * n_processors, n_rows)
    return max(1, min(wanted, triton.cdiv(n_keys, keys_of_block), MAX_SPLITS))
