"""Generation under a plan, and the unmodified model's judgement of what was generated.

With the cache, prompts go through the model once (equal prompts just once) and every further token costs one
position; keys and folded values lie in buffers made once. Every row draws from a generator of its own, so that a
text does not depend on the rows beside it. Without the cache it is the published protocol: hooks, and the whole
sequence again for every token.
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

CACHE_BYTES = 15 * 2**25  # keys and values held at once
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
    texts = _checked_sequences(prompts, arch)
    n_rows, n_prompt = texts.shape
    if n_new < 1 or n_prompt + n_new > arch.n_positions:
        raise InputError(
            f"{n_prompt} prompt tokens and {n_new} new ones do not fit: need 1 or more new tokens and at most "
            f"{arch.n_positions} in all"
        )
    draws = _draws(n_rows, n_new, temperature, seeds)
    if not cached:
        return _recompute(model, texts, n_new, plan, means, temperature, draws, backend)
    backend = dispatch.resolve(backend, arch.device)
    decoder = _Decoder(arch, plan, means, backend)
    with progress(label, n_rows * n_new if label else 0, "tok") as bar:
        parts = [
            decoder.generate(texts[rows], n_new, temperature, draws[rows], bar)
            for rows in decoder.groups(n_rows, n_prompt + n_new)
        ]
    return torch.cat(parts).to(torch.int32).numpy(force=True)


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
    """Keys and folded values [n_rows, n_kv_head, n_max, d_head] of every layer; `length` positions are filled."""

    def __init__(self, arch: Decoder, n_rows: int, n_max: int) -> None:
        shape = (arch.n_layer, 2, n_rows, arch.n_kv_head, n_max, arch.d_head)
        self.content = torch.empty(shape, dtype=arch.dtype, device=arch.device)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Adds k, v [B, H_kv, T, d] behind the filled positions; returns all keys and values up to there."""
        stop = self.length + k.shape[2]
        for content, new in zip(self.content[layer], (k, v), strict=True):
            content[:, :, self.length : stop] = new
        return self.content[layer, :, :, :, :stop]


class _Decoder:
    """A model under a plan, with a cache: the values lie in the folded basis, for every head and mode."""

    def __init__(self, arch: Decoder, plan: Plan, means: Tensor | None, backend: str) -> None:
        self.arch, self.backend = arch, backend
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

    def generate(self, prompts: Tensor, n_new: int, temperature: float, draws: Tensor, bar: tqdm) -> Tensor:
        cache, logits = self.prefill(prompts, prompts.shape[1] + n_new)
        tokens = torch.empty(len(prompts), n_new, dtype=torch.long, device=prompts.device)
        for step in range(n_new):
            tokens[:, step] = _choose(logits, temperature, draws[:, step])
            bar.update(len(prompts))
            if step + 1 < n_new:
                logits = self.logits(self.advance(tokens[:, step : step + 1], cache)[:, -1])
        return tokens

    def judge(self, sequences: Tensor, n_scored: int) -> Tensor:
        n_prompt = sequences.shape[1] - n_scored
        cache, logits = self.prefill(sequences[:, :n_prompt], sequences.shape[1])
        first = F.cross_entropy(logits.float(), sequences[:, n_prompt], reduction="none")
        if n_scored == 1:
            return first[:, None]
        hidden = self.advance(sequences[:, n_prompt:-1], cache).flatten(0, 1)
        targets = sequences[:, n_prompt + 1 :].flatten()
        step = max(1, SCORED_LOGITS // self.arch.vocab_size)
        rest = [
            F.cross_entropy(self.logits(hidden[at : at + step]).float(), targets[at : at + step], reduction="none")
            for at in range(0, len(targets), step)
        ]
        return torch.cat([first[:, None], torch.cat(rest).view(len(sequences), -1)], dim=1)

    def prefill(self, prompts: Tensor, n_max: int) -> tuple[_Cache, Tensor]:
        """(cache of `n_max` positions filled with `prompts` [B, P], logits [B, vocab_size] after them)."""
        unique, row_of = torch.unique(prompts, dim=0, return_inverse=True)
        cache = _Cache(self.arch, len(prompts), n_max)
        step = max(1, PREFILL_TOKENS // prompts.shape[1])
        logits = []
        for start in range(0, len(unique), step):
            part = _Cache(self.arch, len(unique[start : start + step]), prompts.shape[1])
            logits.append(self.logits(self.advance(unique[start : start + step], part)[:, -1]))
            for row, source in enumerate((row_of - start).tolist()):
                if 0 <= source < part.content.shape[2]:
                    cache.content[:, :, row, :, : prompts.shape[1]] = part.content[:, :, source]
        cache.length = prompts.shape[1]
        return cache, torch.cat(logits)[row_of]

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


def _checked_sequences(texts: ArrayLike, arch: Decoder) -> Tensor:
    sequences = torch.as_tensor(np.asarray(texts), dtype=torch.long, device=arch.device)
    if sequences.ndim != 2 or 0 in sequences.shape:
        raise InputError(f"sequences have the shape {list(sequences.shape)}: give [B, L], both 1 or more")
    low, high = int(sequences.min()), int(sequences.max())
    if low < 0 or high >= arch.vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is not in this model's vocabulary: allowed are 0 to {arch.vocab_size - 1}")
    return sequences
