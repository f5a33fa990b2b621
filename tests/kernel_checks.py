"""Inputs of the kernel tests, and what their results are held to."""

import torch

from kernels import naive
from kernels.inputs import checked
from kernels.naive import tolerance

LENGTHS = [1, 2, 15, 63, 64, 65, 111, 1000, 1024, 2049]


def inputs(shape=(1, 2, 65, 16), n_keys=None, group=1, dtype=torch.float32, factor=1.0, seed=0, device="cpu"):
    """q, k and v of normal numbers, q and k times `factor`."""
    n_batch, n_head, n_queries, d_head = shape
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape] + 2 * [(n_batch, n_head // group, n_keys or n_queries, d_head)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [x.to(device, dtype) for x in (q * factor, k * factor, v)]


def strided(x):
    """The same numbers as a slice of a wider row-major [B, T, heads * d] buffer, as a fused projection makes them."""
    n_batch, n_head, length, d_head = x.shape
    wide = torch.full((n_batch, length, n_head * d_head + 3), float("nan"), dtype=x.dtype, device=x.device)
    view = wide[..., 3:].unflatten(-1, (n_head, d_head)).transpose(1, 2)
    view.copy_(x)
    return view


def errors(z, q, k, v, reference=naive.relu_attention, **settings):
    """`(in norm, per element)` against float64, each as a share of what rounding allows.

    An element may be off by the tolerance times the sum of its terms' magnitudes, and by what float32's rounding of
    the scores, eps |q| |k|, does to a pattern whose row sum is small; a
    subnormal of the result's type is not held against it.
    """
    settings = {name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in settings.items()}
    dtype, sums = z.dtype, torch.promote_types(z.dtype, torch.float32)
    z, q, k, v = (x.detach().double().cpu() for x in (z, q, k, v))
    want = reference(q, k, v, **settings)
    scale, n_visible = checked(q, k, v, **settings)
    repeated = [x.abs().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v)]
    mask = naive.visible(q.shape[2], k.shape[2], n_visible)
    products = scale * (q.abs() @ repeated[0].mT).masked_fill(~mask, 0)
    row_sum = torch.relu(scale * (q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT)).masked_fill(~mask, 0)
    row_sum = row_sum.sum(-1, keepdim=True).clamp(min=1e-8)
    sensitivity = (products @ repeated[1] + products.sum(-1, keepdim=True) * want.abs()) / row_sum
    allowed = 2 * tolerance(dtype) * reference(q, k, v.abs(), **settings) + torch.finfo(sums).eps * sensitivity
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    difference = ((z - want).abs() - subnormal).clamp(min=0) if z.isfinite().all() else (z - want).abs()
    element = (difference / allowed.clamp(min=1e-300)).masked_fill(difference == 0, 0).max()
    return float(difference.norm() / want.norm().clamp(min=1e-300) / tolerance(dtype)), float(element)


def close(z, q, k, v, **settings):
    """Assert that both errors stay within what is allowed; NaN anywhere fails."""
    norm, element = errors(z, q, k, v, **settings)
    assert norm <= 1 and element <= 1, f"norm {norm:.2f}, element {element:.2f} of what is allowed"
