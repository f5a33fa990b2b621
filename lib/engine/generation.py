"""Generation under a plan, and the unmodified model's judgement of what was generated.

With the cache, prompts go through the model once and every further token costs one position; keys and folded values
lie in buffers made once. Rows whose tokens agree so far, as samples of one prompt do for a while, are computed once.
Every row draws from a generator of its own, so that a text does not depend on the rows beside it. Without the cache it
is the published protocol: hooks, and the whole sequence again for every token.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lib.engine import dispatch
from lib.engine.interventions import Plan, apply
from lib.engine.modes import by_weights, constants, heads_z, weights
from lib.errors import InputError
from lib.model.adapters import Decoder, adapter
from lib.progress import progress

CACHE_BYTES = 10 * 2**25  # keys and values held at once
PREFILL_TOKENS = 1024  # prompt tokens in one forward pass
SCORED_LOGITS = 2**22  # logits held at once


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: ArrayLike,
    n_new: int,
    plan: Plan,
    *,
    means: Tensor | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    cached: bool = True,
    backend: str = "auto",
    label: str = "",
) -> np.ndarray:
    """`n_new` tokens after each row of `prompts` [B, P]; int32 [B, n_new].

    Greedy at temperature 0; else sampled, each row with its own seed from `seeds` [B]. `means` [n_layer, n_head,
    d_head] are needed by plans that say so. `cached=False` recomputes the whole sequence for each token.
    A `label` names the work in a progress bar.
    `InputError` when prompt and new tokens do not fit the model's positions.
    """
    arch = adapter(model)
    plan.check(arch, means)
    texts = _checked_prompts(prompts, n_new, arch)
    draws = _draws(len(texts), n_new, temperature, seeds)
    if not cached:
        return _recompute(model, texts, n_new, plan, means, temperature, draws, backend)
    decoder = _Decoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    return decoder.generate(texts, n_new, temperature, draws, (), False, label)[0]


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    prompts: ArrayLike,
    n_new: int,
    plan: Plan,
    *,
    ends: Sequence[int],
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    means: Tensor | None = None,
    backend: str = "auto",
    label: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Texts that end: (tokens int32 [B, n_new], their negative log-likelihood float32 [B, n_new] under `plan`).

    As `generate`, but a row that has written one of `ends` costs nothing more: that token fills it up, at an NLL of 0.
    The likelihood is that of the model itself, whatever the temperature.
    """
    arch = adapter(model)
    plan.check(arch, means)
    texts = _checked_prompts(prompts, n_new, arch)
    draws = _draws(len(texts), n_new, temperature, seeds)
    decoder = _Decoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    return decoder.generate(texts, n_new, temperature, draws, ends, True, label)


@torch.inference_mode()
def continuation_nll(
    model: PreTrainedModel,
    sequences: ArrayLike,
    n_scored: int,
    plan: Plan | None = None,
    *,
    means: Tensor | None = None,
    backend: str = "auto",
) -> np.ndarray:
    """Negative log-likelihood of the last `n_scored` tokens of each row of `sequences` [B, L]; float32 [B, n_scored].

    The unmodified model judges, or the model under `plan`. What precedes the scored tokens goes through it once for
    all rows that share it.
    """
    plan = Plan() if plan is None else plan
    arch = adapter(model)
    texts = _checked_sequences(sequences, arch)
    if not 1 <= n_scored < texts.shape[1] <= arch.n_positions:
        raise InputError(
            f"{n_scored} of {texts.shape[1]} tokens to be scored: need 1 or more, one before them, and at most "
            f"{arch.n_positions} in all"
        )
    plan.check(arch, means)
    decoder = _Decoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    parts = [decoder.judge(texts[rows], n_scored) for rows in decoder.groups(*texts.shape)]
    return torch.cat(parts).numpy(force=True)


class _Cache:
    """Keys and folded values [n_rows, n_kv_head, n_max, d_head] of every layer; `length` positions are filled.

    There is room for `n_rows` rows, of which the first `n_used` are computed.
    """

    def __init__(self, arch: Decoder, n_rows: int, n_max: int) -> None:
        shape = (arch.n_layer, 2, n_rows, arch.n_kv_head, n_max, arch.d_head)
        self.content = torch.empty(shape, dtype=arch.dtype, device=arch.device)
        self.length, self.n_used = 0, n_rows

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Adds k, v [B, H_kv, T, d] behind the filled positions; returns all keys and values up to there."""
        stop = self.length + k.shape[2]
        for content, new in zip(self.content[layer, :, : self.n_used], (k, v), strict=True):
            content[:, :, self.length : stop] = new
        return self.content[layer, :, : self.n_used, :, :stop]

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


class _Decoder:
    """A model under a plan, with a cache: the values lie in the folded basis, for every head and mode."""

    def __init__(self, arch: Decoder, plan: Plan, means: Tensor | None, backend: str) -> None:
        self.arch, self.backend = arch, backend
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

    def generate(
        self,
        prompts: Tensor,
        n_new: int,
        temperature: float,
        draws: Tensor,
        ends: Sequence[int],
        scored: bool,
        label: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, their NLL where they are `scored`, else zeros), both [B, n_new]."""
        with progress(label, len(prompts) * n_new if label else 0, "tok") as bar:
            parts = [
                self._generate(prompts[rows], n_new, temperature, draws[rows], ends, scored, bar)
                for rows in self.groups(len(prompts), prompts.shape[1] + n_new)
            ]
        tokens, nll = (torch.cat(part) for part in zip(*parts, strict=True))
        return tokens.to(torch.int32).numpy(force=True), nll.numpy(force=True)

    def _generate(
        self,
        prompts: Tensor,
        n_new: int,
        temperature: float,
        draws: Tensor,
        ends: Sequence[int],
        scored: bool,
        bar: tqdm,
    ) -> tuple[Tensor, Tensor]:
        device = prompts.device
        last = torch.tensor(list(ends), dtype=torch.long, device=device)
        cache, row_of, logits = self.prefill(prompts, prompts.shape[1] + n_new)
        tokens = torch.empty(len(prompts), n_new, dtype=torch.long, device=device)
        nll = torch.zeros(len(prompts), n_new, device=device)
        texts = torch.arange(len(prompts), device=device)  # those that have not ended
        for step in range(n_new):
            own = logits[row_of]
            chosen = _choose(own, temperature, draws[:, step])
            tokens[texts, step:] = chosen[:, None]
            if scored:
                nll[texts, step] = dispatch.token_nll(own, chosen, backend=self.backend)
            bar.update(len(chosen))
            going = ~torch.isin(chosen, last)
            some_ended = bool(ends) and not going.all()
            if some_ended:
                texts, row_of, chosen, draws = texts[going], row_of[going], chosen[going], draws[going.cpu()]
            if step + 1 == n_new or len(texts) == 0:
                break
            if some_ended or temperature:
                row_of, heads = cache.branch(row_of, chosen)
            else:
                heads = torch.empty(cache.n_used, dtype=torch.long, device=device).scatter_(0, row_of, chosen)
            logits = self.logits(self.advance(heads[:, None], cache)[:, -1])
        return tokens, nll

    def judge(self, sequences: Tensor, n_scored: int) -> Tensor:
        n_prompt = sequences.shape[1] - n_scored
        cache, row_of, logits = self.prefill(sequences[:, :n_prompt], sequences.shape[1])
        first = dispatch.token_nll(logits[row_of], sequences[:, n_prompt], backend=self.backend)
        if n_scored == 1:
            return first[:, None]
        cache.spread(row_of)
        hidden = self.advance(sequences[:, n_prompt:-1], cache).flatten(0, 1)
        targets = sequences[:, n_prompt + 1 :].flatten()
        step = max(1, SCORED_LOGITS // self.arch.vocab_size)
        rest = [
            dispatch.token_nll(self.logits(hidden[at : at + step]), targets[at : at + step], backend=self.backend)
            for at in range(0, len(targets), step)
        ]
        return torch.cat([first[:, None], torch.cat(rest).view(len(sequences), -1)], dim=1)

    def prefill(self, prompts: Tensor, n_max: int) -> tuple[_Cache, Tensor, Tensor]:
        """(cache of `n_max` positions with the different ones of `prompts` [B, P], row of each [B], logits after them).

        The cache has room for B rows.
        """
        unique, row_of = torch.unique(prompts, dim=0, return_inverse=True)
        cache = _Cache(self.arch, len(prompts), n_max)
        step = max(1, PREFILL_TOKENS // prompts.shape[1])
        logits = []
        for start in range(0, len(unique), step):
            part = _Cache(self.arch, len(unique[start : start + step]), prompts.shape[1])
            logits.append(self.logits(self.advance(unique[start : start + step], part)[:, -1]))
            cache.content[:, :, start : start + part.n_used, :, : prompts.shape[1]] = part.content
        cache.length, cache.n_used = prompts.shape[1], len(unique)
        return cache, row_of, torch.cat(logits)

    def advance(self, tokens: Tensor, cache: _Cache) -> Tensor:
        """Residuals [B, T, E] after the last layer for T further tokens, which the cache then holds."""
        arch, start = self.arch, cache.length
        resid = arch.embed(tokens, start)
        for layer, (changed, constant, bias, kv_bias) in enumerate(self.layers):
            q, k, v = arch.qkv(layer, resid, start)
            keys, values = cache.append(layer, k, v - kv_bias)
            attend = self._one_query if tokens.shape[1] == 1 else self._many_queries
            z = attend(q, keys, values, changed, arch.scale(layer)).transpose(1, 2) + bias
            for head, own in constant.items():
                z[:, :, head] = own
            resid = arch.mlp(layer, arch.attention_out(layer, resid, z.flatten(2)))
        cache.length = start + tokens.shape[1]
        return resid

    def logits(self, resid: Tensor) -> Tensor:
        logits = self.arch.logits(self.arch.final(resid))
        if not torch.isfinite(logits).all():
            raise InputError("the logits are not finite while generating: check the model's weights")
        return logits

    def _layer(
        self, edits: Mapping[int, str], layer: int, means: Tensor | None
    ) -> tuple[dict[str, list[int]], dict[int, Tensor], Tensor, Tensor]:
        """({mode: heads} of changed weights, {head: z} of constants, v̄ [H, d], v̄ of the kv heads [H_kv, 1, d])."""
        bias, group = self.arch.value_bias(layer), self.arch.n_head // self.arch.n_kv_head
        return by_weights(edits.items()), constants(edits, bias, means), bias, bias[::group, None]

    def _many_queries(
        self, q: Tensor, keys: Tensor, values: Tensor, changed: Mapping[str, list[int]], scale: float
    ) -> Tensor:
        """Folded z [B, H, T, d] for T queries at the end of the S cached positions."""
        group, n_queries, n_keys = q.shape[1] // keys.shape[1], q.shape[2], keys.shape[2]
        mask = None
        if n_queries < n_keys:
            mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_queries)
        z = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=group > 1
        )
        for name, heads in changed.items():
            z[:, heads] = heads_z(name, heads, q, keys, values, scale=scale, backend=self.backend)
        return z

    def _one_query(
        self, q: Tensor, keys: Tensor, values: Tensor, changed: Mapping[str, list[int]], scale: float
    ) -> Tensor:
        """Folded z [B, H, 1, d] of the newest position.

        On a CPU all heads' scores at once, then each head's own weights; elsewhere the backend's decoding kernel.
        """
        n_head, n_kv_head = q.shape[1], keys.shape[1]
        if self.backend not in dispatch.FOR_CPU and changed and all(weights(name).is_relu for name in changed):
            relu = {head for heads in changed.values() for head in heads}
            is_relu = [head in relu for head in range(n_head)]
            return dispatch.mixed_attention(q, keys, values, is_relu, scale=scale, backend=self.backend)
        grouped = (q * scale).view(len(q), n_kv_head, -1, q.shape[-1])
        scores = torch.matmul(grouped, keys.mT).view(len(q), n_head, -1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        pattern = scores.softmax(-1)
        for name, heads in changed.items():
            mode, own = weights(name), scores[:, heads]
            if mode.features is not None:
                kv = [head // (n_head // n_kv_head) for head in heads]
                queries, own_keys = mode.featured(q[:, heads]) * scale, mode.featured(keys[:, kv])
                own = torch.matmul(queries, own_keys.mT)[:, :, 0].to(scores.dtype)
            pattern[:, heads] = mode.pattern(own)
        return torch.matmul(pattern.to(values.dtype).view(*grouped.shape[:3], -1), values).view_as(q)


def _recompute(
    model: PreTrainedModel,
    prompts: Tensor,
    n_new: int,
    plan: Plan,
    means: Tensor | None,
    temperature: float,
    draws: Tensor,
    backend: str,
) -> np.ndarray:
    tokens = prompts
    with apply(model, plan, means, backend):
        for step in range(n_new):
            logits = model(tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, _choose(logits, temperature, draws[:, step])[:, None]], dim=1)
    return tokens[:, prompts.shape[1] :].to(torch.int32).numpy(force=True)


def _draws(n_rows: int, n_new: int, temperature: float, seeds: Sequence[int] | None) -> Tensor:
    """Uniform numbers [B, n_new], float64, row by row from the row's own generator."""
    if temperature < 0:
        raise InputError(f"temperature {temperature}: allowed are 0 (greedy) and above")
    if temperature == 0:
        return torch.zeros(n_rows, n_new, dtype=torch.float64)
    if seeds is None or len(seeds) != n_rows:
        given = "none" if seeds is None else len(seeds)
        raise InputError(f"{n_rows} prompts to be sampled and {given} seeds: give one for each prompt")
    rows = [torch.rand(n_new, generator=torch.Generator().manual_seed(int(s)), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)


def _choose(logits: Tensor, temperature: float, draws: Tensor) -> Tensor:
    """Token ids [B] for logits [B, vocab_size]: the largest, or the one on which the row's draw falls."""
    if temperature == 0:
        return logits.argmax(-1)
    device = logits.device
    if device.type == "mps":  # has no float64
        logits = logits.cpu()
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    at = draws.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1).to(device)


def _checked_prompts(prompts: ArrayLike, n_new: int, arch: Decoder) -> Tensor:
    texts = _checked_sequences(prompts, arch)
    if n_new < 1 or texts.shape[1] + n_new > arch.n_positions:
        raise InputError(
            f"{texts.shape[1]} prompt tokens and {n_new} new ones do not fit: need 1 or more new tokens and at most "
            f"{arch.n_positions} in all"
        )
    return texts


def _checked_sequences(texts: ArrayLike, arch: Decoder) -> Tensor:
    sequences = torch.as_tensor(np.asarray(texts), dtype=torch.long, device=arch.device)
    if sequences.ndim != 2 or 0 in sequences.shape:
        raise InputError(f"sequences have the shape {list(sequences.shape)}: give [B, L], both 1 or more")
    arch.check_ids(sequences)
    return sequences
