"""The modes: what can be done to a head. One table, from which scoring, hooks and generation follow.

With s = scale q kᵀ over the visible keys, v̄ the value bias (`Decoder.value_bias`) and N the number of visible keys:

    zero       z = v̄                                mean      z = the given mean of the head's z
    relu       w = relu(s) / max(Σ relu(s), 1e-8)    l1        w = |s| / max(Σ |s|, 1e-8)
    identity   w = s / max(Σ |s|, 1e-8)              factored  w = s / max(Σ s, 1e-8), s from relu(q) and relu(k)
    uniform    w = 1 / N                             softmax   w = exp(s) / Σ exp(s)

The weights act in the basis in which the value bias has been folded into the output bias, as in TransformerLens'
default weight processing: z_folded = w (v - v̄), and back in the model's own basis z = w (v - v̄) + v̄. Where a row
of w sums to 1 this is w v; a row without a positive score gives v̄, and rows of `identity`, which may sum to
anything in [-1, 1], do not shrink or flip the constant v̄. In a model without value bias v̄ is 0.

Two modes are controls. `uniform` asks whether it matters where a head looks; `softmax` computes what the model
computes anyway, by the path of the changed heads.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import torch
from torch import Tensor

from lib.engine import dispatch
from lib.errors import InputError

CLAMP = 1e-8
QUERY_BLOCK = 128
SHORT = 2**16  # scores of a head up to which all heads are computed in one product


@dataclass(frozen=True)
class Constant:
    """A head whose z is the same for every token: `z(value bias [d], mean [d])`, both in the model's own basis.

    A mode that reads the mean says that it `needs_means`; for others it may be None.
    """

    z: Callable[..., Tensor]
    needs_means: bool = False
    kernel = False


@dataclass(frozen=True)
class Weights:
    """A head whose attention weights are others: `weigh(scores [..., S])` gives them, not yet normalised.

    A score that the query may not see is -inf, and its weight becomes 0 whatever `weigh` makes of it. Then each row
    is divided by the sum of its absolute weights, at least 1e-8. `features` changes q and k before they meet.
    `kernel` says that relu attention of the features is the same thing, so that a kernel can compute it.
    """

    weigh: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor] | None = None
    kernel: bool = False
    needs_means = False

    @property
    def is_relu(self) -> bool:
        """Whether the mode is relu attention of q and k as they are, which one kernel computes beside softmax heads."""
        return self.kernel and self.features is None

    def featured(self, x: Tensor) -> Tensor:
        """What q or k are before they meet."""
        return x if self.features is None else self.features(x)

    def pattern(self, scores: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Row-normalised weights [..., S] of `scores` [..., S], which it may overwrite.

        Bool `hidden` [..., n] is True where a query may not look among the last n keys; it sees those before them.
        """
        if hidden is None:
            w = self.weigh(scores)
        else:
            n_last = hidden.shape[-1]
            scores[..., -n_last:].masked_fill_(hidden, -torch.inf)
            w = self.weigh(scores)
            w = w.clone() if w.requires_grad else w  # what a gradient is made from stays
            w[..., -n_last:].masked_fill_(hidden, 0)
        return w / w.abs().sum(-1, keepdim=True).clamp(min=CLAMP)


Mode = Constant | Weights

# fixed, since a score's key in the store names the sources and not what a process has added
MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "zero": Constant(lambda bias, mean: bias),
        "mean": Constant(lambda bias, mean: mean, needs_means=True),
        "relu": Weights(torch.relu, kernel=True),
        "l1": Weights(torch.abs),
        "identity": Weights(lambda s: s),
        "factored": Weights(lambda s: s, features=torch.relu, kernel=True),
        "uniform": Weights(torch.ones_like),
        "softmax": Weights(lambda s: (s - s.amax(-1, keepdim=True)).exp()),
    }
)


def look_up(name: str) -> Mode:
    """The mode of that name; `InputError` for one that the table does not have."""
    if name not in MODES:
        raise InputError(f"mode {name!r} is unknown: choose one of {', '.join(MODES)}")
    return MODES[name]


def weights(name: str) -> Weights:
    """The mode of that name, one that changes attention weights; `TypeError` for a constant one."""
    mode = look_up(name)
    if not isinstance(mode, Weights):
        raise TypeError(f"mode '{name}' has no attention weights")
    return mode


def constants(modes: Mapping[int, str], value_bias: Tensor, means: Tensor | None = None) -> dict[int, Tensor]:
    """{head: z [d]} of a layer's constant heads, from {head: mode}, v̄ [H, d] and, where needed, means [H, d]."""
    found = {}
    for head, name in modes.items():
        mode = look_up(name)
        if isinstance(mode, Constant):
            if mode.needs_means and means is None:
                raise InputError(f"mode '{name}' takes a head's z from its mean, but no means were given")
            mean = None if means is None else torch.as_tensor(means[head]).to(value_bias)
            found[head] = mode.z(value_bias[head], mean)
    return found


def by_weights(modes: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """{mode: [head, …]}, heads in order, of the `(head, mode)` whose attention weights change."""
    found: dict[str, list[int]] = {}
    for head, name in sorted(modes):
        if isinstance(look_up(name), Weights):
            found.setdefault(name, []).append(head)
    return found


def heads_z(
    name: str,
    heads: list[int],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    value_bias: Tensor | None = None,
    scale: float,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """z [B, n, T, d] of n `heads` under a mode that changes the attention weights.

    All the layer's heads come in: q [B, H, T, d], k and v [B, H_kv, S, d]. With `value_bias` [H, d] the values and z
    are in the model's own basis, without it in the folded one. `mask` is bool, broadcastable to [B, n, T, S], True
    where a query may look; None means causal, bottom right aligned. How a head is computed follows from its shape
    alone, so it does not depend on the heads beside it.
    """
    group = q.shape[1] // k.shape[1]
    kv_heads = [head // group for head in heads]
    q, k, v = pick(q, heads), pick(k, kv_heads), pick(v, kv_heads)  # [B, n, T, d], [B, n, S, d], [B, n, S, d]
    bias = None if value_bias is None else pick(value_bias[None], heads)[0, :, None]  # [n, 1, d]
    z = _folded_z(weights(name), q, k, v if bias is None else v - bias, scale, mask, backend)
    return z if bias is None else z + bias


def pick(x: Tensor, heads: Iterable[int]) -> Tensor:
    """The given heads of x [B, H, T, d], in that order; a copy of whole rows, which indexing does not make."""
    return torch.stack([x[:, head] for head in heads], dim=1)


def _folded_z(
    mode: Weights, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, backend: str
) -> Tensor:
    if mask is None and mode.kernel:
        return dispatch.relu_attention(mode.featured(q), mode.featured(k), v, scale=scale, backend=backend)
    z = torch.empty_like(q)
    short = q.shape[2] * k.shape[2] <= SHORT
    at_once: list[slice] = [slice(None)] if short else [slice(head, head + 1) for head in range(q.shape[1])]
    for b, heads in product(range(q.shape[0]), at_once):
        own_mask = None if mask is None else mask.expand(*q.shape[:2], -1, -1)[b, heads]
        z[b, heads] = _weighted(mode, q[b, heads], k[b, heads], v[b, heads], scale, own_mask)
    return z


def _weighted(mode: Weights, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """pattern v [..., T, d], in at least float32, for q [..., T, d] and k, v [..., S, d]; a block of queries a time."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = mode.featured(q.to(dtype)) * scale, mode.featured(k.to(dtype)), v.to(dtype)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    future = torch.ones(QUERY_BLOCK, QUERY_BLOCK, dtype=torch.bool, device=q.device).triu_(1)
    blocks = []
    for start in range(0, n_queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n_queries)
        seen = n_keys if mask is not None else n_keys - n_queries + stop
        scores = q[..., start:stop, :] @ k[..., :seen, :].mT  # [..., rows, seen]
        hidden = future[: stop - start, : stop - start] if mask is None else ~mask[..., start:stop, :]
        blocks.append(mode.pattern(scores, hidden) @ v[..., :seen, :])
    return torch.cat(blocks, dim=-2)
