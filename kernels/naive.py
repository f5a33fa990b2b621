"""The definition, as plainly as it can be written: the oracle of every kernel, and the fallback.

    scores = scale q kᵀ;  w = relu(scores), masked positions 0;  pattern = w / max(row sum, 1e-8);  z = pattern v

Works in any floating-point type and on any device, and differentiates. Half-precision inputs are computed in
float32 and rounded once, at the end. Memory is O(T S) per head.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.inputs import CLAMP, checked


def tolerance(dtype: torch.dtype, n_layers: int = 1) -> float:
    """Largest relative error in norm that a kernel may have against float64: rounding of its result and its sums.

    Through `n_layers` layers such errors, which do not depend on each other, add up in their squares.
    """
    sums = torch.promote_types(dtype, torch.float32)
    return (2 * torch.finfo(dtype).eps + 4 * torch.finfo(sums).eps) * n_layers**0.5


def relative_error(value: Tensor | list[Tensor], reference: Tensor | list[Tensor]) -> float:
    """‖value − reference‖ / ‖reference‖ of tensors, or lists of them, in float64; infinite where one is not finite."""
    found, wanted = ((torch.stack(x) if isinstance(x, list) else x).double() for x in (value, reference))
    error = float((found - wanted).norm() / wanted.norm())
    return error if math.isfinite(error) else math.inf


def visible(n_queries: int, n_keys: int, n_visible: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Bool [T, S]: query i sees keys 0 ... n_visible - T + i (the causal mask, aligned at the bottom right)."""
    query_pos = torch.arange(n_queries, device=device)[:, None] + (n_visible - n_queries)
    return torch.arange(n_keys, device=device)[None, :] <= query_pos


def relu_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, n_visible: int | Tensor | None = None
) -> Tensor:
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; a row without a positive score gives 0."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    scores, mask, values = _scores(q, k, v, scale, n_visible)
    w = torch.relu(scores).masked_fill(~mask, 0)
    pattern = w / w.sum(-1, keepdim=True).clamp(min=CLAMP)
    return (pattern @ values).to(q.dtype)


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, n_visible: int | Tensor | None = None
) -> Tensor:
    """The same with softmax in place of the row-normalised ReLU."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    scores, mask, values = _scores(q, k, v, scale, n_visible)
    return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values).to(q.dtype)


def mixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_relu: Sequence[bool],
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
) -> Tensor:
    """ReLU in the heads where `is_relu` (one bool per query head) says so, softmax in the others."""
    both = [form(q, k, v, scale=scale, n_visible=n_visible) for form in (softmax_attention, relu_attention)]
    return torch.stack([both[bool(relu)][:, head] for head, relu in enumerate(is_relu)], dim=1)


def _scores(q: Tensor, k: Tensor, v: Tensor, scale: float, n_visible: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scores [B, H, T, S], the mask [T, S] and the values [B, H, S, d], in at least float32."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    keys, values = (x.to(dtype).repeat_interleave(group, 1) for x in (k, v))
    mask = visible(q.shape[2], k.shape[2], n_visible, q.device)
    return scale * (q.to(dtype) @ keys.mT), mask, values
