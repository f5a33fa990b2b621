"""What every kernel accepts, said once."""

import torch
from torch import Tensor

from lib.errors import InputError

CLAMP = 1e-8


def checked(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, n_visible: int | Tensor | None = None
) -> tuple[float, int | Tensor]:
    """The scale as a float and the number of visible keys (int, or a one-element tensor), or `InputError`.

    q is [B, H, T, d]; k and v are [B, H_kv, S, d] with H a multiple of H_kv. `n_visible` counts the keys that
    the last query sees; a tensor is read on the device, so a captured graph can advance it.
    """
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise InputError(
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}: give q [B, H, T, d] and "
            "k, v [B, H_kv, S, d] of one shape"
        )
    (n_batch, n_head, n_queries, d_head), n_kv_head, n_keys = q.shape, k.shape[1], k.shape[2]
    if k.shape[0] != n_batch or k.shape[3] != d_head or n_kv_head == 0 or n_head % n_kv_head:
        raise InputError(f"q {list(q.shape)} does not fit k {list(k.shape)}: same B and d, and H a multiple of H_kv")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise InputError(f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}: give one floating-point type")
    if not q.device == k.device == v.device:
        raise InputError(f"q, k, v are on {q.device}, {k.device}, {v.device}: put them on one device")
    scale = d_head**-0.5 if scale is None else float(scale)
    if not scale > 0:
        raise InputError(f"scale {scale}: relu(scale x) = scale relu(x) needs a scale above 0")
    if n_visible is None:
        n_visible = n_keys
    if isinstance(n_visible, torch.Tensor):
        if n_visible.numel() != 1:
            raise InputError(f"n_visible has {n_visible.numel()} elements: give an int or a tensor of one")
    elif not n_queries <= n_visible <= n_keys:
        raise InputError(
            f"{n_visible} visible keys for {n_queries} queries and {n_keys} keys: need queries <= visible <= keys"
        )
    return scale, n_visible


def without_gradients(name: str, *tensors: Tensor) -> None:
    """Refuse inputs that ask for a gradient which the kernel `name` would silently drop."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise InputError(f"backend '{name}' computes no gradients: use backend='naive', or torch.no_grad()")


def output_like(q: Tensor, out: Tensor | None) -> Tensor:
    """`out` if it fits q, a new tensor in q's order of strides if it is None."""
    if out is None:
        return torch.empty_like(q)
    if out.shape != q.shape or out.dtype != q.dtype or out.device != q.device:
        raise InputError(
            f"out is {list(out.shape)} {out.dtype} on {out.device}: give {list(q.shape)} {q.dtype} on {q.device}"
        )
    return out
