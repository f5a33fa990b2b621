"""Which kernel computes ReLU attention: a plain table by device.

`auto` takes the first backend of the device's row that this machine has; any other name must be there, or the
call is an error. `resolve` returns the name that results record.
"""

import importlib.util
from collections.abc import Sequence
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels import naive
from lib.errors import InputError

BACKENDS = ("auto", "naive", "triton", "metal", "native", "cpu")
BY_DEVICE = {"cuda": ("triton", "naive"), "mps": ("metal", "naive"), "cpu": ("native", "cpu", "naive")}
FOR_CPU = ("native", "cpu")
DIFFERENTIABLE = ("naive", "triton")


def present(name: str) -> bool:
    """Whether this installation can run the backend at all."""
    if name == "triton":
        return importlib.util.find_spec("triton") is not None
    if name == "metal":
        return hasattr(torch, "mps") and hasattr(torch.mps, "compile_shader")
    return name != "native" or _module(name).available()


def resolve(backend: str = "auto", device: str | torch.device = "cpu", gradients: bool = False) -> str:
    """The name of the backend that will run on `device`; `InputError` where the one asked for is not there."""
    kind = torch.device(device).type
    row = [n for n in BY_DEVICE.get(kind, ("naive",)) if present(n) and (n in DIFFERENTIABLE or not gradients)]
    if backend == "auto":
        return row[0]
    if backend not in BACKENDS:
        raise InputError(f"backend '{backend}' is unknown: choose one of {', '.join(BACKENDS)}")
    if backend not in row:
        what = "computes no gradients" if gradients and present(backend) else "is not there"
        raise InputError(f"backend '{backend}' {what} on device '{kind}': choose one of auto, {', '.join(row)}")
    return backend


def relu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal row-normalised ReLU attention, z [B, H, T, d]; see `kernels.naive.relu_attention`.

    Where `naive` computes gradients, its matrices [T, S] are made again on the way back, not kept from every layer.
    """
    kernels = _kernels(backend, q, k, v)
    compute = partial(kernels.relu_attention, scale=scale, n_visible=n_visible)
    if kernels is naive and _want_gradients(q, k, v):
        return checkpoint(compute, q, k, v, use_reentrant=False, preserve_rng_state=False)
    return compute(q, k, v)


def mixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_relu: Sequence[bool],
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """ReLU in the heads where `is_relu` (one bool per query head) says so, softmax in the others."""
    return _kernels(backend, q, k, v).mixed_attention(q, k, v, is_relu, scale=scale, n_visible=n_visible)


def computes_softmax(backend: str) -> bool:
    """Whether a backend that `resolve` has named also computes the heads that keep their softmax."""
    return backend == "native"


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, backend: str) -> Tensor:
    """Causal softmax attention z [B, H, T, d] by the resolved `backend`'s own form, else by PyTorch's.

    Which of the two depends on the shape alone, so a head's z is the same whatever is computed beside it. bfloat16 is
    computed in float32 on a CPU.
    """
    if computes_softmax(backend) and _module(backend).suits(q, "softmax"):
        return _module(backend).softmax_attention(q, k, v, scale=scale)
    dtype, grouped = q.dtype, q.shape[1] != k.shape[1]
    if q.device.type == "cpu" and dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped).to(dtype)


def token_nll(logits: Tensor, targets: Tensor, *, backend: str) -> Tensor:
    """-log softmax(logits)[target], float32 [n], of logits [n, vocab_size] and targets [n]; `backend` is resolved."""
    if computes_softmax(backend):
        own = logits.gather(1, targets[:, None])[:, 0]
        return (log_sum_exp(logits, backend=backend) - own).float()
    return F.cross_entropy(logits.float(), targets, reduction="none")


def log_sum_exp(logits: Tensor, *, backend: str) -> Tensor:
    """log Σ exp(logits) of each row [n, n_columns], float64 [n]; `backend` is resolved."""
    if computes_softmax(backend):
        return _module(backend).log_sum_exp(logits)
    return logits.float().logsumexp(-1).double()


def _kernels(backend: str, *inputs: Tensor) -> ModuleType:
    """The module of the backend that `resolve` names for these inputs."""
    return _module(resolve(backend, inputs[0].device, _want_gradients(*inputs)))


def _want_gradients(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def _module(name: str) -> ModuleType:
    if name == "cpu":
        from kernels import cpu

        return cpu
    if name == "native":
        from kernels import native

        return native
    if name == "triton":
        from kernels import triton_attention

        return triton_attention
    if name == "metal":
        from kernels import metal

        return metal
    return naive
