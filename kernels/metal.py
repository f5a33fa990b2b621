"""ReLU attention on Apple GPUs, through `torch.mps.compile_shader` and `relu_attention.metal`. No gradients."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import by_head
from kernels.inputs import CLAMP, checked, output_like, without_gradients
from lib.errors import InputError

SOURCE = Path(__file__).with_name("relu_attention.metal")
ELEMENTS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat"}
MAX_D_HEAD = 128
ROWS, THREADS = 32, 128  # of a threadgroup of relu_forward, as in the source
DECODE_KEYS, DECODE_THREADS = 64, 256  # the same of relu_decode
DECODE_QUERIES = 4  # up to so many query rows, the keys are split
DECODE_GROUPS = 64  # threadgroups that a decoding step aims for

Arguments = tuple[Tensor | float, ...]


def relu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`.

    float32, float16 or bfloat16, d up to 128, on one MPS device; computed in float32.
    """
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("metal", q, k, v)
    if q.device.type != "mps":
        raise InputError(f"backend 'metal' got tensors on '{q.device}': move them to 'mps', or choose naive")
    if q.dtype not in ELEMENTS or q.shape[3] > MAX_D_HEAD:
        raise InputError(
            f"backend 'metal' got {q.dtype} with d_head {q.shape[3]}: it takes float32, float16 and "
            f"bfloat16 up to {MAX_D_HEAD}; choose naive"
        )
    library = _library(q.dtype, q.shape[3])
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    z = output_like(q, out)
    if q.shape[2] <= DECODE_QUERIES:
        arguments, (groups, rows), (parts, sums) = decode_call(q, k, v, n_visible)
        library.relu_decode(*arguments, threads=(groups * DECODE_THREADS, rows), group_size=(DECODE_THREADS, 1))
        z.copy_(merged(parts, sums, scale).view(z.shape))
        return z
    target = z if z.stride(3) == 1 else torch.empty(z.shape, dtype=z.dtype, device=z.device)
    arguments, (tiles, heads) = forward_call(q, k, v, target, scale, n_visible)
    library.relu_forward(*arguments, threads=(tiles * THREADS, heads), group_size=(THREADS, 1))
    return z if target is z else z.copy_(target)


mixed_attention = by_head.mixed("metal", relu_attention)


def source(dtype: torch.dtype, d_head: int) -> str:
    """The Metal source for one type and head size."""
    return f"#define ELEMENT {ELEMENTS[dtype]}\n#define D_HEAD {d_head}\n{SOURCE.read_text(encoding='utf-8')}"


def forward_call(
    q: Tensor, k: Tensor, v: Tensor, z: Tensor, scale: float, n_visible: int | Tensor
) -> tuple[Arguments, tuple[int, int]]:
    """Arguments of `relu_forward` in order, and its grid (tiles of query rows, batch x heads)."""
    n_batch, n_head, n_queries, _ = q.shape
    visible = _visible(n_visible, q.device)
    shape = n_head, n_head // k.shape[1], n_queries
    strides = [step for x in (q, k, v, z) for step in x.stride()[:3]]
    return (q, k, v, z, *visible, scale, *shape, *strides), (-(-n_queries // ROWS), n_batch * n_head)


def decode_call(
    q: Tensor, k: Tensor, v: Tensor, n_visible: int | Tensor
) -> tuple[Arguments, tuple[int, int], tuple[Tensor, Tensor]]:
    """Arguments of `relu_decode`, its grid (splits, batch x heads x query rows), and its float32 outputs."""
    n_batch, n_head, n_queries, d_head = q.shape
    rows, n_keys = n_batch * n_head * n_queries, k.shape[2]
    n_splits = max(1, min(-(-DECODE_GROUPS // rows), -(-n_keys // DECODE_KEYS)))
    span = -(-n_keys // n_splits // DECODE_KEYS) * DECODE_KEYS
    n_splits = -(-n_keys // span)
    parts = torch.empty(rows, n_splits, d_head, dtype=torch.float32, device=q.device)
    sums = torch.empty(rows, n_splits, dtype=torch.float32, device=q.device)
    shape = n_head, n_head // k.shape[1], n_queries
    strides = [step for x in (q, k, v) for step in x.stride()[:3]]
    arguments: Arguments = (q, k, v, parts, sums, *_visible(n_visible, q.device), span, *shape, *strides)
    return arguments, (n_splits, rows), (parts, sums)


def merged(parts: Tensor, sums: Tensor, scale: float) -> Tensor:
    """z [rows, d] of the partial sums: they add up."""
    return parts.sum(1) * (scale / (scale * sums.sum(1, keepdim=True)).clamp(min=CLAMP))


def _visible(n_visible: int | Tensor, device: torch.device) -> tuple[Tensor, int]:
    """The number of visible keys as `(int32 tensor, int)`; below 0 the tensor counts."""
    if isinstance(n_visible, torch.Tensor):
        return n_visible.to(device, torch.int32), -1
    return _nothing(device), n_visible


@lru_cache(maxsize=8)
def _nothing(device: torch.device) -> Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)


@lru_cache(maxsize=32)
def _library(dtype: torch.dtype, d_head: int) -> Any:
    return torch.mps.compile_shader(source(dtype, d_head))
