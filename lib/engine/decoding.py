"""A model under a plan, with a cache: many positions at once, or one more for every text.

Keys and folded values lie in buffers made once. A pass over a `FixedCache` is the same work for every token, whatever
has been written before it, so that a CUDA graph can repeat it (`lib.engine.graph_generation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.engine import dispatch
from lib.engine.interventions import Plan
from lib.engine.modes import Weights, by_weights, constants, heads_z, weights
from lib.errors import InputError
from lib.model.adapters import Decoder

CACHE_BYTES = 10 * 2**25  # keys and values held at once
PREFILL_TOKENS = 1024  # prompt tokens in one forward pass


@dataclass(frozen=True)
class Writing:
    """What is wanted after each prompt: `n_new` tokens at a temperature, until one of `ends` [n]; `scored` with NLL."""

    n_new: int
    temperature: float
    ends: Tensor
    scored: bool


@dataclass(frozen=True)
class Changed:
    """A layer's heads under one mode of changed weights, and they and their kv heads as index tensors [n]."""

    name: str
    mode: Weights
    heads: list[int]
    index: Tensor
    kv_index: Tensor


@dataclass(frozen=True)
class PlannedLayer:
    """What a plan does in a layer: heads of changed weights, {head: z} of constants; v̄ [H, d], and [H_kv, 1, d]."""

    changed: list[Changed]
    constant: dict[int, Tensor]
    bias: Tensor
    kv_bias: Tensor


@dataclass(frozen=True)
class Visible:
    """What a query sees of a cache that shows itself whole: the first `number` [1] keys, not the `hidden` [S] ones."""

    number: Tensor
    hidden: Tensor


class Cache:
    """Keys and folded values [n_rows, n_kv_head, n_max, d_head] of every layer; `length` positions are filled.

    There is room for `n_rows` rows, of which the first `n_used` are computed.
    """

    def __init__(self, arch: Decoder, n_rows: int, n_max: int) -> None:
        self.content = _room(arch, n_rows, n_max)
        self.length, self.n_used = 0, n_rows

    def start(self) -> int:
        """The position that comes next."""
        return self.length

    def visible(self) -> None:
        """A query sees all that `append` returns."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Adds k, v [B, H_kv, T, d] behind the filled positions; returns all keys and values up to there."""
        stop = self.length + k.shape[2]
        for content, new in zip(self.content[layer, :, : self.n_used], (k, v), strict=True):
            content[:, :, self.length : stop] = new
        return self.content[layer, :, : self.n_used, :, :stop]

    def grow(self, n_tokens: int) -> None:
        """Every layer has appended so many."""
        self.length += n_tokens

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Rows `source` [n] as they are filled, also as rows `target` [n]; what is in between is a layer's."""
        for layer in self.content:
            layer[:, target, :, : self.length] = layer[:, source, :, : self.length]

    def spread(self, row_of: Tensor) -> None:
        """Each row of `row_of` [n_rows] in its place."""
        self.copy(row_of, torch.arange(len(row_of), device=row_of.device))
        self.n_used = len(row_of)

    def branch(self, row_of: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Texts that lie in rows `row_of` [B] go on with `tokens` [B]: (their rows [B] now, the token of each row).

        One text stays in a row, those that go on in the same way with it; the others get copies, in rows that are
        free. Rows without a text are given up.
        """
        n_tokens = int(tokens.max()) + 1
        pairs, pair_of = torch.unique(row_of * n_tokens + tokens, return_inverse=True)
        parents, own, n = pairs // n_tokens, pairs % n_tokens, len(pairs)
        stays = parents < n
        stays[1:] &= parents[1:] != parents[:-1]
        free = torch.ones(n, dtype=torch.bool, device=row_of.device)
        free[parents[stays]] = False
        rows = parents.clone()
        rows[~stays] = free.nonzero().flatten()
        if not stays.all():
            self.copy(parents[~stays], rows[~stays])
        self.n_used = n
        return rows[pair_of], torch.empty_like(own).scatter_(0, rows, own)


class FixedCache:
    """A cache to which one position of every row is added at a time, and whose every step is the same work.

    How many positions are filled lies on the device, `length` [1]; what is not filled is 0, shown and hidden.
    """

    def __init__(self, arch: Decoder, n_rows: int, n_max: int) -> None:
        self.content = _room(arch, n_rows, n_max).zero_()
        self.length = torch.zeros(1, dtype=torch.long, device=arch.device)
        self._places = torch.arange(n_max, device=arch.device)

    def fill(self, cache: Cache, row_of: Tensor) -> None:
        """Takes over rows `row_of` [n_rows] of a cache as it is filled."""
        for own, theirs in zip(self.content, cache.content, strict=True):
            own[..., : cache.length, :] = theirs[:, row_of, :, : cache.length]
        self.length.fill_(cache.length)

    def start(self) -> Tensor:
        """The position that comes next [1], a tensor of its own for every pass."""
        return self.length.clone()

    def visible(self) -> Visible:
        """What the query of the position that comes next sees."""
        return Visible(self.length + 1, self._places > self.length)

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Adds k, v [n_rows, H_kv, 1, d] behind the filled positions; returns the whole buffer."""
        for content, new in zip(self.content[layer], (k, v), strict=True):
            content.index_copy_(2, self.length, new)
        return self.content[layer]

    def grow(self, n_tokens: int) -> None:
        """Every layer has appended so many."""
        self.length += n_tokens


class PlannedDecoder:
    """A model under a plan: the values lie in the folded basis, for every head and mode."""

    def __init__(self, arch: Decoder, plan: Plan, means: Tensor | None, backend: str) -> None:
        self.arch, self.backend = arch, backend
        self.identity = plan, None if means is None else means.double().numpy(force=True).tobytes(), backend
        arch.pack()
        self.layers = [
            self._layer(plan.layer(layer), layer, None if means is None else means[layer])
            for layer in range(arch.n_layer)
        ]

    def groups(self, n_rows: int, n_max: int) -> list[slice]:
        """Slices of rows, as equal as can be, whose caches of `n_max` positions fit `CACHE_BYTES`."""
        arch = self.arch
        row_bytes = 2 * arch.n_layer * arch.n_kv_head * arch.d_head * n_max * arch.dtype.itemsize
        n_groups = -(-n_rows // max(1, CACHE_BYTES // row_bytes))
        ends = [n_rows * i // n_groups for i in range(n_groups + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    def prefill(self, prompts: Tensor, n_max: int) -> tuple[Cache, Tensor, Tensor]:
        """(cache of `n_max` positions with the different ones of `prompts` [B, P], row of each [B], logits after them).

        The cache has room for B rows.
        """
        unique, row_of = torch.unique(prompts, dim=0, return_inverse=True)
        cache = Cache(self.arch, len(prompts), n_max)
        step = max(1, PREFILL_TOKENS // prompts.shape[1])
        logits = []
        for start in range(0, len(unique), step):
            part = Cache(self.arch, len(unique[start : start + step]), prompts.shape[1])
            logits.append(self.logits(self.advance(unique[start : start + step], part)[:, -1]))
            cache.content[:, :, start : start + part.n_used, :, : prompts.shape[1]] = part.content
        cache.length, cache.n_used = prompts.shape[1], len(unique)
        return cache, row_of, torch.cat(logits)

    def advance(self, tokens: Tensor, cache: Cache | FixedCache) -> Tensor:
        """Residuals [B, T, E] after the last layer for T further tokens, which the cache then holds."""
        arch, start, visible = self.arch, cache.start(), cache.visible()
        resid = arch.embed(tokens, start)
        for layer, own_plan in enumerate(self.layers):
            q, k, v = arch.qkv(layer, resid, start)
            keys, values = cache.append(layer, k, v - own_plan.kv_bias)
            if tokens.shape[1] == 1:
                z = self._one_query(q, keys, values, own_plan.changed, arch.scale(layer), visible)
            else:
                z = self._many_queries(q, keys, values, own_plan.changed, arch.scale(layer))
            z = z.transpose(1, 2) + own_plan.bias
            for head, own in own_plan.constant.items():
                z[:, :, head] = own
            resid = arch.mlp(layer, arch.attention_out(layer, resid, z.flatten(2)))
        cache.grow(tokens.shape[1])
        return resid

    def logits(self, resid: Tensor) -> Tensor:
        """Logits [..., vocab_size] after the last norm; `InputError` unless all are finite."""
        logits = self.arch.logits(self.arch.final(resid))
        check_finite(bool(torch.isfinite(logits).all()))
        return logits

    def _layer(self, edits: Mapping[int, str], layer: int, means: Tensor | None) -> PlannedLayer:
        bias, group = self.arch.value_bias(layer), self.arch.n_head // self.arch.n_kv_head
        changed = []
        for name, heads in by_weights(edits.items()).items():
            index = torch.tensor(heads, device=bias.device)
            changed.append(Changed(name, weights(name), heads, index, index // group))
        return PlannedLayer(changed, constants(edits, bias, means), bias, bias[::group, None])

    def _many_queries(self, q: Tensor, keys: Tensor, values: Tensor, changed: list[Changed], scale: float) -> Tensor:
        """Folded z [B, H, T, d] for T queries at the end of the S cached positions."""
        group, n_queries, n_keys = q.shape[1] // keys.shape[1], q.shape[2], keys.shape[2]
        mask = None
        if n_queries < n_keys:
            mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_queries)
        z = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=group > 1
        )
        for own in changed:
            z[:, own.heads] = heads_z(own.name, own.heads, q, keys, values, scale=scale, backend=self.backend)
        return z

    def _one_query(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        changed: list[Changed],
        scale: float,
        visible: Visible | None,
    ) -> Tensor:
        """Folded z [B, H, 1, d] of the newest position, which sees all S keys or those that are `visible`.

        On a CPU all heads' scores at once, then each head's own weights; elsewhere the backend's decoding kernel.
        """
        n_head, n_kv_head = q.shape[1], keys.shape[1]
        by_kernel = self.backend not in dispatch.FOR_CPU and all(own.mode.is_relu for own in changed)
        if by_kernel and (changed or visible):
            relu = {head for own in changed for head in own.heads}
            is_relu = [head in relu for head in range(n_head)]
            n_visible = None if visible is None else visible.number
            return dispatch.mixed_attention(
                q, keys, values, is_relu, scale=scale, n_visible=n_visible, backend=self.backend
            )
        grouped = (q * scale).view(len(q), n_kv_head, -1, q.shape[-1])
        scores = torch.matmul(grouped, keys.mT).view(len(q), n_head, -1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        hidden = None if visible is None else visible.hidden.expand(len(q), 1, -1)
        pattern = (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(-1)
        for own in changed:
            if own.mode.features is None:
                raw = scores.index_select(1, own.index)
            else:
                queries = own.mode.featured(q.index_select(1, own.index)) * scale
                own_keys = own.mode.featured(keys.index_select(1, own.kv_index))
                raw = torch.matmul(queries, own_keys.mT)[:, :, 0].to(scores.dtype)
            pattern.index_copy_(1, own.index, own.mode.pattern(raw, hidden))
        return torch.matmul(pattern.to(values.dtype).view(*grouped.shape[:3], -1), values).view_as(q)


def choose(logits: Tensor, temperature: float, draws: Tensor) -> Tensor:
    """Token ids [B] for logits [B, vocab_size]: the largest, or the one on which the row's draw (0–1, [B]) falls."""
    if temperature == 0:
        return logits.argmax(-1)
    device = logits.device
    if device.type == "mps":  # has no float64
        logits = logits.cpu()
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    at = draws.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1).to(device)


def check_finite(finite: bool) -> None:
    """`InputError` where some logit was not."""
    if not finite:
        raise InputError("the logits are not finite while generating: check the model's weights")


def _room(arch: Decoder, n_rows: int, n_max: int) -> Tensor:
    shape = (arch.n_layer, 2, n_rows, arch.n_kv_head, n_max, arch.d_head)
    return torch.empty(shape, dtype=arch.dtype, device=arch.device)
